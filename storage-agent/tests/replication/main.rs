//! Replication between two nodes, each story on directories and on real ZFS.

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests fail as tests do, and are seen by their siblings only"
)]

mod bed;
mod continuous;
mod divergence;
mod equality;
mod faults;
mod fence;
mod link;
mod measure;
mod openzfs;
mod pools;
mod scale;
mod stories;
mod table;
mod tree;
mod verbs;
mod workload;

/// Makes of each story a test per storage.
macro_rules! stories {
    ($($part:ident: $($story:ident),* $(,)?;)*) => {
        mod directory {
            $($(#[test]
            fn $story() {
                crate::bed::on_directories(|bed| Box::pin(crate::$part::$story(bed)));
            })*)*
        }
        mod zfs {
            $($(#[test]
            fn $story() {
                crate::bed::on_zfs(
                    concat!("zfs::", stringify!($story)),
                    |bed| Box::pin(crate::$part::$story(bed)),
                );
            })*)*
        }
    };
}

stories! {
    continuous:
    a_policy_keeps_a_copy_current,
    a_policy_outlives_the_agent_and_ends_with_the_primary,
    a_target_that_comes_back_is_brought_to_the_newest_at_once,
    nothing_is_sent_while_nothing_changes;
    divergence:
    a_returning_primary_keeps_its_tail_aside_and_catches_up,
    writes_that_no_snapshot_has_are_kept_aside,
    a_touched_replica_heals_itself,
    a_replica_that_was_only_mounted_keeps_nothing_aside,
    whatever_ends_in_between_is_finished,
    what_is_kept_aside_outlives_its_volume,
    what_was_changed_is_told,
    what_is_kept_can_become_a_volume,
    an_unrelated_copy_is_put_aside_when_somebody_says_so;
    equality:
    replicas_equal_under_a_random_workload;
    openzfs:
    capabilities_are_found_by_trying,
    a_broken_stream_goes_on_where_it_ended,
    how_long_a_stream_will_be_is_known,
    a_token_that_is_of_no_use_is_thrown_away,
    what_zfs_encrypts_is_not_moved;
    table:
    a_killed_program_is_made_good,
    a_stopped_program_is_noticed_and_made_good,
    a_killed_daemon_is_made_good,
    a_snapshot_that_only_the_receiver_has_is_in_nobodys_way,
    a_snapshot_of_the_same_name_is_not_taken_for_ours,
    a_base_pruned_at_the_receiver_is_a_conflict_or_made_good,
    a_base_pruned_at_the_sender_is_a_conflict_or_made_good,
    two_senders_at_once_take_turns_or_are_refused,
    a_clock_that_was_ahead_does_no_harm;
    scale:
    much_of_everything_is_replicated;
    stories:
    a_move_there_and_back_with_every_file_rewritten,
    a_stream_cut_at_each_tenth_leaves_nothing_and_is_made_good,
    a_flipped_bit_in_each_tenth_is_found_and_made_good,
    a_cut_is_made_good_within_the_same_request,
    a_lost_acknowledgement_is_found_to_be_success,
    what_is_asked_during_a_receive_is_not_remembered,
    either_side_killed_in_the_middle_is_made_good,
    epochs_fence,
    verbs_can_be_repeated,
    old_snapshots_go_and_the_common_one_stays,
    a_dead_or_wrong_peer_is_named,
    noise_on_the_replication_port_harms_nobody,
    a_full_receiver_is_told_apart_and_nothing_is_left;
    fence:
    a_lapsed_lease_takes_the_volumes_away;
    verbs:
    operators_snapshots_stay_until_they_are_removed,
    a_limit_is_set_but_not_below_what_is_held,
    a_clone_is_a_volume_of_its_own,
    the_trash_outlives_the_agent_and_is_emptied_in_time,
    a_preview_says_what_a_rollback_would_lose,
    a_digest_finds_a_planted_difference,
    a_rollback_keeps_what_it_takes_and_replicas_follow,
    an_archive_is_the_volume_and_damage_is_found,
    a_restore_brings_what_a_copy_has,
    a_start_finishes_or_undoes_what_was_begun,
    a_start_sees_a_restore_through_or_undoes_it;
    link:
    a_transfer_keeps_to_its_rate_and_tells_it,
    a_sound_node_is_found_sound;
}
