//! Replication between two nodes, each story on directories and on real ZFS.

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests fail as tests do, and are seen by their siblings only"
)]

mod bed;
mod faults;
mod stories;

/// Makes of each story a test per storage.
macro_rules! stories {
    ($($story:ident),* $(,)?) => {
        mod directory {
            $(#[test]
            fn $story() {
                crate::bed::on_directories(|bed| Box::pin(crate::stories::$story(bed)));
            })*
        }
        mod zfs {
            $(#[test]
            fn $story() {
                crate::bed::on_zfs(
                    concat!("zfs::", stringify!($story)),
                    |bed| Box::pin(crate::stories::$story(bed)),
                );
            })*
        }
    };
}

stories![a_move_there_and_back_with_every_file_rewritten,];
