//! What an operator does to a running edge: reads its log, changes its configuration, drains it.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use flocker_api::edge::{DrainRequest, LogFilter, ReloadReply};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Conn, Edge, Upstream, eventually, get, hold, ok};

const KEY: &str = "http:a.test";

/// Appends to the configuration file.
fn append(edge: &Edge, text: &str) {
    let config = std::fs::read_to_string(edge.config()).unwrap();
    std::fs::write(edge.config(), format!("{config}{text}")).unwrap();
}

fn reload(edge: &Edge) -> Result<ReloadReply, flocker_api::ErrorBody> {
    edge.post("/v1/reload", &())
}

fn signal(edge: &Edge, signal: Signal) {
    let pid = Pid::from_raw(edge.pid().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn the_access_log_tells_of_requests_and_follows_its_file() {
    let edge = Edge::start();
    let path = edge.file("access.log");
    let log = format!(
        "[log]\naccess = \"json\"\naccess_file = \"{}\"\n",
        path.display()
    );
    append(&edge, &log);
    let reply = reload(&edge).unwrap();
    assert!(
        reply.changes.iter().any(|line| line.contains("log.access")),
        "{reply:?}"
    );
    edge.route(KEY, &[Upstream::serve("ok")]);
    let mut client = Conn::connect(edge.http());
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{trace}\r\n\r\n");
    assert_eq!(client.ask(request).text(), "ok");
    let line = eventually("the line is written", || {
        let text = std::fs::read_to_string(&path).ok()?;
        serde_json::from_str::<serde_json::Value>(text.lines().next()?).ok()
    });
    assert_eq!(line["route"], KEY);
    assert_eq!((&line["end"], &line["status"]), (&"--".into(), &200.into()));
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(line["target"], "/x");

    // A hold shows as such, and who leaves, too.
    let token = edge.pause(KEY, hold(10_000));
    let mut waiting = Conn::connect(edge.http());
    waiting.send(get("/held"));
    let leaving = Conn::connect(edge.http());
    {
        let mut leaving = leaving;
        leaving.send(get("/gone"));
        edge.wait_parked(KEY, 2);
    }
    edge.wait_parked(KEY, 1);
    edge.resume(KEY, token).unwrap();
    assert_eq!(waiting.read_response().text(), "ok");
    eventually("both are told of", || {
        let text = std::fs::read_to_string(&path).ok()?;
        let of = |target: &str| text.lines().find(|line| line.contains(target));
        let (held, gone) = (of("/held")?, of("/gone")?);
        (held.contains("held_ms") && gone.contains(r#""end":"CQ""#)).then_some(())
    });

    // A rename, and a new file without anyone's help.
    std::fs::rename(&path, edge.file("access.log.1")).unwrap();
    eventually("a new file is made", || {
        client.ask(get("/later"));
        let text = std::fs::read_to_string(&path).ok()?;
        text.contains("/later").then_some(())
    });
}

#[test]
fn a_reload_follows_the_routes_of_the_file_and_leaves_those_of_the_api() {
    let edge = Edge::start();
    edge.route(KEY, &[Upstream::serve("api")]);
    let upstream = Upstream::serve("file");
    let whole = std::fs::read_to_string(edge.config()).unwrap();
    append(
        &edge,
        &format!("[[route]]\nkey = \"http:b.test\"\nupstreams = [\"{upstream}\"]\n"),
    );
    signal(&edge, Signal::HUP);
    let ask = |host: &str| {
        let mut client = Conn::connect(edge.http());
        client.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    eventually("the file's route is there", || {
        (ask("b.test").text() == "file").then_some(())
    });
    assert_eq!(ask("a.test").text(), "api");

    // One that is wrong changes nothing, and says what is wrong.
    append(&edge, "[[route]]\nkey = \"http:c.test\"\nupstreams = []\n");
    let error = reload(&edge).unwrap_err();
    assert!(error.message.contains("c.test"), "{error}");
    assert_eq!(ask("b.test").text(), "file");
    append(&edge, "nonsense\n");
    assert!(reload(&edge).is_err());

    std::fs::write(edge.config(), whole).unwrap();
    let reply = reload(&edge).unwrap();
    assert_eq!(reply.changes, ["- route http:b.test"]);
    assert_eq!(ask("b.test").status(), 404);
    assert_eq!(ask("a.test").text(), "api");
}

#[test]
fn limits_change_while_it_runs_and_the_rest_is_said_to_count_later() {
    let edge = Edge::start_with("keep_alive_ms = 60000", 1);
    edge.route(KEY, &[Upstream::serve("ok")]);
    let config = std::fs::read_to_string(edge.config()).unwrap();
    let config = config.replace("keep_alive_ms = 60000", "keep_alive_ms = 50");
    let config = config.replace("workers = 1", "workers = 2");
    std::fs::write(edge.config(), config).unwrap();
    let reply = reload(&edge).unwrap();
    assert_eq!(reply.changes, ["limits.keep_alive_ms: 60000 becomes 50"]);
    assert_eq!(reply.later, ["workers: 1 becomes 2"]);
    let mut client = Conn::connect(edge.http());
    assert_eq!(client.ask(get("/")).text(), "ok");
    client.assert_ends();
}

#[test]
fn the_log_filter_changes_while_it_runs_and_survives_an_upgrade() {
    let mut edge = Edge::start();
    let now: LogFilter = edge.get("/v1/log").unwrap();
    assert_eq!(now.filter, "warn");
    let filter = LogFilter {
        filter: "flocker_proxy=debug".into(),
    };
    let set: LogFilter = edge.put("/v1/log", &filter).unwrap();
    assert_eq!(set, filter);
    let wrong = LogFilter {
        filter: "no=such=thing".into(),
    };
    let error = edge.put::<_, LogFilter>("/v1/log", &wrong).unwrap_err();
    assert!(error.message.contains("no=such=thing"), "{error}");
    edge.upgrade(None).unwrap();
    assert_eq!(edge.get::<LogFilter>("/v1/log").unwrap(), filter);
}

#[test]
fn a_drain_is_not_ready_first_then_accepts_no_more_and_ends_with_the_last_request() {
    let mut edge = Edge::start();
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    let mut client = Conn::connect(edge.http());
    client.send(get("/slow"));
    let mut service = upstream.accept();
    service.read_request();
    let request = DrainRequest {
        deadline_ms: Some(20_000),
        notice_ms: 500,
    };
    edge.post::<_, ()>("/v1/drain", &request).unwrap();
    assert_eq!(edge.ready(), 503);
    // Who comes before the balancer has noticed is served.
    let mut late = Conn::connect(edge.http());
    late.send(get("/late"));
    let mut second = upstream.accept();
    second.read_request();
    second.send(ok("late"));
    assert_eq!(late.read_response().text(), "late");
    eventually("it accepts no more", || {
        std::net::TcpStream::connect_timeout(&edge.http(), Duration::from_secs(1))
            .is_err()
            .then_some(())
    });
    service.send(ok("done"));
    let answer = client.read_response();
    assert_eq!(answer.text(), "done");
    assert_eq!(answer.field("connection"), Some("close"));
    let ended = eventually("it ends", || edge.child().try_wait().unwrap());
    assert!(ended.success());
}

#[test]
fn a_check_says_whether_a_file_is_right() {
    let edge = Edge::start();
    for flag in ["--check", "--check-config"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_flocker-proxy"))
            .arg("--config")
            .arg(edge.config())
            .arg(flag)
            .output()
            .unwrap();
        assert_eq!(
            (output.status.code(), &*output.stdout),
            (Some(0), &b"ok\n"[..])
        );
    }
    append(&edge, "colour = 1\n");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_flocker-proxy"))
        .arg("--config")
        .arg(edge.config())
        .arg("--check")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("colour"));
}

#[test]
fn ipv6_and_dual_stack_listeners_and_upstreams_serve() {
    let six = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let upstream = six.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = six.accept() {
            let mut conn = Conn::new(stream);
            let request = conn.read_request();
            let client = request.field("x-forwarded-for").unwrap_or("").to_owned();
            conn.send(ok(&client));
        }
    });
    let free = |ip: &str| {
        let listener = std::net::TcpListener::bind(format!("{ip}:0")).unwrap();
        listener.local_addr().unwrap().port()
    };
    let (only_six, both) = (free("[::1]"), free("[::]"));
    let mut edge = Edge::start();
    let config = std::fs::read_to_string(edge.config()).unwrap();
    let listen = format!("http = [\"[::1]:{only_six}\", \"[::]:{both}\", ");
    std::fs::write(edge.config(), config.replacen("http = [", &listen, 1)).unwrap();
    // Listeners count after an upgrade, which keeps the old one.
    assert!(reload(&edge).unwrap().later[0].contains("listen.http"));
    edge.upgrade(None).unwrap();
    edge.route(KEY, &[upstream]);
    let ask = |to: SocketAddr| Conn::connect(to).ask(get("/")).text().to_owned();
    assert_eq!(
        ask(SocketAddr::from((Ipv6Addr::LOCALHOST, only_six))),
        "::1"
    );
    assert_eq!(ask(SocketAddr::from((Ipv6Addr::LOCALHOST, both))), "::1");
    // An IPv4 client of a dual-stack listener is known by its IPv4 address.
    assert_eq!(ask(SocketAddr::from(([127, 0, 0, 1], both))), "127.0.0.1");
    let first = ask(edge.http());
    assert!(first.starts_with("127."), "{first}");
}

#[test]
fn started_as_root_it_becomes_its_user_and_still_binds_low_ports() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else.
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let nobody = Some(65_534);
    std::os::unix::fs::chown(directory.path(), nobody, nobody).unwrap();
    let mut edge = Edge::start_as("user = \"nobody\"\n", directory);
    let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |pid: u32, name: &str| {
        let text = status(pid);
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let upstream = Upstream::listen();
    for round in 0..2 {
        let pid = edge.status().pid;
        assert_eq!(field(pid, "Uid:"), "65534 65534 65534 65534");
        assert_eq!(field(pid, "Gid:"), "65534 65534 65534 65534");
        assert_eq!(field(pid, "Groups:"), "65534");
        // CAP_NET_BIND_SERVICE is bit 10, and the only one.
        for set in ["CapEff:", "CapPrm:", "CapAmb:"] {
            assert_eq!(field(pid, set), "0000000000000400", "{set}");
        }
        // Every thread is that user, the workers as well.
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let path = thread.unwrap().path().join("status");
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.contains("Uid:\t65534\t"), "{text}");
        }
        let port = 900 + round;
        edge.route(&format!("tcp:{port}"), &[upstream.address]);
        let mut client = Conn::connect(SocketAddr::new(edge.http().ip(), port));
        client.send("hello");
        assert_eq!(upstream.accept().read_exact(5), b"hello");
        edge.upgrade(None).unwrap();
    }
}

#[test]
fn over_tcp_the_admin_api_is_for_those_with_a_certificate() {
    use flocker_api::{
        ErrorCode,
        client::{Client, Endpoint},
        edge::EdgeStatus,
        tls::{
            Credentials, Expected, Identity, Role,
            authority::{Authority, Existing, Order},
        },
    };
    let directory = tempfile::tempdir().unwrap();
    let now = std::time::SystemTime::now();
    let day = Duration::from_secs(86_400);
    let authority = Authority::create(&directory.path().join("ca"), now, day).unwrap();
    let issue = |role, name: &str| {
        let order = Order {
            identity: Identity::new(role, name),
            addresses: vec![[127, 0, 0, 1].into()],
            now,
            validity: day,
        };
        let folder = directory.path().join(name);
        authority.issue(&order, &folder, Existing::Keep).unwrap()
    };
    let files = issue(Role::Edge, "edge");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut edge = Edge::start();
    let config = std::fs::read_to_string(edge.config()).unwrap();
    let admin = format!(
        "[admin]\ntcp = \"{address}\"\ntls = {{ ca = {:?}, certificate = {:?}, key = {:?} }}\n",
        files.ca, files.certificate, files.key
    );
    std::fs::write(edge.config(), config.replacen("[admin]\n", &admin, 1)).unwrap();
    edge.upgrade(None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ask = |client: Client| {
        runtime.block_on(client.get::<EdgeStatus>("/v1/status", Duration::from_secs(10)))
    };
    let client = || Client::new(Endpoint::Tcp(address), "edge");
    let secure = |role, name| {
        let credentials = Credentials::load(issue(role, name)).unwrap();
        client().with_tls(credentials, Expected::At(Role::Edge, address.ip()))
    };
    assert_eq!(
        ask(secure(Role::Operator, "ann")).unwrap().name.as_str(),
        "edge"
    );
    assert_eq!(
        ask(secure(Role::Control, "control")).unwrap().name.as_str(),
        "edge"
    );
    // A node has no business here, and neither has somebody in clear.
    assert_eq!(
        ask(secure(Role::Node, "n1")).unwrap_err().code,
        ErrorCode::Unavailable
    );
    assert!(ask(client()).is_err());
    // The socket is handed on with the rest.
    edge.upgrade(None).unwrap();
    assert!(ask(secure(Role::Operator, "bob")).is_ok());
}

#[test]
fn systemd_is_told_of_each_step() {
    use std::os::unix::net::UnixDatagram;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let told = || {
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let until = |what: &str| {
        for _ in 0..100 {
            let state = told();
            if state.contains(what) {
                return state;
            }
        }
        panic!("systemd was not told {what}");
    };
    let mut edge = Edge::start_in(
        "",
        1,
        &[
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "200000"),
        ],
    );
    until("READY=1");
    until("WATCHDOG=1");
    signal(&edge, Signal::HUP);
    until("RELOADING=1");
    until("READY=1");
    let pid = edge.upgrade(None).unwrap();
    until(&format!("MAINPID={pid}"));
    until("WATCHDOG=1");
    edge.post::<_, ()>("/v1/drain", &DrainRequest::default())
        .unwrap();
    until("STOPPING=1");
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let edge = Edge::start();
    edge.route(KEY, &[Upstream::serve("ok")]);
    let token = edge.pause(KEY, hold(10_000));
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    edge.wait_parked(KEY, 1);
    let text = edge.metrics();
    assert!(
        text.contains("flocker_edge_gate_parked{route=\"http:a.test\"} 1"),
        "{text}"
    );
    edge.resume(KEY, token).unwrap();
    assert_eq!(client.read_response().text(), "ok");
    let text = edge.metrics();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        "flocker_edge_ended_total{route=\"http:a.test\",cause=\"done\"} 1",
        "flocker_edge_holds_total{route=\"http:a.test\",outcome=\"released\"} 1",
        "flocker_edge_route_hold_seconds_count{route=\"http:a.test\"} 1",
        "flocker_edge_route_bytes_total{route=\"http:a.test\",to=\"client\"}",
    ] {
        assert!(body.contains(line), "{line} is missing in\n{body}");
    }
    // Every series has a help text.
    for line in body.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(body.contains(&format!("# HELP {name} ")), "{name}");
    }
    // Chunks are for the wire; promtool wants the text.
    let path = edge.file("metrics");
    let text: String = body
        .lines()
        .filter(|line| line.starts_with('#') || line.starts_with("flocker"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&path, text).unwrap();
    let output = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&path).unwrap())
        .output()
        .expect("promtool is there: see scripts/packages");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}
