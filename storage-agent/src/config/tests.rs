//! Good files, bad files, and the sample.

use std::io::Write;

use super::*;

const GOOD: &str = r#"
    node = "n1"
    address = "10.77.1.1"
    api = { listen = "10.77.1.1:7410" }
    replication = { listen = "10.77.1.1:7411" }
    storage = { kind = "zfs", pool = "tank" }
    runtime = { kind = "docker" }
"#;

fn load(text: &str) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::load(file.path()).map_err(|error| flocker_api::error::chain(&error))
}

#[test]
fn the_sample_is_a_configuration_with_the_defaults() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/storage-agent.toml");
    let config = Config::load(&sample).unwrap();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.limits.transfer(), TransferLimits::default());
    assert_eq!(config.limits.pace(), Pace::default());
    let name = "notes".parse().unwrap();
    assert_eq!(
        config.mount_path(&name),
        Path::new("/var/lib/flocker/volumes/notes")
    );
}

#[test]
fn the_sample_tells_the_true_default_of_every_limit() {
    let sample = include_str!("../../../config/storage-agent.toml");
    let (head, limits) = sample.split_once("[limits]").unwrap();
    let told = |line: &&str| line.starts_with("# ") && line.contains(" = ");
    let lines: Vec<&str> = limits.lines().filter(told).map(|line| &line[2..]).collect();
    let config = load(&format!("{head}[limits]\n{}", lines.join("\n"))).unwrap();
    assert_eq!(config.limits, Limits::default());
    let fields = format!("{:?}", config.limits).matches(": ").count();
    assert_eq!(lines.len(), fields, "a limit is not in the sample");
}

#[test]
fn what_is_not_given_has_its_default() {
    let config = load(GOOD).unwrap();
    assert_eq!(
        config.runtime,
        RuntimeConfig::Docker {
            socket: "/run/docker.sock".into()
        }
    );
    assert_eq!(config.lease, Path::new("/run/flocker/n1-7410.lease"));
    let directory = GOOD.replace(
        r#"kind = "zfs", pool = "tank""#,
        r#"kind = "directory", root = "/srv/volumes""#,
    );
    let name = "notes".parse().unwrap();
    assert_eq!(
        load(&directory).unwrap().mount_path(&name),
        Path::new("/srv/volumes/mounts/notes")
    );
}

#[test]
fn a_bad_file_is_refused_by_the_name_of_its_key() {
    let cases = [
        (r#"pool = "tank""#, r#"pool = "tank", colour = 1"#, "colour"),
        (r#"pool = "tank""#, r#"pool = "tank/x""#, "storage.pool"),
        (r#"kind = "zfs""#, r#"kind = "btrfs""#, "btrfs"),
        (r#""n1""#, r#""N1""#, "'N1' is not a valid node name"),
        ("7411", "7410", "replication.listen"),
        (
            r#"address = "10.77.1.1""#,
            r#"address = "0.0.0.0""#,
            "address",
        ),
        (
            r#"kind = "docker""#,
            r#"kind = "docker", socket = "x""#,
            "runtime.socket",
        ),
        (
            "node =",
            "limits = { kill_ms = 0 }\nnode =",
            "limits.kill_ms",
        ),
        ("node =", "limits = { kill = 1 }\nnode =", "kill"),
        (
            "node =",
            "fence = { watchdog = 'watchdog' }\nnode =",
            "fence.watchdog",
        ),
        (
            "node =",
            "tls = { ca = '/ca', certificate = 'x', key = '/key' }\nnode =",
            "tls.certificate",
        ),
        (
            "node =",
            "limits = { transfer_silence_ms = 3000 }\nnode =",
            "limits.transfer_silence_ms",
        ),
    ];
    for (good, bad, named) in cases {
        let message = load(&GOOD.replace(good, bad)).unwrap_err();
        assert!(message.contains(named), "{bad}: {message}");
    }
}
