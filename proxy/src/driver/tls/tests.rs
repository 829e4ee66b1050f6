//! Certificates in files, from the API, and what becomes of them.

use std::{fs, path::Path};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::{
    pem::{self, Served},
    *,
};

/// A certificate and its key, in PEM.
fn made(hosts: &[&str], until_year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.not_after = date_time_ymd(until_year, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

pub(super) fn served(hosts: &[&str]) -> Served {
    let (chain, key) = made(hosts, 4000);
    let provider = rustls::crypto::ring::default_provider();
    pem::served(chain.as_bytes(), key.as_bytes(), None, &provider).unwrap()
}

/// Some time in 2026.
const NOW_S: i64 = 1_780_000_000;

fn config(folder: &Path) -> TlsConfig {
    TlsConfig {
        folder: Some(folder.to_owned()),
        tickets: Some(folder.join("tickets")),
        ..TlsConfig::default()
    }
}

fn put(hosts: &[&str]) -> PutCertificate {
    let (certificate, key) = made(hosts, 4000);
    PutCertificate { certificate, key }
}

fn hosts(material: &Material) -> Vec<String> {
    let all = material.certificates();
    all.into_iter().flat_map(|one| one.hosts).collect()
}

#[test]
fn a_certificate_that_was_sent_survives_a_restart_and_can_be_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let material = Material::load(&config).unwrap();
    let name = "www".parse().unwrap();
    material.put(&name, &put(&["a.example"]), NOW_S).unwrap();
    material.put(&name, &put(&["b.example"]), NOW_S).unwrap();
    assert_eq!(hosts(&material), ["b.example"]);

    let again = Material::load(&config).unwrap();
    assert_eq!(hosts(&again), ["b.example"]);
    again.remove(&name).unwrap();
    assert!(hosts(&again).is_empty());
    assert!(matches!(again.remove(&name), Err(TlsError::NotFound(_))));
    material.refresh(NOW_S);
    assert!(hosts(&material).is_empty(), "the file is gone");
}

#[test]
fn what_is_no_good_is_refused_and_the_old_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let material = Material::load(&config(folder.path())).unwrap();
    let name: CertificateName = "www".parse().unwrap();
    let good = put(&["a.example"]);
    material.put(&name, &good, NOW_S).unwrap();
    let (old, old_key) = made(&["b.example"], 2020);
    let other = put(&["c.example"]);
    let cases = [
        ("", &*good.key, "no certificate"),
        (&*good.certificate, "", "no private key"),
        (&*other.certificate, &*good.key, "do not belong together"),
        (&*old, &*old_key, "expired"),
    ];
    for (certificate, key, expected) in cases {
        let put = PutCertificate {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        let error = material.put(&name, &put, NOW_S).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(hosts(&material), ["a.example"]);
}

#[test]
fn a_bad_file_keeps_the_old_certificate_and_says_so_until_it_is_good_again() {
    let folder = tempfile::tempdir().unwrap();
    let (first, first_key) = made(&["a.example"], 4000);
    let (second, second_key) = made(&["b.example"], 4000);
    let (certificate, key) = (folder.path().join("w.pem"), folder.path().join("w.key"));
    fs::write(&certificate, first).unwrap();
    fs::write(&key, first_key).unwrap();
    let material = Material::load(&config(folder.path())).unwrap();
    material.refresh(NOW_S);
    assert_eq!(material.certificates()[0].problem, None);

    // Half of a change.
    fs::write(&certificate, second).unwrap();
    material.refresh(NOW_S);
    let status = &material.certificates()[0];
    assert_eq!(status.hosts, ["a.example"]);
    let problem = status.problem.clone().unwrap();
    assert!(problem.contains("do not belong together"), "{problem}");

    fs::write(&key, second_key).unwrap();
    material.refresh(NOW_S);
    let status = &material.certificates()[0];
    assert_eq!((status.hosts.len(), &status.problem), (1, &None));
    assert_eq!(status.hosts, ["b.example"]);
}

#[test]
fn files_that_come_to_the_folder_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let material = Material::load(&config(folder.path())).unwrap();
    let (certificate, key) = made(&["a.example"], 4000);
    let path = folder.path().join("a.pem");
    fs::write(&path, &certificate).unwrap();
    material.refresh(NOW_S);
    assert!(hosts(&material).is_empty(), "without its key it is nothing");
    fs::write(&path, certificate + &key).unwrap();
    material.refresh(NOW_S);
    assert_eq!(hosts(&material), ["a.example"]);
}

#[test]
fn ticket_keys_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let material = Material::load(&config).unwrap();
    for byte in [1, 2, 2] {
        material.rotate_tickets(TicketKey([byte; 32])).unwrap();
    }
    let again = Material::load(&config).unwrap();
    assert_eq!(again.tickets.status(), material.tickets.status());
    assert_eq!(again.tickets.secrets()[0], TicketKey([2; 32]));
    assert_eq!(again.tickets.secrets()[1], TicketKey([1; 32]));
    fs::write(config.tickets.as_ref().unwrap(), "nonsense").unwrap();
    assert!(matches!(
        Material::load(&config),
        Err(TlsError::Tickets { .. })
    ));
}

#[test]
fn a_file_of_ticket_keys_is_followed_and_one_that_is_no_good_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let path = config.tickets.clone().unwrap();
    let line = |byte: u8| String::from(TicketKey([byte; 32])) + "\n";
    let write = |text: String| {
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, &path).unwrap();
    };
    write(line(1));
    let material = Material::load(&config).unwrap();
    write(line(2) + &line(1));
    material.refresh(NOW_S);
    let keys = [TicketKey([2; 32]), TicketKey([1; 32])];
    assert_eq!(material.tickets.secrets(), keys);
    write("nonsense".to_owned());
    material.refresh(NOW_S);
    assert_eq!(material.tickets.secrets(), keys);
    fs::remove_file(&path).unwrap();
    material.refresh(NOW_S);
    assert_eq!(material.tickets.secrets(), keys);
    // What is rotated here is not taken for somebody else's.
    material.rotate_tickets(TicketKey([3; 32])).unwrap();
    material.refresh(NOW_S);
    assert_eq!(material.tickets.secrets()[0], TicketKey([3; 32]));
}

#[test]
fn a_new_process_knows_what_no_file_tells_it() {
    let config = TlsConfig::default();
    let old = Material::load(&config).unwrap();
    old.put(&"www".parse().unwrap(), &put(&["a.example"]), NOW_S)
        .unwrap();
    old.rotate_tickets(TicketKey([1; 32])).unwrap();
    let new = Material::load(&config).unwrap();
    assert_ne!(new.tickets.secrets(), old.tickets.secrets());
    new.inherit(old.bequeath(), NOW_S);
    assert_eq!(new.tickets.secrets(), old.tickets.secrets());
    assert_eq!(hosts(&new), ["a.example"]);
}

#[test]
fn terms_that_cannot_be_kept_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let material = Material::load(&config(folder.path())).unwrap();
    for (text, expected) in [
        (
            r#"{"key":"http:a.example","tls":{"terminate":{}}}"#,
            "https:HOST",
        ),
        (
            r#"{"key":"https:a.example","tls":{"terminate":{"client_certificate":"require"}}}"#,
            "set client_ca",
        ),
        (
            r#"{"key":"https:a.example","tls":{"terminate":{"client_ca":"nobody"}}}"#,
            "authority nobody",
        ),
        (
            r#"{"key":"https:a.example","upstream_tls":{}}"#,
            "passes TLS through",
        ),
        (
            r#"{"key":"tcp:1","upstream_tls":{"ca":"x"}}"#,
            "server_name",
        ),
        (
            r#"{"key":"http:*.example","upstream_tls":{}}"#,
            "server_name",
        ),
        (
            r#"{"key":"http:a.example","upstream_tls":{"ca":"nobody"}}"#,
            "authority nobody",
        ),
    ] {
        let text = text.replacen('{', r#"{"upstreams":["127.0.0.1:1"],"#, 1);
        let route: Route = serde_json::from_str(&text).unwrap();
        let error = material.check(&route).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
