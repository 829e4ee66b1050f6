//! Compose and Fig files as a whole: what becomes of their keys.

use std::collections::BTreeMap;

use flocker_api::{
    app::{App, Dependency, DependencyCondition, Placement},
    container::{HealthCheck, Link, LinkTarget, Probe, RestartPolicy},
};

use super::{super::Sources, files, lines};

fn sources(text: &str) -> Sources {
    Sources::new(files(&[("compose.yml", text)]))
}

fn placements(text: &str) -> Vec<Placement> {
    match super::super::parse(&sources(text)) {
        Ok(deployment) => deployment.apps,
        Err(errors) => panic!("{errors:#?}"),
    }
}

fn app_named(text: &str, name: &str) -> App {
    let mut found = placements(text).into_iter();
    let found = found.find(|placement| placement.app.name().as_str() == name);
    found.expect("it is declared").app
}

fn errors(text: &str) -> Vec<String> {
    lines(super::super::parse(&sources(text)))
}

const EVERYTHING: &str = r#"
version: "3.9"
x-base: &base
  restart: unless-stopped
  labels: {team: notes}
services:
  db:
    <<: *base
    image: postgres:15
    command: postgres -c "shared_buffers=64 MB"
    environment:
      POSTGRES_PASSWORD: "a$$b"
      MAX: 10
    expose: ["5432"]
    volumes:
      - data:/var/lib/postgresql/data
      - /cache
    healthcheck:
      test: ["CMD-SHELL", "pg_isready -U postgres"]
      interval: 5s
      timeout: 2s
      retries: 4
      start_period: 10s
    stop_signal: SIGINT
    stop_grace_period: 1m
    deploy: {resources: {limits: {cpus: "0.5", memory: 256M, pids: 100}}}
    x-flocker:
      node: n2
      replication: {nodes: [n1, n2], interval: 5s}
  web:
    image: nginx
    entrypoint: ["/start", "--fast"]
    environment: [MODE=fast, "URL=postgres://db:5432/?a=b"]
    ports:
      - "8080:80"
      - {target: 443, published: "8443", protocol: tcp}
      - "9000-9001:9000-9001/tcp"
    links: ["db:database"]
    depends_on:
      db: {condition: service_healthy}
    restart: on-failure:3
    x-flocker:
      routes: [{key: "http:shop.example.com", port: 80}]
volumes:
  data: {driver: flocker, driver_opts: {size: 1G}}
x-flocker:
  nodes: {n1: [web]}
"#;

#[test]
fn a_database_is_read() {
    let db = app_named(EVERYTHING, "db");
    let container = &db.container;
    assert_eq!(
        container.command.as_ref().unwrap(),
        &["postgres", "-c", "shared_buffers=64 MB"]
    );
    assert_eq!(container.environment["POSTGRES_PASSWORD"], "a$b");
    assert_eq!(container.environment["MAX"], "10");
    assert_eq!(container.ports, [5432]);
    assert!(db.routes.is_empty(), "it is for other apps alone");
    let mounts = container.volumes.iter();
    let mounts: Vec<_> = mounts
        .map(|mount| (mount.name.as_str(), mount.mountpoint.to_str().unwrap()))
        .collect();
    assert_eq!(
        mounts,
        [("data", "/var/lib/postgresql/data"), ("db-2", "/cache")]
    );
    assert!(
        container.volumes[0].volume.0.is_nil(),
        "the cluster knows it by its name"
    );
    assert_eq!(db.volume_sizes, [Some(1 << 30), None]);
    assert_eq!(container.restart, RestartPolicy::Always);
    assert_eq!(container.labels["team"], "notes");
    assert_eq!(
        (container.cpu_millis, container.pids_max),
        (Some(500), Some(100))
    );
    assert_eq!(container.memory_bytes, Some(256 << 20));
    assert_eq!(
        (container.stop.signal.as_str(), container.stop.grace_ms),
        ("SIGINT", 60_000)
    );
    let command = ["/bin/sh", "-c", "pg_isready -U postgres"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(
        container.health,
        Some(HealthCheck {
            command: command.clone(),
            interval_ms: 5_000,
            timeout_ms: 2_000,
            retries: 4,
            start_period_ms: 10_000
        })
    );
    let timeout_ms = 10_000 + 4 * 7_000;
    assert_eq!(
        container.ready,
        Some(Probe::Exec {
            command,
            timeout_ms
        })
    );
    assert_eq!(db.replication.unwrap().interval_ms, 5_000);
}

#[test]
fn a_web_app_is_read() {
    let web = app_named(EVERYTHING, "web");
    let routes: Vec<_> = web
        .routes
        .iter()
        .map(|route| format!("{} {}", route.key, route.port))
        .collect();
    assert_eq!(
        routes,
        [
            "tcp:8080 80",
            "tcp:8443 443",
            "tcp:9000 9000",
            "tcp:9001 9001",
            "http:shop.example.com 80"
        ]
    );
    let container = &web.container;
    assert_eq!(
        container.entrypoint.as_ref().unwrap(),
        &["/start", "--fast"]
    );
    assert_eq!(container.environment["URL"], "postgres://db:5432/?a=b");
    let link = |alias: &str| Link {
        alias: alias.to_owned(),
        local_port: 5432,
        remote_port: 5432,
        to: Some(LinkTarget {
            app: "db".parse().unwrap(),
            port: 5432,
        }),
    };
    assert_eq!(container.links, [link("database"), link("db")]);
    let dependency = Dependency {
        app: "db".parse().unwrap(),
        condition: DependencyCondition::Ready,
    };
    assert_eq!(web.depends_on, [dependency]);
    let retries_max = Some(3);
    assert_eq!(container.restart, RestartPolicy::OnFailure { retries_max });
}

#[test]
fn services_and_the_file_say_where() {
    let nodes: Vec<_> = placements(EVERYTHING)
        .iter()
        .map(|placement| {
            format!(
                "{} {}",
                placement.app.name(),
                placement.node.as_ref().unwrap()
            )
        })
        .collect();
    assert_eq!(nodes, ["web n1", "db n2"]);
    let nowhere = placements("services: {a: {image: i}}");
    assert_eq!(
        nowhere[0].node, None,
        "it is part of the deployment all the same"
    );
    let twice =
        errors("services: {a: {image: i, x-flocker: {node: n1}}}\nx-flocker: {nodes: {n2: [a]}}");
    assert!(
        twice[0].contains("the node of app a is declared twice"),
        "{twice:?}"
    );
}

#[test]
fn fig_files_are_read() {
    let text = "db:\n  image: postgres\n  ports: [\"15432:5432\"]\n  volumes: [/data]\n\
                web:\n  image: web\n  links: [\"db:data\"]\n  environment: {A: $HOME}\n";
    let web = app_named(text, "web");
    let link = &web.container.links[0];
    assert_eq!(
        (link.local_port, link.remote_port, &link.to),
        (5432, 15432, &None)
    );
    assert_eq!(
        web.container.environment["A"], "$HOME",
        "Fig had no variables"
    );
    let db = app_named(text, "db");
    assert_eq!(db.container.volumes[0].name.as_str(), "db");
    assert!(
        !db.container.volumes[0].volume.0.is_nil(),
        "as in application files"
    );
}

#[test]
fn kinds_are_mixed() {
    let mixed = files(&[
        (
            "a.yml",
            "version: 1\napplications:\n  old: {image: i, ports: [{internal: 1, external: 10}]}\n",
        ),
        ("b.yml", "services: {new: {image: i, depends_on: [old]}}\n"),
        ("c.yml", "fig: {image: i, links: [old]}\n"),
        ("d.yml", "version: 1\nnodes: {n1: [old, new, fig]}\n"),
    ]);
    let deployment = super::super::parse(&Sources::new(mixed)).unwrap();
    assert_eq!(deployment.apps.len(), 3);
    let fig = &deployment.apps[2].app;
    assert_eq!(fig.container.links[0].remote_port, 10);
}

#[test]
fn variables_have_values_or_an_error_with_its_place() {
    let text = "services:\n  a:\n    image: \"i:${TAG:-1}\"\n    cpus: ${CPUS}\n    command: run $$X ${NO}\n";
    let mut sources = sources(text);
    sources.variables = BTreeMap::from([("CPUS".to_owned(), "1.5".to_owned())]);
    let found = lines(super::super::parse(&sources));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("compose.yml:5:14: "), "{found:?}");
    assert!(found[0].contains("the variable NO is not set"), "{found:?}");
    sources.variables.insert("NO".to_owned(), "yes".to_owned());
    let app = super::super::parse(&sources).unwrap().apps.remove(0).app;
    assert_eq!(app.container.image, "i:1");
    assert_eq!(app.container.cpu_millis, Some(1500));
    assert_eq!(app.container.command.unwrap(), ["run", "$X", "yes"]);
}

#[test]
fn what_files_refer_to_is_gathered() {
    let text = "services:\n  a:\n    image: i:$TAG\n    env_file: ${ENV:-one}.env\n    \
                environment: [TAKEN, A=$B]\n";
    let asked = std::cell::RefCell::new(Vec::new());
    let gathered = super::super::gather(
        files(&[
            ("dir/compose.yml", text),
            ("d.yml", "version: 1\nnodes: {}\n"),
        ]),
        |name| {
            asked.borrow_mut().push(name.to_owned());
            Some(format!("value of {name}"))
        },
        |path| Some(format!("# {path}\nX=$FROM_FILE\n")),
    );
    let names: Vec<_> = gathered.variables.keys().map(String::as_str).collect();
    assert_eq!(names, ["B", "ENV", "FROM_FILE", "TAG", "TAKEN"]);
    let paths: Vec<_> = gathered
        .env_files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(paths, ["dir/value of ENV.env"]);
}

#[test]
fn environment_files_come_first_and_the_service_wins() {
    let text = "services:\n  a:\n    image: i\n    env_file: [one.env, two.env]\n    \
                environment: {C: 3, D: }\n";
    let mut sources = sources(text);
    sources.env_files = files(&[
        ("one.env", "A=1\nB=1\nC=1\nD=1\n"),
        ("two.env", "B=2\nC=2\n"),
    ]);
    let app = super::super::parse(&sources).unwrap().apps.remove(0).app;
    let environment: Vec<_> = app
        .container
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(
        environment,
        ["A=1", "B=2", "C=3"],
        "D is taken from outside, where it is not"
    );
    sources.env_files[1].text = "B='2\n".to_owned();
    let found = lines(super::super::parse(&sources));
    assert!(
        found[0].starts_with("two.env:1:1: B: its quote"),
        "{found:?}"
    );
}

#[test]
fn merging_takes_what_is_not_there() {
    let text = "x-a: &a {image: a, cpus: 1}\nx-b: &b {image: b, mem_limit: 64M}\n\
                services:\n  s: {<<: [*a, *b], cpus: 2}\n";
    let container = app_named(text, "s").container;
    assert_eq!(container.image, "a");
    assert_eq!(
        (container.cpu_millis, container.memory_bytes),
        (Some(2000), Some(64 << 20))
    );
    let found = errors("services: {s: {image: i, <<: 7}}");
    assert!(
        found[0].contains("<< must be a mapping, or a list of mappings"),
        "{found:?}"
    );
}

#[test]
fn what_apps_need_must_be_possible() {
    let one = |text: &str| {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        found[0].clone()
    };
    let circle = one("services: {a: {image: i, depends_on: [b]}, b: {image: i, depends_on: [a]}}");
    assert!(
        circle.contains("a, b wait for one another in a circle"),
        "{circle}"
    );
    let silent = one("services: {a: {image: i, links: [b]}, b: {image: i}}");
    assert!(silent.contains("app b listens at no port"), "{silent}");
    assert!(silent.contains("'expose'"), "{silent}");
    let volume = one(
        "volumes: {v: }\nservices: {a: {image: i, volumes: [\"v:/a\"]}, b: {image: i, volumes: [\"v:/b\"]}}",
    );
    assert!(volume.contains("volume v is declared twice"), "{volume}");
    let limits =
        one("services: {a: {image: i, cpus: 1, deploy: {resources: {limits: {cpus: '2'}}}}}");
    assert!(
        limits.contains("'cpus' of the service says otherwise"),
        "{limits}"
    );
    let random = one("services: {a: {image: i, ports: [\"80\"]}}");
    assert!(random.contains("\"8080:80\", or use 'expose'"), "{random}");
    let read_only = one("volumes: {v: }\nservices: {a: {image: i, volumes: [\"v:/a:ro\"]}}");
    assert!(read_only.contains("the mode 'ro'"), "{read_only}");
    let bare = one("services: {a: {image: i, entrypoint: ''}}");
    assert!(bare.contains("there must be a 'command'"), "{bare}");
}

#[test]
fn keys_of_others_are_left_to_them_and_slips_are_not() {
    assert_eq!(
        placements("x-mine: 1\nservices: {a: {image: i, x-theirs: {}}}").len(),
        1
    );
    let found = errors("services: {a: {image: i, x-floker: {node: n1}}}");
    assert!(found[0].contains("did you mean 'x-flocker'?"), "{found:?}");
}

proptest::proptest! {
    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(at in 0..1700usize, byte in 32..127u8) {
        let mut text = EVERYTHING.to_owned();
        let at = at % text.len();
        text.replace_range(at..=at, &char::from(byte).to_string());
        drop(super::super::parse(&sources(&text)));
    }
}
