//! TLS towards upstreams, with nginx as one: verified, by name, and remembered.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use crate::{
    harness::{Conn, Edge, Message, Upstream, eventually, get, nobody, ok},
    terminated::{Authority, put_route},
};

/// An nginx that answers with what it knows of its TLS.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Nginx {
    pub(crate) fn start(authority: &Authority, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().display();
        let address = nobody();
        let (certificate, key) = (authority.path("up.pem"), authority.path("up.key"));
        let words =
            "sni=$ssl_server_name resumed=$ssl_session_reused to=$host via=$http_x_forwarded_proto";
        let config = format!(
            "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;\n\
             fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n\
             server {{ listen {address} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};\n\
             ssl_session_cache shared:s:1m; {more}\n\
             location / {{ return 200 \"{words}\"; }} }} }}\n"
        );
        let path = directory.path().join("nginx.conf");
        fs::write(&path, config).unwrap();
        let child = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(&path)
            .args(["-p", &folder.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("nginx listens", || {
            std::net::TcpStream::connect(address).ok()
        });
        Self {
            child,
            address,
            _directory: directory,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn tables(authority: &Authority) -> String {
    let stranger = Authority::new("stranger");
    let path = authority.file("stranger.pem");
    fs::copy(stranger.file("ca.pem"), &path).unwrap();
    format!(
        "[tls.authorities]\noffice = {:?}\nstranger = {path:?}\n",
        authority.path("ca.pem")
    )
}

/// A route to an upstream that is spoken with by TLS on these terms.
fn route(edge: &Edge, upstream: SocketAddr, terms: &str) {
    let text =
        format!(r#"{{"key":"http:a.test","upstreams":["{upstream}"],"upstream_tls":{{{terms}}}}}"#);
    put_route(edge, &text);
}

fn ask(edge: &Edge) -> Message {
    Conn::connect(edge.http()).ask(get("/"))
}

const INTERNAL: &str = r#""server_name":"up.internal","ca":"office""#;

#[test]
fn an_upstream_is_verified_and_its_connections_are_used_again() {
    let authority = Authority::new("ca");
    authority.write("up", &["up.internal", "a.test"]);
    let nginx = Nginx::start(&authority, "");
    let edge = Edge::start_with_tables(&tables(&authority), "", 1);
    route(&edge, nginx.address, INTERNAL);
    for _ in 0..3 {
        let answer = ask(&edge);
        assert_eq!(answer.status(), 200, "{answer:?}");
        let expected = "sni=up.internal resumed=. to=a.test via=http";
        assert_eq!(answer.text(), expected);
    }
    assert!(edge.metrics().contains("_connects_total 1\n"));
    // By the name of the route's host; what was for another name is not used for it.
    route(&edge, nginx.address, r#""ca":"office""#);
    assert_eq!(ask(&edge).text(), "sni=a.test resumed=. to=a.test via=http");
    assert!(edge.metrics().contains("_connects_total 2\n"));
}

#[test]
fn a_session_with_an_upstream_is_resumed() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let authority = Authority::new("ca");
        authority.write("up", &["up.internal"]);
        let more = format!("keepalive_requests 1; ssl_protocols {version};");
        let nginx = Nginx::start(&authority, &more);
        let edge = Edge::start_with_tables(&tables(&authority), "", 1);
        route(&edge, nginx.address, INTERNAL);
        assert!(ask(&edge).text().contains("resumed=."));
        assert!(ask(&edge).text().contains("resumed=r"), "{version}");
    }
}

#[test]
fn an_upstream_that_cannot_be_verified_gets_nothing() {
    let authority = Authority::new("ca");
    authority.write("up", &["up.internal"]);
    let nginx = Nginx::start(&authority, "");
    let edge = Edge::start_with_tables(&tables(&authority), "connect_hold_ms = 2000", 1);
    let status = |terms: &str| {
        route(&edge, nginx.address, terms);
        ask(&edge).status()
    };
    assert_eq!(status(INTERNAL), 200);
    for terms in [
        r#""server_name":"up.internal","ca":"stranger""#,
        r#""server_name":"other.internal","ca":"office""#,
        // Nobody's system trusts an authority of a test.
        r#""server_name":"up.internal""#,
    ] {
        assert_eq!(status(terms), 502, "{terms}");
    }
    assert_eq!(status(INTERNAL), 200);

    // One that speaks no TLS sees a ClientHello and not a byte of the request.
    let plain = Upstream::listen();
    route(&edge, plain.address, INTERNAL);
    let mut client = Conn::connect(edge.http());
    client.send(get("/secret"));
    let mut service = plain.accept();
    assert_eq!(service.read_exact(3), [22, 3, 1]);
    service.send(ok("what?"));
    assert_eq!(client.read_response().status(), 502);
    let all = service.read_to_end_or_reset();
    assert!(!String::from_utf8_lossy(&all).contains("secret"));
}

#[test]
fn an_upstream_that_comes_up_late_is_waited_for() {
    let authority = Authority::new("ca");
    authority.write("up", &["up.internal"]);
    let edge = Edge::start_with_tables(&tables(&authority), "", 1);
    let upstream = Upstream::listen();
    route(&edge, upstream.address, INTERNAL);
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    // It dies in the middle of the handshake, and another is there in its place.
    upstream.accept().reset();
    let nginx = Nginx::start(&authority, "");
    route(&edge, nginx.address, INTERNAL);
    drop(upstream);
    assert_eq!(client.read_response().status(), 200);
}
