//! The PROXY protocol on both sides, with HAProxy and nginx as peers.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use flocker_api::{
    route::{Operation, Route},
    upstream::SendProxy,
};
use tempfile::TempDir;

use crate::harness::{Conn, Edge, Setup, Upstream, eventually, get, nobody, ok, parse};

const KEY: &str = "http:a.test";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn trusting() -> Edge {
    Edge::start_from(&Setup {
        listen: "proxy_from = ['127.0.0.0/8']",
        limits: "proxy_header_timeout_ms = 500",
        workers: 1,
        ..Setup::default()
    })
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = V2.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

const V4_BODY: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0, 80];

#[test]
fn the_client_is_whom_the_header_names_however_it_is_cut() {
    let edge = trusting();
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    let mut named = V4_BODY.to_vec();
    named.extend([2, 0, 6, b'a', b'.', b't', b'e', b's', b't']);
    for (header, client) in [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.1 5 80\r\n".to_vec(),
            "192.0.2.1",
        ),
        (
            b"PROXY TCP6 2001:db8::7 ::1 5 80\r\n".to_vec(),
            "2001:db8::7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21, 0x11, &named), "192.0.2.1"),
        (v2(0x20, 0x00, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
    ] {
        let mut bytes = header.clone();
        bytes.extend(get("/").as_bytes());
        for cut in [
            0,
            1,
            header.len() / 2,
            header.len() - 1,
            header.len(),
            header.len() + 3,
        ] {
            let mut conn = Conn::connect(edge.http());
            conn.send(&bytes[..cut]);
            conn.send(&bytes[cut..]);
            let mut served = upstream.accept();
            let request = served.read_request();
            assert_eq!(request.field("x-forwarded-for"), Some(client), "{cut}");
            served.send(ok("1"));
            assert_eq!(conn.read_response().text(), "1");
            drop(served);
        }
    }
}

#[test]
fn without_a_proper_header_a_trusted_proxy_is_closed() {
    let edge = trusting();
    edge.route(KEY, &[nobody()]);
    for bytes in [
        get("/").into_bytes(),
        b"PROXY TCP4 192.0.2.1 198.51.100.1 5\r\n".to_vec(),
        v2(0x31, 0x11, &V4_BODY),
        v2(0x21, 0x11, &V4_BODY[..11]),
        // Half of one, and no more.
        b"PROXY TCP4 ".to_vec(),
    ] {
        let mut conn = Conn::connect(edge.http());
        conn.send(&bytes);
        conn.wait_gone();
    }
    let mut conn = Conn::connect(edge.http());
    conn.send("PROXY ");
    conn.finish();
    conn.wait_gone();
    // Who only looks whether anyone is there harms nobody.
    drop(Conn::connect(edge.http()));
    eventually("all are gone", || {
        (edge.status().sessions == 0).then_some(())
    });
}

#[test]
fn from_elsewhere_a_header_is_no_more_than_nonsense() {
    let edge = Edge::start_from(&Setup {
        listen: "proxy_from = ['10.0.0.0/8']",
        workers: 1,
        ..Setup::default()
    });
    edge.route(KEY, &[nobody()]);
    let mut conn = Conn::connect(edge.http());
    let request = format!("PROXY TCP4 192.0.2.1 198.51.100.1 5 80\r\n{}", get("/"));
    assert_eq!(conn.ask(request).status(), 400);
}

#[test]
fn limits_and_lists_are_for_the_client_behind_the_proxy() {
    let edge = Edge::start_from(&Setup {
        listen: "proxy_from = ['127.0.0.1']",
        limits: "sessions_per_client = 1\n[clients]\ndeny = ['192.0.2.9']",
        workers: 1,
        ..Setup::default()
    });
    edge.route(KEY, &[Upstream::serve("ok")]);
    let ask = |client: &str| {
        let mut conn = Conn::connect(edge.http());
        conn.send(format!(
            "PROXY TCP4 {client} 198.51.100.1 5 80\r\n{}",
            get("/")
        ));
        conn
    };
    let mut first = ask("192.0.2.1");
    assert_eq!(first.read_response().status(), 200);
    ask("192.0.2.1").wait_gone();
    ask("192.0.2.9").wait_gone();
    assert_eq!(ask("192.0.2.2").read_response().status(), 200);
}

#[test]
fn upstreams_are_told_of_the_client_and_connections_are_not_shared() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    let (address, tcp) = edge.tcp(0);
    for (key, version) in [(KEY, SendProxy::V1), (&*tcp, SendProxy::V2)] {
        let mut route = Route::new(parse(key), [upstream.address]);
        route.send_proxy = Some(version);
        edge.apply(vec![Operation::Put { route }]).unwrap();
    }
    let mut client = Conn::connect(edge.http());
    let own = client.stream.local_addr().unwrap();
    for _ in 0..2 {
        client.send(get("/"));
        let mut served = upstream.accept();
        let line = format!(
            "PROXY TCP4 {} {} {} {}\r\n",
            own.ip(),
            edge.http().ip(),
            own.port(),
            edge.http().port()
        );
        assert_eq!(served.read_exact(line.len()), line.as_bytes());
        assert!(served.read_request().head.starts_with("GET / HTTP/1.1"));
        served.send(ok("1"));
        assert_eq!(client.read_response().text(), "1");
        served.assert_ends();
    }
    let mut client = Conn::connect(address);
    client.send("x");
    let mut served = upstream.accept();
    let header = served.read_exact(16 + 12);
    assert_eq!((&header[..12], &header[12..14]), (V2, &[0x21, 0x11][..]));
    assert_eq!(served.read_exact(1), b"x");
}

/// A Debian program with a configuration of ours; ends with the value.
pub(crate) struct Peer {
    child: Child,
    _directory: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn peer(
    program: &str,
    arguments: &[&str],
    config: &str,
    listens: &[SocketAddr],
) -> Peer {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    std::fs::write(
        &path,
        config.replace("DIRECTORY", directory.path().to_str().unwrap()),
    )
    .unwrap();
    let child = Command::new(program)
        .args(arguments)
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for address in listens {
        eventually("the peer listens", || {
            std::net::TcpStream::connect(address).ok()
        });
    }
    Peer {
        child,
        _directory: directory,
    }
}

pub(crate) fn is_there(program: &str) -> bool {
    let there = Path::new(program).exists();
    assert!(there, "{program} is not installed: run scripts/packages");
    there
}

#[test]
fn haproxy_on_both_ends_hears_of_the_client() {
    assert!(is_there("/usr/sbin/haproxy"));
    let edge = trusting();
    let mut config = String::from(
        "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  \
         timeout server 5s\n",
    );
    let mut fronts = Vec::new();
    let mut backs = Vec::new();
    for (number, (sent, received)) in [("", "V1"), ("-v2", "V2")].iter().enumerate() {
        let (front, back) = (nobody(), nobody());
        write!(
            config,
            "frontend f{number}\n  bind {front}\n  default_backend e{number}\n\
             backend e{number}\n  http-request set-header Host {received}.test\n  \
             server s {} send-proxy{sent}\n\
             frontend b{number}\n  bind {back} accept-proxy\n  http-request return status 200 \
             content-type text/plain lf-string \"%[src]:%[src_port] %[dst_port]\"\n",
            edge.http()
        )
        .unwrap();
        fronts.push(front);
        backs.push(back);
    }
    for ((back, version), name) in backs
        .iter()
        .zip([SendProxy::V1, SendProxy::V2])
        .zip(["v1", "v2"])
    {
        let mut route = Route::new(parse(&format!("http:{name}.test")), [*back]);
        route.send_proxy = Some(version);
        edge.apply(vec![Operation::Put { route }]).unwrap();
    }
    let _haproxy = peer("/usr/sbin/haproxy", &["-db", "-f"], &config, &fronts);
    for front in fronts {
        let mut client = Conn::connect(front);
        let own = client.stream.local_addr().unwrap();
        let answer = client.ask(get("/"));
        assert_eq!(answer.status(), 200, "{}", answer.head);
        // HAProxy in front, the edge, HAProxy behind: still the client, and where it connected.
        assert_eq!(answer.text(), format!("{own} {}", front.port()));
    }
}

#[test]
fn nginx_hears_of_the_client() {
    assert!(is_there("/usr/sbin/nginx"));
    let edge = Edge::start();
    let back = nobody();
    let config = format!(
        "daemon off; master_process off; pid DIRECTORY/pid; error_log stderr crit;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path DIRECTORY/b; proxy_temp_path DIRECTORY/p;\n\
         fastcgi_temp_path DIRECTORY/f; uwsgi_temp_path DIRECTORY/u; scgi_temp_path DIRECTORY/s;\n\
         server {{ listen {back} proxy_protocol; location / {{ default_type text/plain;\n\
         return 200 \"$proxy_protocol_addr:$proxy_protocol_port\"; }} }} }}\n"
    );
    let _nginx = peer("/usr/sbin/nginx", &["-c"], &config, &[back]);
    for version in [SendProxy::V1, SendProxy::V2] {
        let mut route = Route::new(parse(KEY), [back]);
        route.send_proxy = Some(version);
        edge.apply(vec![Operation::Put { route }]).unwrap();
        let mut client = Conn::connect(edge.http());
        let own = client.stream.local_addr().unwrap();
        for _ in 0..2 {
            assert_eq!(client.ask(get("/")).text(), own.to_string());
        }
        // A check begins with a header, too: of nobody.
        let mut route = edge.show(KEY).route;
        route.health = Some("http,status=204,interval_ms=20".parse().unwrap());
        edge.apply(vec![Operation::Put { route }]).unwrap();
        eventually("its answer is not what was asked for", || {
            let reason = edge.show(KEY).upstreams[0].reason.clone()?;
            reason.contains("it answered 200").then_some(())
        });
        let mut route = edge.show(KEY).route;
        route.health = None;
        edge.apply(vec![Operation::Put { route }]).unwrap();
    }
}
