//! Every key with a good and a bad value; every error names file, line, key and what is right.

mod compose;
mod examples;
mod table;
mod values;

use flocker_api::{
    app::{App, Deployment, OnBusy},
    container::{Link, Probe, StopPolicy},
    control::SourceFile,
    replication::{Keep, Period},
    route::{OnMove, Route},
    upstream::SendProxy,
};

use super::{FormatError, Sources};

/// The app `notes` with these keys, each line of the block as it stands.
fn app_file(keys: &str) -> String {
    let mut text = "version: 1\napplications:\n  notes:\n".to_owned();
    for line in keys.lines() {
        text.push_str("    ");
        text.push_str(line);
        text.push('\n');
    }
    text
}

const NOTES_ON_N1: &str = "version: 1\nnodes: {n1: [notes]}\n";

fn files(texts: &[(&str, &str)]) -> Vec<SourceFile> {
    texts
        .iter()
        .map(|(name, text)| SourceFile {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
        })
        .collect()
}

fn parse(files: &[SourceFile]) -> Result<Deployment, Vec<FormatError>> {
    super::parse(&Sources::new(files.to_vec()))
}

fn pair(app: &str, deployment: &str) -> Result<Deployment, Vec<FormatError>> {
    parse(&files(&[("app.yml", app), ("dep.yml", deployment)]))
}

fn good(keys: &str) -> App {
    match pair(&app_file(keys), NOTES_ON_N1) {
        Ok(deployment) => deployment.apps[0].app.clone(),
        Err(errors) => panic!("{keys}: {errors:#?}"),
    }
}

fn lines(result: Result<Deployment, Vec<FormatError>>) -> Vec<String> {
    let errors = result.map_or_else(|errors| errors, |ok| panic!("it was taken: {ok:#?}"));
    errors.iter().map(ToString::to_string).collect()
}

/// Errors of `notes` with an image and these keys, which begin at line 5.
fn bad(keys: &str) -> Vec<String> {
    lines(pair(&app_file(&format!("image: i\n{keys}")), NOTES_ON_N1))
}

const EVERYTHING: &str = r#"image: "flocker/notes:1.2"
ports: [{internal: 8081, external: 8080}, {internal: 8081, external: 9090}]
volume: {mountpoint: "/data/", maximum_size: "256M"}
volumes:
  - mountpoint: /log
    dataset_id: 6f1c1dbb-9a5b-4a3e-8d5e-0f6d5d1b7a11
environment: {A: "1", B: two, EMPTY: ""}
mem_limit: 104857600
cpu_shares: 512
restart_policy: {name: always}
x-flocker:
  routes:
    - {key: "http:Notes.Demo", port: 8081}
    - {key: "tcp:9090", port: 8081, on_move: wait}
    - {key: "https:*.demo", port: 8443}
  command: [/bin/notes, --fast, ""]
  stop: {signal: SIGINT, grace: 1m30s}
  ready: {http: {port: 8081, path: /healthz, timeout: 5s}}
  pre_stop: [/bin/flush]
  move: {rounds_max: 7, final_delta: 200ms, final_delta_max: 2s, hold: 20s, quiesce: 3s, on_busy: proceed}
  replication: {nodes: [n1, n2], interval: 10s, keep: 5, grid: [{every: 1h, count: 24}]}"#;

#[test]
fn the_container_is_read() {
    let app = good(EVERYTHING);
    let container = &app.container;
    assert_eq!(container.image, "flocker/notes:1.2");
    assert_eq!(container.ports, [8081, 8443]);
    let mounts: Vec<String> = container
        .volumes
        .iter()
        .map(|mount| format!("{} {}", mount.name, mount.mountpoint.display()))
        .collect();
    assert_eq!(mounts, ["notes /data", "notes-2 /log"]);
    assert_eq!(
        container.volumes[1].volume.to_string(),
        "6f1c1dbb-9a5b-4a3e-8d5e-0f6d5d1b7a11"
    );
    assert_eq!(app.volume_sizes, [Some(256 << 20), None]);
    assert_eq!(container.environment.len(), 3);
    assert_eq!(container.environment["EMPTY"], "");
    assert_eq!(container.memory_bytes, Some(104_857_600));
    assert_eq!(container.cpu_shares, Some(512));
    assert_eq!(
        container.stop,
        StopPolicy {
            signal: "SIGINT".to_owned(),
            grace_ms: 90_000
        }
    );
    assert_eq!(
        container.ready,
        Some(Probe::Http {
            port: 8081,
            path: "/healthz".to_owned(),
            timeout_ms: 5_000
        })
    );
    assert_eq!(container.command.as_ref().unwrap().len(), 3);
    assert_eq!(container.pre_stop.as_ref().unwrap(), &["/bin/flush"]);
}

#[test]
fn a_route_takes_every_option_that_an_edge_has() {
    let app = good(
        r#"image: i
x-flocker:
  routes:
    - key: https:a.b
      port: 8443
      tls: {terminate: {min_version: "1.3"}}
      health: {kind: http, path: /ready, interval_ms: 500}
      balance: least_connections
      allow: [10.0.0.0/8]
      body_bytes_max: 0x10
      send_proxy: null"#,
    );
    let [route] = &app.routes[..] else {
        panic!("{:?}", app.routes)
    };
    let upstream: std::net::SocketAddr = "10.0.0.1:8443".parse().unwrap();
    let mut found = Route::new(route.key.clone(), [upstream]);
    found.send_proxy = Some(SendProxy::V2);
    found.slow_start_ms = 5;
    let found = route.options.apply(found);
    assert!(!found.tls.is_passthrough());
    assert_eq!(found.health.as_ref().unwrap().interval_ms, 500);
    assert_eq!((found.body_bytes_max, found.slow_start_ms), (Some(16), 5));
    assert_eq!(found.send_proxy, None);
}

#[test]
fn a_bad_option_of_a_route_is_named_with_its_place() {
    let errors = bad(r#"x-flocker:
  routes:
    - {key: "tcp:1", port: 1,
       balanse: source}
    - {key: "tcp:2", port: 2,
       health: {kind: tcp, path: /}}
    - {key: "tcp:3", port: 3,
       error_pages: plain}"#);
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(
        errors[0].starts_with("app.yml:8:") && errors[0].contains("did you mean 'balance'"),
        "{errors:#?}"
    );
    assert!(
        errors[1].starts_with("app.yml:10:") && errors[1].contains("health of a route"),
        "{errors:#?}"
    );
    assert!(
        errors[2].starts_with("app.yml:12:")
            && errors[2].contains("error_pages is for routes of HTTP"),
        "{errors:#?}"
    );
}

#[test]
fn routes_and_move_policy_are_read() {
    let app = good(EVERYTHING);
    let routes: Vec<String> = app
        .routes
        .iter()
        .map(|route| format!("{} {} {:?}", route.key, route.port, route.on_move))
        .collect();
    assert_eq!(
        routes,
        [
            "tcp:8080 8081 Close",
            "tcp:9090 8081 Wait",
            "http:notes.demo 8081 Close",
            "https:*.demo 8443 Close"
        ]
    );
    let policy = &app.move_policy;
    assert_eq!((policy.rounds_max, policy.final_delta_ms), (7, 200));
    assert_eq!((policy.final_delta_ms_max, policy.hold_ms), (2_000, 20_000));
    assert_eq!(
        (policy.quiesce_ms, policy.on_busy),
        (3_000, OnBusy::Proceed)
    );
}

#[test]
fn the_replication_policy_is_read() {
    let policy = good(EVERYTHING).replication.unwrap();
    let nodes: Vec<_> = policy.nodes.iter().map(ToString::to_string).collect();
    assert_eq!(
        (nodes, policy.interval_ms),
        (vec!["n1".to_owned(), "n2".to_owned()], 10_000)
    );
    let hours = Period {
        every_ms: 3_600_000,
        count: 24,
    };
    assert_eq!((policy.keep.last, &policy.keep.grid[..]), (5, &[hours][..]));
    let short = good("image: i\nx-flocker: {replication: {nodes: [n2], interval: 1s}}");
    assert_eq!(short.replication.unwrap().keep, Keep::default());
    assert_eq!(good("image: i").replication, None);
}

#[test]
fn volume_ids_follow_from_the_files() {
    let ids = |keys: &str| {
        let mounts = good(keys).container.volumes;
        mounts
            .iter()
            .map(|mount| mount.volume.to_string())
            .collect::<Vec<_>>()
    };
    let two = ids("image: i\nvolume: {mountpoint: /a}\nvolumes: [{mountpoint: /b}]");
    // Written down here because a change would orphan every volume that is in use.
    assert_eq!(
        two,
        [
            "24d407f7-6186-511d-bb04-511006dd877f",
            "60d88aaf-e7de-5103-8f8a-8adc02c3bcd1"
        ]
    );
    assert_eq!(ids("image: other\nvolume: {mountpoint: /c}")[0], two[0]);
}

#[test]
fn good_values_of_each_key() {
    for keys in [
        "image: postgres",
        "image: postgres:15.10",
        "image: registry.example.com:5000/team/app_x:v1-2.3",
        "image: i\nports: []",
        "image: i\nports: [{internal: 1, external: 65535}]",
        "image: i\nlinks: []",
        "image: i\nvolume: {mountpoint: '/a b'}",
        "image: i\nvolume: {mountpoint: /a, maximum_size: 1.5g}",
        "image: i\nvolume: {mountpoint: /a, maximum_size: \"1048576\"}",
        "image: i\nenvironment: {}",
        "image: i\nmem_limit: 6291456",
        "image: i\ncpu_shares: 2",
        "image: i\nrestart_policy: {name: never}",
        "image: i\nx-flocker: {}",
        "image: i\nx-flocker: {ready: {tcp: {port: 5433}}}",
        "image: i\nx-flocker: {ready: {exec: {command: [pg_isready], timeout: 1m}}}",
        "image: i\nx-flocker: {stop: {grace: 0s}}",
        "image: i\nx-flocker: {move: {quiesce: 0ms}}",
        "image: i\nx-flocker: {move: {final_delta: 30s}}",
    ] {
        good(keys);
    }
    let raised = good("image: i\nx-flocker: {move: {final_delta: 30s}}").move_policy;
    assert_eq!(raised.final_delta_ms_max, 30_000);
}

#[test]
fn links_are_read() {
    let app = good(
        "image: i\nlinks:\n- {local_port: 5432, remote_port: 15432, alias: db}\n\
         - {local_port: 1, remote_port: 2, alias: DB}",
    );
    assert_eq!(
        app.container.links[0],
        Link {
            alias: "db".to_owned(),
            local_port: 5432,
            remote_port: 15432,
            to: None
        }
    );
    let errors = bad(
        "links:\n- {local_port: x, remote_port: 2, alias: a-b}\n- {local_port: 1, alias: db}\n\
         - {local_port: 1, remote_port: 2, alias: db}\n\
         - {local_port: 1, remote_port: 2, alias: DB, x: 1}",
    );
    let has = |word: &str| {
        let found = errors.iter().any(|error| error.contains(word));
        assert!(found, "{word}: {errors:#?}");
    };
    has("links[0].local_port must be a port");
    has("links[0].alias is 'a-b'");
    has("links[1] lacks the key 'remote_port'");
    has("link alias DB with its local port is declared twice");
    has("unknown key 'x' in applications.notes.links[3]");
    assert_eq!(errors.len(), 6, "{errors:#?}");
}

#[test]
fn bad_images() {
    for image in ["UPPER CASE", "a:", ":tag", "a//b", "a:b:c", "-a", "a:t g"] {
        let errors = lines(pair(&app_file(&format!("image: '{image}'")), NOTES_ON_N1));
        assert!(
            errors[0].contains("repository[:tag]"),
            "{image}: {errors:?}"
        );
    }
    let errors = lines(pair(&app_file("image: 15"), NOTES_ON_N1));
    assert!(errors[0].starts_with("app.yml:4:12: applications.notes.image must be"));
    let errors = lines(pair(&app_file("mem_limit: 104857600"), NOTES_ON_N1));
    assert!(errors[0].starts_with("app.yml:3:3: applications.notes lacks the key 'image'"));
}

#[test]
fn all_errors_are_found_at_once_in_order() {
    let errors = lines(pair(
        "version: 2\napplications:\n  A: {image: i}\n  b: {image: 1, ports: x, volum: {}}\nextra: 1\n",
        "version: 1\nnodes:\n  N: [b]\n  n2: [c]\n  n3: b\n",
    ));
    let places: Vec<&str> = errors
        .iter()
        .map(|e| e.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "app.yml:1:10",
            "app.yml:3:3",
            "app.yml:4:14",
            "app.yml:4:24",
            "app.yml:4:27",
            "app.yml:5:1",
            "dep.yml:3:3",
            "dep.yml:4:8",
            "dep.yml:5:7",
        ],
        "{errors:#?}"
    );
}

#[test]
fn versions() {
    for (version, word) in [
        ("", "the application file lacks the key 'version'"),
        ("version: 2\n", "version is '2', but must be the integer 1"),
        ("version: \"1\"\n", "version must be the integer 1"),
    ] {
        let errors = lines(pair(
            &format!("{version}applications: {{}}\n"),
            "version: 1\nnodes: {}\n",
        ));
        assert!(errors[0].contains(word), "{errors:?}");
    }
    let errors = lines(pair("version: 1\napplications: {}\n", "nodes: {}\n"));
    assert_eq!(
        errors,
        ["dep.yml:1:1: the deployment file lacks the key 'version': the integer 1"]
    );
}

#[test]
fn deployments() {
    let apps = "version: 1\napplications:\n  notes: {image: i}\n  db: {image: i}\n";
    for (nodes, expected) in [
        (
            "{n1: notes}",
            "nodes.n1 must be a list of app names ([] for none), not a text",
        ),
        (
            "{n1: }",
            "nodes.n1 must be a list of app names ([] for none), not empty",
        ),
        ("[n1]", "nodes must be a mapping, not a list"),
        (
            "{n1: [note]}",
            "nodes.n1[0] names the app 'note', which no file declares (did you mean 'notes'?); declared: notes, db",
        ),
        (
            "{n1: [notes, notes]}",
            "the node of app notes is declared twice; the first is at dep.yml:2:14",
        ),
        (
            "{n1: [notes], n2: [notes]}",
            "the node of app notes is declared twice",
        ),
        (
            "{n1: [7]}",
            "nodes.n1[0] must be an app's name (in quotes: \"7\"), not an integer",
        ),
        ("{n_$: []}", "'n_$' is not a valid node name"),
    ] {
        let errors = lines(pair(apps, &format!("version: 1\nnodes: {nodes}\n")));
        assert_eq!(errors.len(), 1, "{nodes}: {errors:#?}");
        assert!(errors[0].contains(expected), "{nodes}: {errors:#?}");
        assert!(errors[0].starts_with("dep.yml:2:"), "{nodes}: {errors:#?}");
    }
    let deployment = pair(apps, "version: 1\nnodes: {n1: [db], n2: []}\n").unwrap();
    assert_eq!(
        deployment.apps.len(),
        1,
        "notes is declared, but placed nowhere"
    );
    assert_eq!(deployment.apps[0].node.as_ref().unwrap().as_str(), "n1");
}

#[test]
fn what_must_be_one_of_a_kind_is() {
    let two = |a: &str, b: &str| {
        lines(pair(
            &format!("version: 1\napplications:\n  a: {{image: i, {a}}}\n  b: {{image: i, {b}}}\n"),
            "version: 1\nnodes: {n1: [a, b]}\n",
        ))
    };
    assert_eq!(
        two(
            "ports: [{internal: 1, external: 80}]",
            "ports: [{internal: 2, external: 80}]"
        ),
        ["app.yml:4:25: route tcp:80 is declared twice; the first is at app.yml:3:25"]
    );
    let errors = two(
        "x-flocker: {routes: [{key: \"http:A.demo\", port: 1}]}",
        "x-flocker: {routes: [{key: \"http:a.demo.\", port: 2}]}",
    );
    assert!(
        errors[0].contains("route http:a.demo is declared twice"),
        "{errors:?}"
    );
    let id = "dataset_id: 6f1c1dbb-9a5b-4a3e-8d5e-0f6d5d1b7a11";
    let volume = format!("volume: {{mountpoint: /a, {id}}}");
    assert!(two(&volume, &volume)[0].contains("dataset_id 6f1c1dbb"));
    assert_eq!(
        two(
            "ports: [{internal: 9, external: 80}]",
            "ports: [{internal: 9, external: 81}]"
        ),
        [
            "app.yml:4:3: app b listens at port 9, as does app a (app.yml:3:3); both shall run on node n1"
        ]
    );
    let same_key_other_port = bad(
        "ports: [{internal: 1, external: 80}]\nx-flocker: {routes: [{key: \"tcp:80\", port: 2}]}",
    );
    assert!(same_key_other_port[0].contains("route tcp:80 is declared twice"));
    assert_eq!(
        lines(pair(
            "version: 1\napplications:\n  a: {image: i, volumes: [{mountpoint: /a}, {mountpoint: /b}]}\n  a-2: {image: i, volume: {mountpoint: /a}}\n",
            "version: 1\nnodes: {}\n"
        )),
        ["app.yml:4:19: volume a-2 is declared twice; the first is at app.yml:3:45"]
    );
}

#[test]
fn several_files_of_a_kind_are_joined() {
    let a = "version: 1\napplications: {a: {image: i}}\n";
    let b = "version: 1\napplications: {b: {image: i}}\n";
    let deployment = "version: 1\nnodes: {n1: [a], n2: [b]}\n";
    let joined = parse(&files(&[
        ("dep.yml", deployment),
        ("a.yml", a),
        ("b.yml", b),
    ]))
    .unwrap();
    assert_eq!(joined.apps.len(), 2);
    assert_eq!(
        lines(parse(&files(&[
            ("a.yml", a),
            ("a2.yml", a),
            ("dep.yml", "version: 1\nnodes: {n1: [a]}\n")
        ]))),
        ["a2.yml:2:16: app a is declared twice; the first is at a.yml:2:16"]
    );
}

#[test]
fn kinds_of_files() {
    let one = |text: &str| lines(parse(&files(&[("x.yml", text)])));
    for (text, word) in [
        (
            "version: 1\naplications: {}\n",
            "it has the key 'aplications', which is none of these",
        ),
        ("- a\n", "it is a list"),
        ("nodes: {}\napplications: {}\n", "make two files of it"),
        ("services: {}\nnodes: {}\n", "make two files of it"),
        ("a: 1\nb: 2\n", "its keys are a, b"),
    ] {
        let errors = one(text);
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(errors[0].contains(word), "{text}: {errors:?}");
    }
    assert_eq!(
        one("version: 1\napplications: {}\n"),
        ["the files: no deployment file is given: one of the files must have the key 'nodes'"]
    );
    assert_eq!(lines(parse(&[])).len(), 2);
}

#[test]
fn ports_of_ports_do_not_refine_to_another_policy_by_themselves() {
    let app = good("image: i\nports: [{internal: 1, external: 80}]");
    assert_eq!(app.routes[0].on_move, OnMove::Close);
}

#[test]
fn the_samples_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/examples");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let deployment = pair(&read("application.yml"), &read("deployment.yml"))
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    let placed: Vec<String> = deployment
        .apps
        .iter()
        .map(|placement| {
            format!(
                "{} {}",
                placement.app.name(),
                placement.node.as_ref().unwrap()
            )
        })
        .collect();
    assert_eq!(placed, ["notes n1", "postgres n2"]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z0-9:{}\\[\\], \n&*!'\"|>~-]{0,200}") {
        drop(parse(&files(&[("x.yml", &text), ("y.yml", NOTES_ON_N1)])));
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(at in 0..400usize, byte in 32..127u8) {
        let mut text = app_file("image: i\nports: [{internal: 1, external: 80}]\nvolume: {mountpoint: /a, maximum_size: 1G}\nx-flocker: {routes: [{key: \"http:a\", port: 1}], ready: {tcp: {port: 1}}}");
        let at = at % text.len();
        text.replace_range(at..=at, &char::from(byte).to_string());
        drop(pair(&text, NOTES_ON_N1));
    }
}
