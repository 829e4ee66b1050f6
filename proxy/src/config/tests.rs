//! What a file may say, and what it may not.

use std::io::Write;

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::load(file.path()).map_err(|error| flocker_api::error::chain(&error))
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proxy.toml")
}

#[test]
fn the_sample_is_valid_and_shows_the_defaults() {
    let config = Config::load(&sample()).unwrap();
    assert_eq!(config.routes.len(), 1);
    let short = parse("name = 'n1-a'").unwrap();
    assert_eq!(
        format!("{:?}", config.worker_limits()),
        format!("{:?}", short.worker_limits())
    );
    assert_eq!(config.drain, short.drain);
    assert_eq!(config.admin_socket, short.admin_socket);
    assert_eq!(config.access, short.access);
}

#[test]
fn the_sample_names_every_limit() {
    let text = std::fs::read_to_string(sample()).unwrap();
    let debug = format!("{:?}", LimitsFile::default());
    let inner = debug
        .trim_start_matches("LimitsFile { ")
        .trim_end_matches(" }");
    for field in inner.split(", ") {
        let key = field.split(':').next().unwrap();
        assert!(text.contains(&format!("\n{key} = ")), "{key} is missing");
    }
}

#[test]
fn what_two_files_have_otherwise_is_said_key_by_key() {
    let before = parse("name = 'e'\n[limits]\nsessions = 5\nlinger_ms = 7").unwrap();
    let after = parse("name = 'e'\nworkers = 3\n[limits]\nsessions = 6").unwrap();
    let lines: Vec<String> = before
        .changed_keys(&after)
        .into_iter()
        .map(|(_, line)| line)
        .collect();
    assert_eq!(
        lines,
        [
            "limits.linger_ms: 7 becomes its default",
            "limits.sessions: 5 becomes 6",
            "workers: its default becomes 3",
        ]
    );
    assert!(after.changed_keys(&after).is_empty());
}

#[test]
fn certificates_have_the_names_of_their_files_or_their_own() {
    let config = parse(
        "name = 'e'\n[tls]\ncertificates = [{certificate = '/x/Www.pem', key = '/x/k'}, \
         {name = 'b', certificate = '/x/y z.pem', key = '/x/k'}]",
    );
    let config = config.unwrap().tls.certificates;
    let names = config.iter().map(|(name, ..)| name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["www", "b"]);
}

#[test]
fn what_cannot_be_is_refused_by_key() {
    for (text, expected) in [
        ("name = 'N'", "not a valid edge name"),
        ("name = 'e'\ncolour = 1", "colour"),
        ("name = 'e'\nworkers = 5000", "workers is 5000"),
        ("name = 'e'\n[limits]\nheaders = 129", "limits.headers"),
        ("name = 'e'\n[log]\naccess_sample = 0", "log.access_sample"),
        ("name = 'e'\n[log]\naccess_file = 'a'", "log.access_file"),
        ("name = 'e'\n[log]\naccess = 'xml'", "access"),
        ("name = 'e'\n[limits]\nhead_bytes = 1", "limits.head_bytes"),
        ("name = 'e'\n[limits]\nsessions = 0", "limits.sessions"),
        (
            "name = 'e'\n[limits]\ntcp_idle_ms = 9000000000000",
            "limits.tcp_idle_ms",
        ),
        ("name = 'e'\n[limits]\nh2_streams = 0", "limits.h2_streams"),
        (
            "name = 'e'\n[limits]\nh2_stream_window_bytes = 1",
            "limits.h2_stream_window_bytes",
        ),
        (
            "name = 'e'\n[tls]\ncertificates = [{certificate = '/y z.pem', key = '/k'}]",
            "/y z.pem",
        ),
        (
            "name = 'e'\n[tls]\nticket_lifetime_ms = 604800001",
            "tls.ticket_lifetime_ms",
        ),
        ("name = 'e'\n[admin]\nsocket = 'x'", "absolute path"),
        ("name = 'e'\n[http]\ntrusted = ['10.0.0.1/8']", "10.0.0.1/8"),
        ("name = 'e'\n[http]\nforwarded = 'no'", "forwarded"),
        ("name = 'e'\n[error_pages.x]\n200 = '/x.html'", "200"),
        ("name = 'e'\n[error_pages.x]\n503 = '/x.php'", ".html"),
        ("name = 'e'\n[error_pages.x]\n503 = 'x.html'", "absolute"),
        (
            "name = 'e'\n[error_pages.x]\n503 = '/none/x.html'",
            "No such",
        ),
        ("name = 'e'\n[listen]\nhttp = ['x']", "http"),
        (
            "name = 'e'\n[[route]]\nkey = 'udp:1'\nupstreams = []",
            "udp:1",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

fn guide() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/edge.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_example_of_the_guide_is_right() {
    let guide = guide();
    let examples: Vec<&str> = guide
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(examples.len() >= 8, "{}", examples.len());
    for example in examples {
        let text = match example.starts_with("name = ") {
            true => example.to_owned(),
            false => format!("name = 'e'\n{example}"),
        };
        let config = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for route in config.routes {
            assert_eq!(route.misfit(), None, "{text}");
        }
    }
}

#[test]
fn the_guide_has_every_limit_with_its_default() {
    let guide = guide();
    let debug = format!("{:?}", LimitsFile::default());
    let fields = debug
        .trim_start_matches("LimitsFile { ")
        .trim_end_matches(" }");
    let rows: Vec<&str> = guide
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    for field in fields.split(", ") {
        let (key, value) = field.split_once(": ").unwrap();
        let begins = format!("| `{key}` | {value} | ");
        let found = rows.iter().filter(|row| row.starts_with(&begins)).count();
        assert_eq!(found, 1, "{begins}");
    }
    assert_eq!(rows.len(), fields.split(", ").count());
}
