//! Whom the edge believes, and what they take back: authorities by file and by API, lists of
//! revoked certificates, stapled OCSP responses. Clients and upstreams are real ones.

use std::{fs, process::Command};

use flocker_api::{
    ErrorCode,
    authority::{AuthorityList, AuthorityStatus, PutAuthority},
    certificate::CertificateList,
    route::Operation,
};

use crate::{
    harness::{Conn, Edge, Upstream, eventually, get},
    terminated::{Authority, echo, put_route, s_client, terminate, text},
    upstream_tls::Nginx,
};

const STRICT: &str = r#""client_certificate":"require","client_ca":"office""#;

fn authorities(edge: &Edge) -> Vec<AuthorityStatus> {
    let list: AuthorityList = edge.get("/v1/authorities").unwrap();
    list.authorities
}

fn wait_revoked(edge: &Edge, count: usize) {
    eventually(&format!("{count} revoked"), || {
        (authorities(edge)[0].revoked == count).then_some(())
    });
}

/// What a client with this certificate gets to hear.
fn ask_as(edge: &Edge, authority: &Authority, name: &str, more: &[&str]) -> String {
    let (certificate, key) = (
        authority.path(&format!("{name}.pem")),
        authority.path(&format!("{name}.key")),
    );
    let mut all = vec!["-cert", &certificate, "-key", &key];
    all.extend(more);
    s_client(edge, authority, "a.demo", &all)
}

#[test]
fn a_revoked_client_is_refused_at_once_and_does_not_resume() {
    let authority = Authority::new("ca");
    authority.write("www", &["a.demo"]);
    for name in ["ann", "bob"] {
        authority.write_client(name);
    }
    authority.revoke(&[], 2090);
    let tables = format!(
        "{}[tls.authorities.office]\ncertificates = {:?}\ncrls = {:?}\n",
        authority.tls("www"),
        authority.path("ca.pem"),
        authority.path("ca.crl"),
    );
    let edge = Edge::start_with_tables(&tables, "", 2);
    terminate(&edge, "a.demo", STRICT, echo());
    for version in ["-tls1_2", "-tls1_3"] {
        let session = authority.path(&format!("session{version}"));
        let said = ask_as(&edge, &authority, "ann", &[version, "-sess_out", &session]);
        assert!(said.contains("200 OK"), "{said}");
        let said = ask_as(&edge, &authority, "ann", &[version, "-sess_in", &session]);
        assert!(said.contains("Reused, TLSv1"), "{said}");
        authority.revoke(&["ann"], 2090);
        wait_revoked(&edge, 1);
        let said = ask_as(&edge, &authority, "ann", &[version, "-sess_in", &session]);
        assert!(!said.contains("200 OK"), "{version}: {said}");
        let said = ask_as(&edge, &authority, "bob", &[version]);
        assert!(said.contains("200 OK"), "{version}: {said}");
        authority.revoke(&[], 2090);
        wait_revoked(&edge, 0);
    }
    // What is no good changes nothing and is shown.
    authority.revoke(&["ann"], 2090);
    wait_revoked(&edge, 1);
    fs::write(authority.file("ca.crl"), "nonsense").unwrap();
    let problem = eventually("a problem", || authorities(&edge)[0].problem.clone());
    assert!(problem.contains("ca.crl"), "{problem}");
    let said = ask_as(&edge, &authority, "ann", &[]);
    assert!(!said.contains("200 OK"), "{said}");
    // A list that has run out says nothing of anybody.
    authority.revoke(&[], 2020);
    wait_revoked(&edge, 0);
    let problem = authorities(&edge)[0].problem.clone().unwrap();
    assert!(problem.contains("run out"), "{problem}");
    let said = ask_as(&edge, &authority, "bob", &[]);
    assert!(!said.contains("200 OK"), "{said}");
}

#[test]
fn an_authority_is_set_swapped_and_removed_while_the_edge_runs() {
    let (authority, partner) = (Authority::new("ca"), Authority::new("partner"));
    authority.write("www", &["a.demo"]);
    partner.write_client("eve");
    fs::copy(partner.file("eve.pem"), authority.file("eve.pem")).unwrap();
    fs::copy(partner.file("eve.key"), authority.file("eve.key")).unwrap();
    authority.write_client("ann");
    let mut edge = Edge::start_with_tables(&authority.tls("www"), "", 1);
    let put = |edge: &Edge, of: &Authority, crls: Option<String>| {
        let certificates = fs::read_to_string(of.file("ca.pem")).unwrap();
        let put = PutAuthority { certificates, crls };
        edge.put::<_, AuthorityStatus>("/v1/authorities/office", &put)
    };
    let refused = put(&edge, &authority, Some("nothing".to_owned())).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    assert!(authorities(&edge).is_empty());
    assert_eq!(put(&edge, &authority, None).unwrap().subjects.len(), 1);
    terminate(&edge, "a.demo", STRICT, echo());
    let served = |edge: &Edge, name: &str| ask_as(edge, &authority, name, &[]).contains("200 OK");
    assert!(served(&edge, "ann") && !served(&edge, "eve"));
    put(&edge, &partner, None).unwrap();
    assert!(!served(&edge, "ann") && served(&edge, "eve"));
    // A new process knows it, too.
    edge.upgrade(None).unwrap();
    assert!(!served(&edge, "ann") && served(&edge, "eve"));
    // It stays for as long as a route names it.
    let remove = |edge: &Edge| edge.delete::<AuthorityStatus>("/v1/authorities/office");
    let error = remove(&edge).unwrap_err();
    assert_eq!(error.code, ErrorCode::Precondition);
    assert!(error.message.contains("https:a.demo"), "{error}");
    let key = "https:a.demo".parse().unwrap();
    edge.apply(vec![Operation::Remove { key }]).unwrap();
    remove(&edge).unwrap();
    assert_eq!(remove(&edge).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn a_folder_keeps_what_was_set_and_brings_what_is_laid_into_it() {
    let authority = Authority::new("ca");
    authority.write("www", &["a.demo"]);
    authority.write_client("ann");
    let folder = tempfile::tempdir().unwrap();
    let tables = format!("{}folder = {:?}\n", authority.tls("www"), folder.path());
    let edge = Edge::start_with_tables(&tables, "", 1);
    let certificates = fs::read_to_string(authority.file("ca.pem")).unwrap();
    authority.revoke(&["ann"], 2090);
    let crls = fs::read_to_string(authority.file("ca.crl")).unwrap();
    let put = PutAuthority {
        certificates: certificates.clone(),
        crls: Some(crls.clone()),
    };
    edge.put::<_, AuthorityStatus>("/v1/authorities/office", &put)
        .unwrap();
    drop(edge);
    let edge = Edge::start_with_tables(&tables, "", 1);
    assert_eq!(authorities(&edge)[0].revoked, 1);
    fs::write(folder.path().join("other.ca"), &certificates).unwrap();
    eventually("another", || (authorities(&edge).len() == 2).then_some(()));
    // A list that comes to lie beside it counts.
    fs::write(folder.path().join("other.crl"), &crls).unwrap();
    eventually("its list", || {
        (authorities(&edge)[1].revoked == 1).then_some(())
    });
    fs::remove_file(folder.path().join("other.ca")).unwrap();
    eventually("it is gone", || {
        (authorities(&edge).len() == 1).then_some(())
    });
}

#[test]
fn an_upstream_whose_certificate_is_revoked_gets_no_request() {
    let authority = Authority::new("ca");
    authority.write("up", &["up.internal"]);
    authority.revoke(&[], 2090);
    let nginx = Nginx::start(&authority, "keepalive_timeout 0;");
    let tables = format!(
        "[tls]\nreload_ms = 20\n[tls.authorities.office]\ncertificates = {:?}\ncrls = {:?}\n",
        authority.path("ca.pem"),
        authority.path("ca.crl"),
    );
    let edge = Edge::start_with_tables(&tables, "", 1);
    let terms = r#""server_name":"up.internal","ca":"office""#;
    let text = format!(
        r#"{{"key":"http:a.test","upstreams":["{}"],"upstream_tls":{{{terms}}}}}"#,
        nginx.address
    );
    put_route(&edge, &text);
    let status = || Conn::connect(edge.http()).ask(get("/")).status();
    assert_eq!(status(), 200);
    authority.revoke(&["up"], 2090);
    wait_revoked(&edge, 1);
    assert_eq!(status(), 502);
    authority.revoke(&[], 2090);
    wait_revoked(&edge, 0);
    assert_eq!(status(), 200);
}

#[test]
fn a_handshake_with_an_upstream_that_does_not_go_on_is_given_up() {
    let authority = Authority::new("ca");
    let tables = format!(
        "[tls.authorities]\noffice = {:?}\n",
        authority.path("ca.pem")
    );
    let limits = "connect_timeout_ms = 200\nconnect_hold_ms = 300";
    let edge = Edge::start_with_tables(&tables, limits, 1);
    let silent = Upstream::listen();
    let text = format!(
        r#"{{"key":"http:a.test","upstreams":["{}"],"upstream_tls":{{"server_name":"x.y","ca":"office"}}}}"#,
        silent.address
    );
    put_route(&edge, &text);
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut service = silent.accept();
    assert_eq!(service.read_exact(3), [22, 3, 1]);
    assert_eq!(client.read_response().status(), 504);
    service.wait_gone();
    // Half a handshake is none, either.
    client.send(get("/"));
    let mut service = silent.accept();
    service.send([22, 3, 3, 0, 50, 2]);
    assert_eq!(client.read_response().status(), 504);
}

/// An OCSP response about `www`, of this state: V or R.
fn respond(authority: &Authority, state: &str) {
    let serial = authority.serial("www");
    let revoked_at = if state == "R" { "250101000000Z" } else { "" };
    let index = format!("{state}\t400101000000Z\t{revoked_at}\t{serial}\tunknown\t/CN=www\n");
    fs::write(authority.file("index"), index).unwrap();
    let path = |name: &str| authority.path(name);
    for args in [
        &[
            "-issuer", "ca.pem", "-cert", "www.pem", "-reqout", "request",
        ][..],
        &[
            "-index", "index", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key", "-reqin",
            "request", "-respout", "response", "-ndays", "1",
        ],
    ] {
        let args = args.iter().map(|arg| match arg.strip_prefix('-') {
            Some(_) => (*arg).to_owned(),
            None if *arg == "1" => (*arg).to_owned(),
            None => path(arg),
        });
        let done = Command::new("openssl")
            .arg("ocsp")
            .args(args)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", text(&done));
    }
    fs::rename(authority.file("response"), authority.file("www.ocsp")).unwrap();
}

#[test]
fn an_ocsp_response_beside_a_certificate_is_stapled_and_swapped() {
    let authority = Authority::new("ca");
    authority.write("www", &["a.demo"]);
    let edge = Edge::start_with_tables(&authority.tls("www"), "", 1);
    terminate(&edge, "a.demo", "", echo());
    let said = |version: &str| s_client(&edge, &authority, "a.demo", &[version, "-status"]);
    let stapled = || {
        let list: CertificateList = edge.get("/v1/certificates").unwrap();
        list.certificates[0].stapled
    };
    assert!(said("-tls1_3").contains("OCSP response: no response sent"));
    assert!(!stapled());
    for (state, word) in [("V", "Cert Status: good"), ("R", "Cert Status: revoked")] {
        respond(&authority, state);
        for version in ["-tls1_2", "-tls1_3"] {
            eventually(word, || said(version).contains(word).then_some(()));
        }
        assert!(stapled());
    }
    fs::write(authority.file("www.ocsp"), "nonsense").unwrap();
    eventually("a problem", || {
        let list: CertificateList = edge.get("/v1/certificates").unwrap();
        let problem = list.certificates[0].problem.clone();
        problem.filter(|problem| problem.contains("www.ocsp"))
    });
    assert!(
        said("-tls1_3").contains("Cert Status: revoked"),
        "the last good one"
    );
    fs::remove_file(authority.file("www.ocsp")).unwrap();
    eventually("none", || (!stapled()).then_some(()));
}
