//! The classes of faults that have cost other proxies a CVE or an outage, each with the tests
//! that keep it out of this one. The list is checked: a test that is renamed or lost is missed.

use std::{fs, path::Path};

/// A class, and its tests: a file below `proxy/` and a function in it.
const CLASSES: &[(&str, &[(&str, &str)])] = &[
    (
        "CL.TE, TE.CL, two Content-Lengths",
        &[(
            "tests/blackbox/refused.rs",
            "no_refused_request_reaches_the_upstream",
        )],
    ),
    (
        "numbers: signs, overflow, empty lengths, chunk sizes",
        &[(
            "tests/blackbox/refused.rs",
            "no_refused_body_reaches_the_upstream_as_a_whole",
        )],
    ),
    (
        "empty and odd field names",
        &[(
            "tests/blackbox/refused.rs",
            "no_refused_request_reaches_the_upstream",
        )],
    ),
    (
        "a tunnel before its 101 or 2xx; early bytes",
        &[
            (
                "tests/blackbox/http.rs",
                "an_upgrade_is_a_tunnel_only_after_101",
            ),
            (
                "tests/blackbox/http.rs",
                "an_upgrade_that_is_refused_stays_http",
            ),
            (
                "tests/blackbox/rules.rs",
                "connect_is_a_tunnel_where_the_route_allows_it",
            ),
            (
                "tests/blackbox/h2/again.rs",
                "a_connect_is_a_connect_upstream",
            ),
        ],
    ),
    (
        "a body left unread before the connection is used again",
        &[
            (
                "tests/blackbox/http.rs",
                "an_early_answer_reaches_the_client",
            ),
            (
                "tests/blackbox/http.rs",
                "bytes_after_an_answer_do_not_reach_the_next_client",
            ),
            (
                "tests/blackbox/refused.rs",
                "a_refused_request_behind_a_good_one_does_not_spoil_it",
            ),
        ],
    ),
    (
        "HTTP/1.0 with Transfer-Encoding, requests that end by close",
        &[
            (
                "tests/blackbox/refused.rs",
                "no_refused_request_reaches_the_upstream",
            ),
            ("tests/blackbox/http.rs", "clients_of_http_1_0_are_served"),
        ],
    ),
    (
        "fragments and absolute URIs against Host; paths of two readings",
        &[
            (
                "tests/blackbox/refused.rs",
                "no_refused_request_reaches_the_upstream",
            ),
            (
                "tests/blackbox/paths.rs",
                "a_path_of_two_readings_is_refused_where_paths_decide_and_passes_where_they_do_not",
            ),
        ],
    ),
    (
        "Connection names fields that are trusted",
        &[
            (
                "tests/blackbox/rules.rs",
                "a_trusted_edge_in_front_is_believed_and_added_to",
            ),
            (
                "tests/blackbox/terminated.rs",
                "client_certificates_are_asked_for_verified_and_told_to_the_upstream",
            ),
        ],
    ),
    (
        "chunk extensions, bare LF, trailers",
        &[
            (
                "tests/blackbox/refused.rs",
                "no_refused_body_reaches_the_upstream_as_a_whole",
            ),
            (
                "tests/blackbox/http.rs",
                "a_malformed_chunk_of_a_response_is_not_passed_on",
            ),
            ("tests/blackbox/h2/streams.rs", "trailers_pass_both_ways"),
        ],
    ),
    (
        "HTTP/2: Rapid Reset, CONTINUATION, MadeYouReset, floods of frames",
        &[(
            "tests/blackbox/h2/floods.rs",
            "each_flood_is_told_to_calm_down",
        )],
    ),
    (
        "HTTP/2: heads that unpack to too much",
        &[(
            "tests/blackbox/h2/floods.rs",
            "a_head_that_unpacks_to_too_much_is_refused",
        )],
    ),
    (
        "HTTP/2: what HTTP/1.1 would read otherwise",
        &[(
            "tests/blackbox/h2/floods.rs",
            "what_could_be_read_in_two_ways_reaches_no_upstream",
        )],
    ),
    (
        "HTTP/2: windows that parked requests fill",
        &[(
            "tests/blackbox/h2/again.rs",
            "uploads_that_are_parked_or_stuck_leave_other_streams_their_window",
        )],
    ),
    (
        "SNI: hellos in pieces, undecided ones, no default",
        &[
            (
                "tests/blackbox/tls.rs",
                "hellos_pass_in_any_segments_and_records",
            ),
            (
                "tests/blackbox/tls.rs",
                "what_is_undecided_or_unknown_is_closed_and_goes_nowhere",
            ),
            (
                "tests/blackbox/terminated.rs",
                "who_does_not_speak_tls_or_asks_for_nobody_is_told",
            ),
        ],
    ),
    (
        "SNI: wildcards, 421, resumption elsewhere",
        &[
            (
                "tests/blackbox/tls.rs",
                "a_wildcard_takes_names_of_one_label_more",
            ),
            (
                "tests/blackbox/terminated.rs",
                "a_host_of_another_route_is_misdirected_even_with_a_certificate_for_both",
            ),
            (
                "tests/blackbox/terminated.rs",
                "a_client_resumes_at_the_next_edge_and_never_at_another_host_or_under_other_terms",
            ),
            (
                "tests/blackbox/authorities.rs",
                "a_revoked_client_is_refused_at_once_and_does_not_resume",
            ),
        ],
    ),
    (
        "PROXY headers: lengths, and from whom",
        &[
            (
                "tests/blackbox/proxied.rs",
                "without_a_proper_header_a_trusted_proxy_is_closed",
            ),
            (
                "tests/blackbox/proxied.rs",
                "from_elsewhere_a_header_is_no_more_than_nonsense",
            ),
        ],
    ),
    (
        "slowloris: heads, bodies, handshakes, parked clients",
        &[
            (
                "tests/blackbox/http.rs",
                "a_head_that_trickles_is_ended_in_time",
            ),
            ("tests/blackbox/limits.rs", "a_body_in_drips_is_a_408"),
            (
                "tests/blackbox/limits.rs",
                "a_request_has_to_be_whole_in_time",
            ),
            (
                "tests/blackbox/limits.rs",
                "a_client_that_takes_nothing_of_its_answer_is_left",
            ),
            (
                "tests/blackbox/terminated.rs",
                "a_handshake_that_does_not_go_on_is_ended",
            ),
            (
                "tests/blackbox/gates.rs",
                "past_a_limit_clients_are_refused_at_once_and_the_parked_stay",
            ),
            (
                "tests/blackbox/guard.rs",
                "a_client_has_so_many_connections_and_the_parked_count",
            ),
        ],
    ),
    (
        "the end of one side while the other still has bytes",
        &[
            (
                "tests/blackbox/relay.rs",
                "a_reset_behind_a_full_pipe_does_not_hide_that_bytes_are_missing",
            ),
            (
                "tests/blackbox/relay.rs",
                "a_half_closed_session_goes_on_in_the_other_direction",
            ),
            (
                "tests/blackbox/relay.rs",
                "last_words_are_heard_by_a_client_that_is_still_sending",
            ),
            ("tests/blackbox/http.rs", "slow_readers_do_not_fill_memory"),
        ],
    ),
    (
        "a stale connection of the pool",
        &[
            (
                "tests/blackbox/http.rs",
                "an_idempotent_request_is_sent_again_when_its_kept_connection_was_stale",
            ),
            ("tests/blackbox/http.rs", "a_post_is_not_sent_again"),
            (
                "tests/blackbox/h2/again.rs",
                "a_goaway_before_a_stream_sends_its_body_elsewhere_and_one_after_it_does_not",
            ),
        ],
    ),
];

#[test]
fn every_class_of_faults_has_its_tests() {
    let proxy = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (class, tests) in CLASSES {
        assert!(!tests.is_empty(), "{class}");
        for (file, name) in *tests {
            let text = fs::read_to_string(proxy.join(file)).unwrap();
            let test = format!("#[test]\nfn {name}() {{");
            assert!(text.contains(&test), "{class}: {file} has no test {name}");
        }
    }
}
