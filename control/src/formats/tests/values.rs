//! One wrong value for each key, and the words that its error must have.

use super::bad;

/// The key's block, where the error is, words that it has.
const BAD: &[(&str, &str, &[&str])] = &[
    (
        "ports: 80",
        "5:12",
        &[
            "notes.ports must be a list of mappings {internal: PORT, external: PORT}, not an integer",
        ],
    ),
    ("ports: [80]", "5:13", &["ports[0] must be a mapping"]),
    (
        "ports: [{external: 80}]",
        "5:13",
        &["ports[0] lacks the key 'internal'"],
    ),
    (
        "ports: [{internal: 80}]",
        "5:13",
        &["ports[0] lacks the key 'external'"],
    ),
    (
        "ports: [{internal: 80, extrenal: 81}]",
        "5:28",
        &["unknown key 'extrenal'", "did you mean 'external'?"],
    ),
    (
        "ports: [{internal: 80, external: 0}]",
        "5:38",
        &["ports[0].external is '0'", "1 to 65535"],
    ),
    (
        "ports: [{internal: 70000, external: 1}]",
        "5:24",
        &["is '70000'", "1 to 65535"],
    ),
    (
        "ports: [{internal: \"80\", external: 1}]",
        "5:24",
        &["must be a port", "not a text"],
    ),
    (
        "ports: [{internal: 80, external: 1, extern: 2}]",
        "5:41",
        &[
            "unknown key 'extern' in applications.notes.ports[0] (did you mean 'external'?)",
            "allowed: internal, external",
        ],
    ),
    (
        "volume: /data",
        "5:13",
        &["notes.volume must be a mapping, not a text"],
    ),
    (
        "volume: {maximum_size: 1G}",
        "5:5",
        &["volume lacks the key 'mountpoint'", "absolute path"],
    ),
    (
        "volume: {mountpoint: 7}",
        "5:26",
        &["volume.mountpoint must be", "not an integer"],
    ),
    (
        "volume: {mountpoint: data}",
        "5:26",
        &["volume.mountpoint is 'data'", "absolute path"],
    ),
    ("volume: {mountpoint: /}", "5:26", &["is '/'"]),
    ("volume: {mountpoint: /a/../b}", "5:26", &["is '/a/../b'"]),
    ("volume: {mountpoint: /d\u{e4}ta}", "5:26", &["ASCII"]),
    (
        "volume: {mountpoint: /a, maximum_size: 1024}",
        "5:44",
        &["maximum_size must be a size", "not an integer"],
    ),
    (
        "volume: {mountpoint: /a, maximum_size: \"0G\"}",
        "5:44",
        &["maximum_size is '0G'", "above zero"],
    ),
    (
        "volume: {mountpoint: /a, maximum_size: 5MB}",
        "5:44",
        &["is '5MB'", "K, M, G, T"],
    ),
    (
        "volume: {mountpoint: /a, dataset_id: seven}",
        "5:42",
        &["volume.dataset_id: invalid"],
    ),
    (
        "volume: {mountpoint: /a, size: 1G}",
        "5:30",
        &[
            "unknown key 'size'",
            "allowed: mountpoint, maximum_size, dataset_id",
        ],
    ),
    (
        "volumes: {mountpoint: /a}",
        "5:14",
        &["volumes must be a list"],
    ),
    (
        "volumes: [{mountpoint: /a}, {mountpoint: /a/}]",
        "5:33",
        &["mountpoint /a is declared twice", "app.yml:5:15"],
    ),
    (
        "environment: [A=b]",
        "5:18",
        &["environment must be a mapping, not a list"],
    ),
    (
        "environment: {A: 1}",
        "5:22",
        &["environment.A must be a text (in quotes: \"1\"), not an integer"],
    ),
    (
        "environment: {A: }",
        "5:20",
        &["environment.A must be a text, not empty"],
    ),
    (
        "environment: {1: a}",
        "5:19",
        &["environment is '1'", "variable's name"],
    ),
    ("environment: {\"A=B\": a}", "5:19", &["is 'A=B'"]),
    (
        "environment: {FLOCKER_NODE: a}",
        "5:19",
        &["is 'FLOCKER_NODE'", "storage agent sets"],
    ),
    (
        "mem_limit: 100M",
        "5:16",
        &["mem_limit must be an integer of bytes", "not a text"],
    ),
    ("mem_limit: -1", "5:16", &["mem_limit is '-1'"]),
    ("mem_limit: 1000", "5:16", &["6 MiB"]),
    (
        "cpu_shares: 1.5",
        "5:17",
        &["cpu_shares must be an integer", "not a number"],
    ),
    ("cpu_shares: 1", "5:17", &["2 to 262144"]),
    (
        "restart_policy: always",
        "5:21",
        &["restart_policy must be a mapping, not a text"],
    ),
    (
        "restart_policy: {}",
        "5:5",
        &[
            "restart_policy lacks the key 'name'",
            "never, always, on-failure",
        ],
    ),
    (
        "restart_policy: {name: alway}",
        "5:28",
        &["name is 'alway'", "did you mean 'always'?"],
    ),
    (
        "restart_policy: {name: always, maximum_retry_count: 2}",
        "5:57",
        &["maximum_retry_count is '2'", "on-failure"],
    ),
    (
        "restart_policy: {name: on-failure, maximum_retry_count: 0}",
        "5:61",
        &["maximum_retry_count is '0'", "1 or more"],
    ),
    ("links: a", "5:12", &["links must be a list"]),
    (
        "imag: x",
        "5:5",
        &["unknown key 'imag' in applications.notes (did you mean 'image'?)"],
    ),
    (
        "x-flocker: []",
        "5:16",
        &["x-flocker must be a mapping, not a list"],
    ),
    (
        "x-flocker: {route: []}",
        "5:17",
        &["unknown key 'route'", "did you mean 'routes'?"],
    ),
    (
        "x-flocker: {routes: [{key: \"udp:1\", port: 1}]}",
        "5:32",
        &["routes[0].key: 'udp:1' is not a route key"],
    ),
    (
        "x-flocker: {routes: [{key: \"http:a..b\", port: 1}]}",
        "5:32",
        &["'http:a..b' is not a route key", "empty label"],
    ),
    (
        "x-flocker: {routes: [{key: \"tcp:1\"}]}",
        "5:26",
        &["routes[0] lacks the key 'port'"],
    ),
    (
        "x-flocker: {routes: [{key: \"tcp:1\", port: 1, on_move: drop}]}",
        "5:59",
        &["on_move is 'drop'", "one of close, wait"],
    ),
    (
        "x-flocker: {stop: {signal: TERM}}",
        "5:32",
        &["signal is 'TERM'", "SIGTERM"],
    ),
    (
        "x-flocker: {stop: {grace: 10}}",
        "5:31",
        &["grace is '10'", "with its unit"],
    ),
    (
        "x-flocker: {ready: {}}",
        "5:17",
        &["ready must be a mapping with one of the keys http, tcp, exec, not one with 0"],
    ),
    (
        "x-flocker: {ready: {tcp: {port: 1}, exec: {command: [a]}}}",
        "5:17",
        &["not one with 2"],
    ),
    (
        "x-flocker: {ready: {udp: {port: 1}}}",
        "5:25",
        &["unknown key 'udp'", "http, tcp, exec"],
    ),
    (
        "x-flocker: {ready: {http: {port: 1, path: healthz}}}",
        "5:47",
        &["path is 'healthz'", "begins with '/'"],
    ),
    (
        "x-flocker: {ready: {http: {path: /}}}",
        "5:25",
        &["http lacks the key 'port'"],
    ),
    (
        "x-flocker: {ready: {tcp: {port: 1, timeout: 0s}}}",
        "5:49",
        &["timeout is '0s'", "above zero"],
    ),
    (
        "x-flocker: {ready: {exec: {command: []}}}",
        "5:41",
        &["command must be a list", "an empty list"],
    ),
    (
        "x-flocker: {pre_stop: flush}",
        "5:27",
        &["pre_stop must be a list", "not a text"],
    ),
    (
        "x-flocker: {command: [1]}",
        "5:27",
        &["command[0] must be a text (in quotes: \"1\")"],
    ),
    (
        "x-flocker: {move: {rounds_max: 0}}",
        "5:36",
        &["rounds_max is '0'", "1 to 100"],
    ),
    (
        "x-flocker: {move: {hold: 2d}}",
        "5:30",
        &["hold is '2d'", "ms, s, m or h"],
    ),
    (
        "x-flocker: {move: {hold: 1s, quiesce: 1s}}",
        "5:17",
        &["quiesce is '1000ms'", "shorter than hold"],
    ),
    (
        "x-flocker: {move: {final_delta: 2s, final_delta_max: 1s}}",
        "5:17",
        &["final_delta_max is '1000ms'", "at least final_delta"],
    ),
    (
        "x-flocker: {move: {on_busy: wait}}",
        "5:33",
        &["on_busy is 'wait'", "abort, proceed"],
    ),
];

#[test]
fn a_bad_value_of_each_key_is_named_with_its_place() {
    for (keys, place, words) in BAD {
        let errors = bad(keys);
        assert_eq!(errors.len(), 1, "{keys}: {errors:#?}");
        assert!(
            errors[0].starts_with(&format!("app.yml:{place}: ")),
            "{keys}: expected {place}: {}",
            errors[0]
        );
        for word in *words {
            assert!(
                errors[0].contains(word),
                "{keys}: no '{word}' in {}",
                errors[0]
            );
        }
    }
}
