//! Programs that people use, on both sides of the edge: curl, nginx, WebSocket clients and
//! servers; and strace, which sees how large bodies go through.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::harness::{Conn, Edge, Upstream, eventually, nobody};

const KEY: &str = "http:a.test";
const PYTHON: &str = "/usr/bin/python3";
const WEBSOCKETS: &str = "/usr/lib/python3/dist-packages/websockets/__init__.py";

/// Whether a file of a package is there; says so if not.
fn has(file: &str) -> bool {
    let there = Path::new(file).exists();
    if !there {
        let text = format!("not run: {file} is not there (scripts/packages)\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    there
}

/// A program that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn curl(edge: &Edge, arguments: &[&str]) -> Output {
    let output = Command::new("/usr/bin/curl")
        .args(["-sS", "--max-time", "20"])
        .args(["--connect-to", &format!("::{}", edge.http())])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// nginx that serves a folder with a large file, alone and in the foreground.
struct Nginx {
    folder: TempDir,
    address: SocketAddr,
    _running: Running,
}

impl Nginx {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        let address = nobody();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {root}/pid;\nerror_log {root}/log;\n\
             events {{}}\nhttp {{\n access_log off;\n client_body_temp_path {root}/body;\n \
             proxy_temp_path {root}/p;\n fastcgi_temp_path {root}/f;\n uwsgi_temp_path {root}/u;\n \
             scgi_temp_path {root}/s;\n client_max_body_size 0;\n server {{\n  listen {address};\n  \
             root {root}/www;\n  dav_methods PUT;\n  gzip on;\n  gzip_min_length 1;\n \
             gzip_types *;\n  gzip_http_version 1.0;\n }}\n}}\n"
        );
        fs::create_dir(folder.path().join("www")).unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, config).unwrap();
        let child = Command::new("/usr/sbin/nginx")
            .args(["-e", &format!("{root}/log"), "-c"])
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running(child);
        eventually("nginx listens", || {
            std::net::TcpStream::connect(address).ok()
        });
        Self {
            folder,
            address,
            _running: running,
        }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("www").join(name)
    }
}

/// Bytes that are all different from their neighbours.
fn pattern(count: usize) -> Vec<u8> {
    (0..count as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

#[test]
fn curl_and_nginx_speak_through_the_edge() {
    if !(has("/usr/sbin/nginx") && has("/usr/bin/curl")) {
        return;
    }
    let nginx = Nginx::start();
    let edge = Edge::start();
    edge.route(KEY, &[nginx.address]);
    let large = pattern(8 << 20);
    fs::write(nginx.file("large"), &large).unwrap();
    fs::write(nginx.file("page.txt"), "hello ".repeat(1000)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy").display().to_string();

    // Whole, in part, not at all, and only its head; twice over one connection.
    curl(&edge, &["-o", &copy, "http://a.test/large"]);
    assert!(fs::read(&copy).unwrap() == large);
    let part = curl(&edge, &["-r", "100-199", "http://a.test/large"]);
    assert!(part.stdout == large[100..200]);
    let head = text(&curl(&edge, &["-I", "http://a.test/large"]));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 8388608"));
    let tag = head
        .lines()
        .find_map(|line| line.strip_prefix("ETag: "))
        .unwrap();
    let condition = format!("If-None-Match: {tag}");
    let code = "%{http_code} %{num_connects}\n";
    let url = "http://a.test/large";
    let none = ["-o", "/dev/null", "-o", "/dev/null"];
    let twice = [&none[..], &["-w", code, "-H", &condition, url, url]].concat();
    assert_eq!(text(&curl(&edge, &twice)), "304 1\n304 0\n");

    // Compressed on the way is chunked by nginx; curl decodes both.
    let page = curl(&edge, &["--compressed", "http://a.test/page.txt"]);
    assert_eq!(text(&page), "hello ".repeat(1000));
    let old = curl(&edge, &["-0", "--compressed", "http://a.test/page.txt"]);
    assert_eq!(text(&old), "hello ".repeat(1000));

    // Up: curl expects 100 for a large body, and chunks one of unknown length.
    let source = scratch.path().join("source");
    fs::write(&source, &large).unwrap();
    let source = source.display().to_string();
    curl(
        &edge,
        &[
            "-T",
            &source,
            "-H",
            "Expect: 100-continue",
            "http://a.test/up1",
        ],
    );
    assert!(fs::read(nginx.file("up1")).unwrap() == large);
    let chunked = [
        "-T",
        &source,
        "-H",
        "Transfer-Encoding: chunked",
        "http://a.test/up2",
    ];
    curl(&edge, &chunked);
    assert!(fs::read(nginx.file("up2")).unwrap() == large);
}

#[test]
fn curl_tunnels_through_a_route_that_allows_connect() {
    if !has("/usr/bin/curl") {
        return;
    }
    let edge = Edge::start();
    let upstream = Upstream::listen();
    let mut route = flocker_api::route::Route::new(KEY.parse().unwrap(), [upstream.address]);
    route.allow_connect = true;
    edge.apply(vec![flocker_api::route::Operation::Put { route }])
        .unwrap();
    let service = std::thread::spawn(move || {
        let mut service = upstream.accept();
        let connect = service.read_head();
        service.send("HTTP/1.1 200 Connected\r\n\r\n");
        let inner = service.read_head();
        service.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ninside");
        (connect, inner, service)
    });
    let proxy = format!("http://{}", edge.http());
    let output = Command::new("/usr/bin/curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            "-p",
            "-x",
            &proxy,
            "http://a.test:8080/x",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "inside");
    let (connect, inner, _service) = service.join().unwrap();
    assert!(
        connect.starts_with("CONNECT a.test:8080 HTTP/1.1\r\n"),
        "{connect}"
    );
    // The edge added nothing within the tunnel.
    assert!(inner.starts_with("GET /x HTTP/1.1\r\n") && !inner.contains("Forwarded"));
}

/// Echoes; says its port first.
const SERVER: &str = r#"
import asyncio, websockets
async def echo(socket):
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None, subprotocols=["notes"]) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()
asyncio.run(main())
"#;

/// Many small messages, a large one, a ping, an early message, a close; several at once.
const CLIENT: &str = r#"
import asyncio, os, sys, websockets
async def talk(number):
    uri = "ws://a.test/chat"
    host, port = sys.argv[1].rsplit(":", 1)
    async with websockets.connect(uri, host=host, port=int(port), max_size=None,
                                  subprotocols=["notes"]) as socket:
        assert socket.subprotocol == "notes", socket.subprotocol
        for count in range(200):
            text = f"{number} {count}"
            await socket.send(text)
            assert await socket.recv() == text
        large = os.urandom(3 << 20)
        await socket.send(large)
        assert await socket.recv() == large
        await (await socket.ping())
    assert socket.close_code == 1000, socket.close_code
async def main():
    await asyncio.gather(*(talk(number) for number in range(8)))
    print("all said")
asyncio.run(main())
"#;

#[test]
fn websockets_go_through() {
    if !has(WEBSOCKETS) {
        return;
    }
    let mut child = Command::new(PYTHON)
        .args(["-c", SERVER])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    let _server = Running(child);
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().unwrap();
    let edge = Edge::start();
    edge.route(KEY, &[SocketAddr::from(([127, 0, 0, 1], port))]);
    let output = Command::new(PYTHON)
        .args(["-c", CLIENT, &edge.http().to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text(&output), "all said\n", "{complaint}");
    edge.wait_in_flight(KEY, 0);
}

/// Large bodies go from socket to socket within the kernel, in both directions.
#[test]
fn large_bodies_are_spliced() {
    if !has("/usr/bin/strace") {
        return;
    }
    let edge = Edge::start();
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    let scratch = tempfile::tempdir().unwrap();
    let trace = scratch.path().join("trace");
    let mut strace = Command::new("/usr/bin/strace")
        .args([
            "-f",
            "-e",
            "trace=splice,recvfrom,read,sendto,write,writev",
            "-o",
        ])
        .arg(&trace)
        .args(["-p", &edge.pid().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = strace.stderr.take().unwrap();
    let strace = Running(strace);
    let mut line = String::new();
    BufReader::new(stderr).read_line(&mut line).unwrap();
    if !line.contains("attached") {
        std::io::stderr()
            .write_all(format!("not run: {line}").as_bytes())
            .unwrap();
        return;
    }

    let body = pattern(32 << 20);
    let length = body.len();
    let mut client = Conn::connect(edge.http());
    let mut sender = Conn::new(client.stream.try_clone().unwrap());
    let sent = body.clone();
    let sending = std::thread::spawn(move || {
        sender.send(format!(
            "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"
        ));
        sender.send(sent);
    });
    let mut service = upstream.accept();
    assert!(service.read_request().body == body);
    sending.join().unwrap();
    let returned = body.clone();
    let answering = std::thread::spawn(move || {
        service.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ));
        service.send(returned);
        service
    });
    assert!(client.read_response().body == body);
    drop(answering.join().unwrap());
    drop(strace);

    let (spliced, copied) = moved(&fs::read_to_string(trace).unwrap());
    // In and out: each byte is seen twice, in both directions.
    let all = 4 * length as u64;
    assert!(
        spliced > all * 8 / 10 && copied < all * 2 / 10,
        "of {all} bytes {spliced} were spliced and {copied} copied"
    );
}

/// Bytes that the calls of a trace have spliced, and copied.
fn moved(trace: &str) -> (u64, u64) {
    let (mut spliced, mut copied) = (0, 0);
    for line in trace.lines() {
        let bytes: u64 = line
            .rsplit("= ")
            .next()
            .and_then(|result| result.split(' ').next()?.parse().ok())
            .unwrap_or(0);
        match line.contains(" splice(") {
            true => spliced += bytes,
            false => copied += bytes,
        }
    }
    (spliced, copied)
}
