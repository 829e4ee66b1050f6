//! Clients that people use: curl, nghttp, h2load.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Edge, Upstream, eventually, hold};

const KEY: &str = "http:a.test";

/// Whether a program is there; says so if not.
pub(super) fn has(program: &str) -> bool {
    let folders = ["/usr/bin", "/usr/sbin"];
    let there = folders
        .iter()
        .any(|folder| Path::new(folder).join(program).exists());
    if !there {
        say_missing(program);
    }
    there
}

pub(super) fn say_missing(program: &str) {
    let text = format!("not run: {program} is not installed (scripts/packages)\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

fn curl(edge: &Edge, arguments: &[&str]) -> Output {
    Command::new("curl")
        .args(["-sS", "--http2-prior-knowledge", "--max-time", "20"])
        .args(["--connect-to", &format!("::{}", edge.http())])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn curl_speaks_http2_to_an_upstream_that_does_not() {
    if !has("curl") {
        return;
    }
    let edge = Edge::start();
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    let service = thread::spawn(move || {
        let mut service = upstream.accept();
        let request = service.read_request();
        service.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes");
        (request, service)
    });
    let big = "x".repeat(300_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &big).unwrap();
    let data = format!("@{}", file.path().display());
    let output = curl(
        &edge,
        &[
            "-w",
            " %{http_version} %{http_code}",
            "--data-binary",
            &data,
            "http://a.test/up",
        ],
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "yes 2 200",
        "{output:?}"
    );
    let (request, _service) = service.join().unwrap();
    assert!(request.body == big.as_bytes());
    let output = curl(
        &edge,
        &["-o", "/dev/null", "-w", "%{http_code}", "http://none.test/"],
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "404");
}

#[test]
fn nghttp_gets_many_at_once() {
    if !has("nghttp") {
        return;
    }
    let edge = Edge::start();
    edge.route(KEY, &[Upstream::serve("from upstream")]);
    let output = Command::new("nghttp")
        .args([
            "-m",
            "20",
            "-H",
            ":authority: a.test",
            &format!("http://{}/", edge.http()),
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("from upstream").count(), 20, "{output:?}");
}

/// What h2load says of its requests, by its own words.
fn verdict(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("requests: "));
    line.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

#[test]
fn h2load_sees_nothing_of_switches() {
    if !has("h2load") {
        return;
    }
    let edge = Edge::start_with("", 2);
    let upstreams = [Upstream::serve("one"), Upstream::serve("two")];
    edge.route(KEY, &upstreams[..1]);
    let load = Command::new("h2load")
        .args([
            "-c",
            "8",
            "-m",
            "8",
            "-n",
            "20000",
            "-H",
            ":authority: a.test",
        ])
        .arg(format!("http://{}/", edge.http()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the load runs", || {
        edge.metrics()
            .contains("\nflocker_edge_h2_connections 8\n")
            .then_some(())
    });
    let mut switches = 0;
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until && switches < 20 {
        let token = edge.pause(KEY, hold(10_000));
        edge.quiesce(KEY, token, 5_000);
        switches += 1;
        edge.switch(KEY, token, upstreams[switches % 2], true)
            .unwrap();
    }
    let output = load.wait_with_output().unwrap();
    assert!(switches > 2, "only {switches} switches");
    assert_eq!(
        verdict(&output),
        "requests: 20000 total, 20000 started, 20000 done, 20000 succeeded, 0 failed, 0 errored, 0 timeout"
    );
}
