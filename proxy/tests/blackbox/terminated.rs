//! TLS that ends at the edge, with real clients: curl and openssl.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
};

use flocker_api::{
    certificate::{CertificateList, CertificateStatus, PutCertificate, PutTicketKey, TicketKeys},
    route::{Operation, Route},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

use crate::harness::{Conn, Edge, Upstream, eventually, hold, ok};

/// An authority and what it has signed, in files.
pub(crate) struct Authority {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        let key = issuer.key().serialize_pem();
        fs::write(directory.path().join("ca.key"), key).unwrap();
        Self { directory, issuer }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn sign(&self, hosts: &[&str], subject: &[(DnType, &str)]) -> (String, String) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, name: &str, hosts: &[&str]) {
        let (certificate, key) = self.sign(hosts, &[]);
        fs::write(self.file(&format!("{name}.pem")), certificate).unwrap();
        fs::write(self.file(&format!("{name}.key")), key).unwrap();
    }

    /// A client's certificate and key.
    pub(crate) fn write_client(&self, name: &str) {
        let subject = [
            (DnType::OrganizationName, "Example, Inc."),
            (DnType::CommonName, name),
        ];
        let (certificate, key) = self.sign(&[], &subject);
        fs::write(self.file(&format!("{name}.pem")), certificate).unwrap();
        fs::write(self.file(&format!("{name}.key")), key).unwrap();
    }

    /// The serial number of `NAME.pem`, in hexadecimal.
    pub(crate) fn serial(&self, name: &str) -> String {
        let path = self.path(&format!("{name}.pem"));
        let openssl = Command::new("openssl")
            .args(["x509", "-noout", "-serial", "-in", &path])
            .output();
        let said = text(&openssl.unwrap());
        said.trim().trim_start_matches("serial=").to_owned()
    }

    /// Writes `ca.crl`, which revokes these and is good until that year.
    pub(crate) fn revoke(&self, names: &[&str], until_year: i32) {
        let revoked = names.iter().map(|name| {
            let serial = self.serial(name);
            let digits = (0..serial.len()).step_by(2);
            let bytes = digits.map(|at| u8::from_str_radix(&serial[at..at + 2], 16).unwrap());
            RevokedCertParams {
                serial_number: SerialNumber::from(bytes.collect::<Vec<u8>>()),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until_year, 2, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        // As a whole, or the edge would see half of it.
        let fresh = self.file("crl.new");
        fs::write(&fresh, list.pem().unwrap()).unwrap();
        fs::rename(fresh, self.file("ca.crl")).unwrap();
    }

    fn put(&self, hosts: &[&str]) -> PutCertificate {
        let (certificate, key) = self.sign(hosts, &[]);
        PutCertificate { certificate, key }
    }

    /// The `[tls]` table of an edge with the certificate `NAME`.
    pub(crate) fn tls(&self, name: &str) -> String {
        format!(
            "[tls]\ncertificates = [{{ certificate = {:?}, key = {:?} }}]\nreload_ms = 20\n",
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        )
    }
}

/// An edge with a certificate for these hosts.
fn edge_for(authority: &Authority, hosts: &[&str]) -> Edge {
    authority.write("www", hosts);
    Edge::start_with_tables(&authority.tls("www"), "", 1)
}

pub(crate) fn put_route(edge: &Edge, text: &str) {
    let route: Route = serde_json::from_str(text).unwrap();
    edge.apply(vec![Operation::Put { route }]).unwrap();
}

/// A terminated route with these terms.
pub(crate) fn terminate(edge: &Edge, host: &str, terms: &str, upstream: std::net::SocketAddr) {
    put_route(
        edge,
        &format!(
            r#"{{"key":"https:{host}","upstreams":["{upstream}"],"tls":{{"terminate":{{{terms}}}}}}}"#
        ),
    );
}

/// Runs curl against the edge under the name of a host.
fn curl(edge: &Edge, authority: &Authority, host: &str, more: &[&str]) -> Output {
    let to = edge.https();
    Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--include"])
        .args(["--cacert", &authority.path("ca.pem")])
        .args(["--resolve", &format!("{host}:{}:{}", to.port(), to.ip())])
        .args(more)
        .arg(format!("https://{host}:{}/hello", to.port()))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// Curl's words for a version.
fn with_version(version: &str) -> Vec<&str> {
    match version {
        "1.2" => vec!["--http1.1", "--tls-max", "1.2"],
        _ => vec!["--http1.1", "--tlsv1.3"],
    }
}

/// A service that answers each request with its head.
pub(crate) fn echo() -> std::net::SocketAddr {
    let upstream = Upstream::listen();
    let address = upstream.address;
    thread::spawn(move || {
        while let Some(mut conn) = upstream.try_accept() {
            thread::spawn(move || {
                while conn.has_more() {
                    let head = conn.read_head();
                    conn.send(ok(&head));
                }
            });
        }
    });
    address
}

#[test]
fn a_host_has_routes_below_paths() {
    let authority = Authority::new("ca");
    let edge = edge_for(&authority, &["notes.demo"]);
    terminate(&edge, "notes.demo", "", Upstream::serve("whole"));
    terminate(&edge, "notes.demo/hello", "", Upstream::serve("below"));
    let said = text(&curl(&edge, &authority, "notes.demo", &["--http1.1"]));
    assert!(said.ends_with("below"), "{said}");
    assert_eq!(edge.show("https:notes.demo/hello").requests, 1);
}

#[test]
fn curl_is_served_over_both_versions_and_the_upstream_learns_the_scheme() {
    let authority = Authority::new("ca");
    let edge = edge_for(&authority, &["notes.demo", "*.example.com"]);
    let upstream = echo();
    terminate(&edge, "notes.demo", "", upstream);
    terminate(&edge, "*.example.com", "", upstream);
    for (host, version) in [
        ("notes.demo", "1.2"),
        ("notes.demo", "1.3"),
        ("a.example.com", "1.3"),
    ] {
        let said = text(&curl(&edge, &authority, host, &with_version(version)));
        assert!(said.contains("HTTP/1.1 200 OK"), "{host} {version}: {said}");
        assert!(said.contains("X-Forwarded-Proto: https\r\n"), "{said}");
        assert!(
            said.contains(&format!("X-Forwarded-Host: {host}:")),
            "{said}"
        );
        assert!(!said.contains("X-Client-Cert-Subject"), "{said}");
    }
    assert!(edge.metrics().contains("tls_handshakes_total 3"));
}

#[test]
fn many_requests_and_large_bodies_go_over_one_connection() {
    let authority = Authority::new("ca");
    let edge = edge_for(&authority, &["notes.demo"]);
    let upstream = Upstream::listen();
    terminate(&edge, "notes.demo", "", upstream.address);
    let body: Vec<u8> = (0..=250).cycle().take(3 << 20).collect();
    let sent = authority.file("sent");
    fs::write(&sent, &body).unwrap();
    let expected = body.clone();
    let service = thread::spawn(move || {
        let mut conn = upstream.accept();
        for _ in 0..2 {
            let request = conn.read_request();
            assert!(request.body == expected, "the body came whole");
            let length = expected.len();
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ));
            conn.send(&expected);
        }
    });
    let to = edge.https();
    let url = format!("https://notes.demo:{}/up", to.port());
    let upload = format!("@{}", sent.display());
    let got = [authority.path("got1"), authority.path("got2")];
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--http1.1"])
        .args(["--cacert", &authority.path("ca.pem"), "-H", "Expect:"])
        .args([
            "--resolve",
            &format!("notes.demo:{}:{}", to.port(), to.ip()),
        ])
        .args(["--data-binary", &upload, "-o", &got[0], &url])
        .args(["-o", &got[1], &url])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    service.join().unwrap();
    for path in &got {
        assert!(fs::read(path).unwrap() == body, "it came back whole");
    }
    assert!(edge.metrics().contains("tls_handshakes_total 1\n"));
}

#[test]
fn requests_park_and_not_handshakes() {
    let authority = Authority::new("ca");
    let edge = edge_for(&authority, &["notes.demo"]);
    let upstream = echo();
    terminate(&edge, "notes.demo", "", upstream);
    let token = edge.pause("https:notes.demo", hold(8_000));
    let (to, ca) = (edge.https(), authority.path("ca.pem"));
    let client = thread::spawn(move || {
        Command::new("curl")
            .args(["--silent", "--include", "--http1.1", "--max-time", "10"])
            .args(["--cacert", &ca])
            .args([
                "--resolve",
                &format!("notes.demo:{}:{}", to.port(), to.ip()),
            ])
            .arg(format!("https://notes.demo:{}/", to.port()))
            .output()
            .unwrap()
    });
    edge.wait_parked("https:notes.demo", 1);
    assert!(edge.metrics().contains("tls_handshakes_total 1\n"));
    edge.resume("https:notes.demo", token).unwrap();
    let said = text(&client.join().unwrap());
    assert!(said.contains("200 OK"), "{said}");
}

#[test]
fn a_host_of_another_route_is_misdirected_even_with_a_certificate_for_both() {
    let authority = Authority::new("ca");
    let edge = edge_for(
        &authority,
        &["notes.demo", "*.example.com", "deep.example.com"],
    );
    let upstream = echo();
    terminate(&edge, "notes.demo", "", upstream);
    terminate(&edge, "*.example.com", "", upstream);
    terminate(&edge, "deep.example.com", "", upstream);
    let status = |sni: &str, host: &str| {
        let field = format!("Host: {host}");
        let said = text(&curl(&edge, &authority, sni, &["--http1.1", "-H", &field]));
        said.split(' ').nth(1).unwrap_or(&said).to_owned()
    };
    assert_eq!(status("notes.demo", "notes.demo"), "200");
    assert_eq!(status("notes.demo", "NOTES.demo."), "200");
    assert_eq!(status("a.example.com", "b.example.com"), "200", "one route");
    for (sni, host) in [
        ("notes.demo", "a.example.com"),
        ("a.example.com", "notes.demo"),
        ("a.example.com", "deep.example.com"),
        ("deep.example.com", "a.example.com"),
        ("notes.demo", "unknown.demo"),
        ("a.example.com", "a.b.example.com"),
    ] {
        assert_eq!(status(sni, host), "421", "{host} on a connection to {sni}");
    }
}

#[test]
fn client_certificates_are_asked_for_verified_and_told_to_the_upstream() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("ca"));
    authority.write("www", &["require.demo", "request.demo", "none.demo"]);
    authority.write_client("ann");
    stranger.write_client("ann");
    let tables = format!(
        "{}[tls.authorities]\noffice = {:?}\n",
        authority.tls("www"),
        authority.path("ca.pem")
    );
    let edge = Edge::start_with_tables(&tables, "", 1);
    let upstream = echo();
    for mode in ["require", "request"] {
        let terms = format!(r#""client_certificate":"{mode}","client_ca":"office""#);
        terminate(&edge, &format!("{mode}.demo"), &terms, upstream);
    }
    terminate(&edge, "none.demo", "", upstream);
    let with = |host: &str, who: Option<&Authority>, version: &str| {
        let files = who.map(|who| (who.path("ann.pem"), who.path("ann.key")));
        let mut more = with_version(version);
        more.extend(["-H", "X-Client-Cert-Subject: CN=root"]);
        more.extend(["-H", "X_Client_Cert_Subject: CN=root"]);
        if let Some((certificate, key)) = &files {
            more.extend(["--cert", certificate, "--key", key]);
        }
        text(&curl(&edge, &authority, host, &more))
    };
    for version in ["1.2", "1.3"] {
        for host in ["require.demo", "request.demo"] {
            let said = with(host, Some(&authority), version);
            let field = "X-Client-Cert-Subject: O=Example\\, Inc.,CN=ann\r\n";
            assert!(said.contains(field), "{host}: {said}");
            assert!(!said.contains("CN=root"), "{said}");
            let said = with(host, Some(&stranger), version);
            assert!(!said.contains("200 OK"), "{host}: {said}");
        }
        let said = with("require.demo", None, version);
        assert!(!said.contains("200 OK"), "{said}");
        let said = with("request.demo", None, version);
        assert!(said.contains("X-Client-Cert-Subject: \r\n"), "{said}");
        let said = with("none.demo", Some(&authority), version);
        assert!(said.contains("200 OK"), "{said}");
        assert!(
            !said.to_lowercase().contains("client-cert-subject"),
            "{said}"
        );
    }
}

/// What `openssl s_client` says; it sends a request and keeps or uses a session.
pub(crate) fn s_client(edge: &Edge, authority: &Authority, host: &str, more: &[&str]) -> String {
    use std::io::Write;
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &edge.https().to_string()])
        .args(["-CAfile", &authority.path("ca.pem")])
        .args(match host {
            "" => vec!["-noservername"],
            host => vec!["-servername", host],
        })
        .args(["-verify_return_error", "-ign_eof"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(request.as_bytes()).unwrap();
    text(&child.wait_with_output().unwrap())
}

#[test]
fn a_client_resumes_at_the_next_edge_and_never_at_another_host_or_under_other_terms() {
    let authority = Authority::new("ca");
    authority.write_client("ann");
    let tables = |name: &str| {
        let ca = authority.path("ca.pem");
        authority.write(name, &["a.demo", "b.demo"]);
        format!(
            "{}[tls.authorities]\noffice = {ca:?}\n",
            authority.tls(name)
        )
    };
    let near = Edge::start_with_tables(&tables("near"), "", 1);
    let far = Edge::start_with_tables(&tables("far"), "", 2);
    let upstream = echo();
    let strict = r#""client_certificate":"request","client_ca":"office""#;
    for edge in [&near, &far] {
        terminate(edge, "a.demo", "", upstream);
        terminate(edge, "b.demo", "", upstream);
        rotate(edge, 1);
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let file = authority.path(&format!("session{version}"));
        let first = s_client(&near, &authority, "a.demo", &[version, "-sess_out", &file]);
        assert!(first.contains("New, TLSv1"), "{first}");
        assert!(first.contains("200 OK"), "{first}");
        let resumes = |edge: &Edge, host: &str| {
            let said = s_client(edge, &authority, host, &[version, "-sess_in", &file]);
            assert!(said.contains("200 OK"), "{said}");
            said.contains("Reused, TLSv1")
        };
        assert!(resumes(&near, "a.demo"), "{version} at the same edge");
        assert!(resumes(&far, "a.demo"), "{version} at the next edge");
        assert!(!resumes(&far, "b.demo"), "{version} at another host");
        terminate(&far, "a.demo", strict, upstream);
        assert!(!resumes(&far, "a.demo"), "{version} under other terms");
        terminate(&far, "a.demo", "", upstream);
        rotate(&far, 2);
        assert!(resumes(&far, "a.demo"), "{version} after one rotation");
        rotate(&far, 3);
        assert!(!resumes(&far, "a.demo"), "{version} after two");
        rotate(&far, 1);
    }
}

fn rotate(edge: &Edge, byte: u8) -> TicketKeys {
    let key = flocker_api::certificate::TicketKey([byte; 32]);
    edge.put("/v1/tickets", &PutTicketKey { key }).unwrap()
}

#[test]
fn certificates_are_swapped_by_the_api_and_by_files_while_connections_stand() {
    let authority = Authority::new("ca");
    let edge = edge_for(&authority, &["a.demo"]);
    let upstream = echo();
    terminate(&edge, "a.demo", "", upstream);
    terminate(&edge, "b.demo", "", upstream);
    let good = |host: &str| text(&curl(&edge, &authority, host, &["--http1.1"])).contains("200 OK");
    assert!(good("a.demo"));
    assert!(
        !good("b.demo"),
        "no certificate names it, and there is no default"
    );

    let put = authority.put(&["b.demo"]);
    let status: CertificateStatus = edge.put("/v1/certificates/b", &put).unwrap();
    assert_eq!(status.hosts, ["b.demo"]);
    assert!(good("b.demo"));
    let list: CertificateList = edge.get("/v1/certificates").unwrap();
    assert_eq!(list.certificates.len(), 2);
    let mut bad = put.clone();
    bad.key = authority.put(&["b.demo"]).key;
    let refused = edge.put::<_, CertificateStatus>("/v1/certificates/b", &bad);
    assert!(refused.unwrap_err().message.contains("do not belong"));
    assert!(good("b.demo"));
    let configured = edge.put::<_, CertificateStatus>("/v1/certificates/www", &put);
    assert!(configured.unwrap_err().message.contains("change the file"));
    let _gone: CertificateStatus = edge.delete("/v1/certificates/b").unwrap();
    assert!(!good("b.demo"));

    // A file, first half of it, then the other.
    let (certificate, key) = authority.sign(&["a.demo", "b.demo"], &[]);
    fs::write(authority.file("www.pem"), certificate).unwrap();
    let problem = || {
        edge.get::<CertificateList>("/v1/certificates")
            .unwrap()
            .certificates[0]
            .problem
            .clone()
    };
    eventually("the problem is told", &problem);
    assert!(good("a.demo"), "the old one is still served");
    fs::write(authority.file("www.key"), key).unwrap();
    eventually("the new one is served", || good("b.demo").then_some(()));
    assert_eq!(problem(), None);
}

#[test]
fn who_does_not_speak_tls_or_asks_for_nobody_is_told() {
    let authority = Authority::new("ca");
    let edge = edge_for(&authority, &["a.demo"]);
    terminate(&edge, "a.demo", "", echo());
    let said = s_client(&edge, &authority, "unknown.demo", &[]);
    assert!(
        said.contains("alert") && said.contains("unrecognized name"),
        "{said}"
    );
    let said = s_client(&edge, &authority, "", &[]);
    assert!(said.contains("unrecognized name"), "{said}");
    let mut client = Conn::connect(edge.https());
    client.send("GET / HTTP/1.1\r\nHost: a.demo\r\n\r\n");
    let answer = client.read_response();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().contains("use https"), "{}", answer.text());
    for garbage in [&b"\x80\x2e\x01\x00\x02"[..], b"\0\0\0\0", b"SSH-2.0-x\r\n"] {
        let mut client = Conn::connect(edge.https());
        client.send(garbage);
        assert_eq!(client.read_to_end_or_reset(), b"");
    }
    let versions = s_client(
        &edge,
        &authority,
        "a.demo",
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
    );
    assert!(versions.contains("alert"), "{versions}");
}

#[test]
fn a_handshake_that_does_not_go_on_is_ended() {
    let authority = Authority::new("ca");
    authority.write("www", &["notes.demo"]);
    let edge = Edge::start_with_tables(&authority.tls("www"), "hello_timeout_ms = 300", 1);
    terminate(&edge, "notes.demo", "", echo());
    let mut client = Conn::connect(edge.https());
    client.send(include_bytes!("../../testdata/hello/openssl-tls13.bin"));
    // The edge answers, and hears nothing more.
    assert_eq!(client.read_exact(3), [22, 3, 3]);
    client.wait_gone();
    eventually("the session is gone", || {
        (edge.status().sessions == 0).then_some(())
    });
}

#[test]
fn alpn_leads_to_http2_whose_streams_are_bound_to_the_same_hosts() {
    let authority = Authority::new("ca");
    let edge = edge_for(&authority, &["a.demo", "b.demo"]);
    let upstream = echo();
    terminate(&edge, "a.demo", "", upstream);
    terminate(&edge, "b.demo", "", upstream);
    let said = text(&curl(&edge, &authority, "a.demo", &["--http2"]));
    assert!(said.contains("HTTP/2 200"), "{said}");
    assert!(said.contains("X-Forwarded-Proto: https\r\n"), "{said}");
    let said = text(&curl(
        &edge,
        &authority,
        "a.demo",
        &["--http2", "-H", "Host: b.demo"],
    ));
    assert!(said.contains("HTTP/2 421"), "{said}");
}
