//! An edge, clients that speak bytes, and upstreams that a test plays itself.
//!
//! It is long because it holds all that the stories play with, in one place.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorBody,
    client::{Client, Endpoint},
    edge::{EdgeStatus, RouteStatus, TransactionReply, UpgradeReply, UpgradeRequest},
    gate::{
        HoldLimits, PauseReply, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply,
        ResumeRequest, Retarget, SwitchRequest, Token,
    },
    route::{OnMove, Operation, Route, RouteKey, Transaction},
};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;

/// How long a test waits for anything that ought to happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How an edge is started.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// Keys at the beginning of the configuration.
    pub(crate) head: &'a str,
    /// Lines of the `[listen]` table.
    pub(crate) listen: &'a str,
    /// Lines of the `[limits]` table, and whatever comes after it.
    pub(crate) limits: &'a str,
    pub(crate) workers: usize,
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// A command that becomes the edge.
    pub(crate) under: &'a [&'a str],
}

/// A running edge; ends with the value.
pub(crate) struct Edge {
    child: Child,
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
    client: Client,
    ip: IpAddr,
    port: u16,
    /// Processes that have taken over; they are not our children.
    successors: Vec<u32>,
}

impl Edge {
    /// With default limits and one worker.
    pub(crate) fn start() -> Self {
        Self::start_with("", 1)
    }

    /// With lines of the `[limits]` table and so many workers.
    pub(crate) fn start_with(limits: &str, workers: usize) -> Self {
        Self::start_in(limits, workers, &[])
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_in(limits: &str, workers: usize, environment: &[(&str, &str)]) -> Self {
        Self::start_from(&Setup {
            limits,
            workers,
            environment,
            ..Setup::default()
        })
    }

    /// With keys at the beginning of the configuration, and files in this folder.
    pub(crate) fn start_as(head: &str, directory: TempDir) -> Self {
        let setup = Setup {
            head,
            workers: 1,
            ..Setup::default()
        };
        Self::start_whole(&setup, directory)
    }

    /// With whole tables of the configuration besides.
    pub(crate) fn start_with_tables(tables: &str, limits: &str, workers: usize) -> Self {
        Self::start_from(&Setup {
            limits: &format!("{limits}\n{tables}"),
            workers,
            ..Setup::default()
        })
    }

    /// With all that can be said.
    pub(crate) fn start_from(setup: &Setup<'_>) -> Self {
        Self::start_whole(setup, tempfile::tempdir().unwrap())
    }

    fn start_whole(setup: &Setup<'_>, directory: TempDir) -> Self {
        let Setup {
            head,
            listen,
            limits,
            workers,
            environment,
            under,
        } = setup;
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // One address a process, a block of ports an edge: no two tests share any.
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let ip = IpAddr::from(Ipv4Addr::new(127, 64 | (high & 63), middle, low.max(1)));
        let port = 20_000 + 10 * NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = directory.path().join("edge.sock");
        let config = format!(
            "name = \"edge\"\nworkers = {workers}\n{head}\
             [listen]\nhttp = [\"{ip}:{port}\"]\nhttps = [\"{ip}:{}\"]\ntcp = [\"{ip}\"]\n{listen}\n\
             [admin]\nsocket = \"{}\"\n[limits]\n{limits}\n",
            port + 1,
            socket.display()
        );
        let path = directory.path().join("edge.toml");
        std::fs::write(&path, config).unwrap();
        let program = env!("CARGO_BIN_EXE_flocker-proxy");
        let mut command = match *under {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        let child = command
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .env("FLOCKER_LOG", "warn")
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        let edge = Self {
            child,
            directory,
            runtime: runtime(),
            client: Client::new(Endpoint::Unix(socket), "edge"),
            ip,
            port,
            successors: Vec::new(),
        };
        eventually("the edge answers", || {
            edge.get::<EdgeStatus>("/v1/status").ok()
        });
        edge
    }

    pub(crate) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    pub(crate) fn https(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port + 1)
    }

    /// An address whose port nobody else uses, and the key of a route for it.
    pub(crate) fn tcp(&self, number: u16) -> (SocketAddr, String) {
        let port = self.port + 2 + number;
        (SocketAddr::new(self.ip, port), format!("tcp:{port}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn second(&self) -> Second {
        Second {
            runtime: runtime(),
            client: self.client.clone(),
        }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Number of open descriptors of the edge.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(path).unwrap().count()
    }

    /// Resident memory of the edge, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.resident_of(self.pid())
    }

    /// The same of one of its processes.
    pub(crate) fn resident_of(&self, pid: u32) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// User and system time that the edge has used.
    pub(crate) fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    pub(crate) fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ErrorBody> {
        self.runtime.block_on(self.client.get(path, PATIENCE))
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("edge.toml")
    }

    /// A path in the folder of this test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Hands over to a new process; its number.
    pub(crate) fn upgrade(&mut self, binary: Option<PathBuf>) -> Result<u32, ErrorBody> {
        let reply: UpgradeReply = self.post("/v1/upgrade", &UpgradeRequest { binary })?;
        self.successors.push(reply.pid);
        Ok(reply.pid)
    }

    pub(crate) fn put<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, ErrorBody> {
        self.runtime
            .block_on(self.client.put(path, request, PATIENCE))
    }

    pub(crate) fn post<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, ErrorBody> {
        let deadline = PATIENCE + Duration::from_secs(20);
        self.runtime
            .block_on(self.client.post(path, request, deadline))
    }

    pub(crate) fn delete<A: DeserializeOwned>(&self, path: &str) -> Result<A, ErrorBody> {
        self.runtime
            .block_on(self.client.delete(path, &(), PATIENCE))
    }

    pub(crate) fn apply(&self, operations: Vec<Operation>) -> Result<TransactionReply, ErrorBody> {
        let transaction = Transaction {
            against: None,
            operations,
        };
        self.post("/v1/routes", &transaction)
    }

    /// Adds or changes a route.
    pub(crate) fn route(&self, key: &str, upstreams: &[SocketAddr]) {
        self.route_on_move(key, upstreams, OnMove::Close);
    }

    pub(crate) fn route_on_move(&self, key: &str, upstreams: &[SocketAddr], on_move: OnMove) {
        let route = Route::new(parse(key), upstreams.iter().copied()).with_on_move(on_move);
        self.apply(vec![Operation::Put { route }]).unwrap();
    }

    pub(crate) fn show(&self, key: &str) -> RouteStatus {
        self.get(&format!("/v1/routes/{}", parse(key).in_url()))
            .unwrap()
    }

    pub(crate) fn status(&self) -> EdgeStatus {
        self.get("/v1/status").unwrap()
    }

    pub(crate) fn pause(&self, key: &str, limits: HoldLimits) -> Token {
        self.try_pause(key, None, limits).unwrap()
    }

    pub(crate) fn try_pause(
        &self,
        key: &str,
        token: Option<Token>,
        limits: HoldLimits,
    ) -> Result<Token, ErrorBody> {
        let request = PauseRequest {
            token,
            keys: vec![parse(key)],
            limits,
        };
        let reply: PauseReply = self.post("/v1/gates/pause", &request)?;
        Ok(reply.token)
    }

    pub(crate) fn quiesce(&self, key: &str, token: Token, deadline_ms: u64) -> QuiesceReply {
        let request = QuiesceRequest {
            token,
            keys: vec![parse(key)],
            deadline_ms,
        };
        self.post("/v1/gates/quiesce", &request).unwrap()
    }

    pub(crate) fn switch(
        &self,
        key: &str,
        token: Token,
        to: SocketAddr,
        resume: bool,
    ) -> Result<ResumeReply, ErrorBody> {
        let request = SwitchRequest {
            token,
            changes: vec![Retarget {
                key: parse(key),
                upstreams: vec![to.into()],
            }],
            resume,
        };
        self.post("/v1/gates/switch", &request)
    }

    pub(crate) fn resume(&self, key: &str, token: Token) -> Result<ResumeReply, ErrorBody> {
        let request = ResumeRequest {
            token,
            keys: vec![parse(key)],
        };
        self.post("/v1/gates/resume", &request)
    }

    pub(crate) fn wait_parked(&self, key: &str, count: u64) {
        eventually(&format!("{count} are parked at {key}"), || {
            (self.show(key).gate.parked == count).then_some(())
        });
    }

    pub(crate) fn wait_in_flight(&self, key: &str, count: u64) {
        eventually(&format!("{count} are in flight at {key}"), || {
            (self.show(key).gate.in_flight == count).then_some(())
        });
    }

    /// What `/metrics` says.
    pub(crate) fn metrics(&self) -> String {
        self.raw("/metrics")
    }

    /// The status of `/readyz`.
    pub(crate) fn ready(&self) -> u16 {
        let answer = self.raw("/readyz");
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn raw(&self, path: &str) -> String {
        let socket = self.directory.path().join("edge.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

/// The admin API of an edge, for another thread.
pub(crate) struct Second {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Second {
    pub(crate) fn quiesce(
        &self,
        key: &str,
        token: Token,
        deadline_ms: u64,
    ) -> Result<QuiesceReply, ErrorBody> {
        let request = QuiesceRequest {
            token,
            keys: vec![parse(key)],
            deadline_ms,
        };
        let call = self
            .client
            .post("/v1/gates/quiesce", &request, PATIENCE * 2);
        self.runtime.block_on(call)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        for pid in &self.successors {
            let ours = std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains("flocker-proxy"));
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw)
                && ours
            {
                // It may have ended just now.
                kill_process(pid, Signal::KILL).unwrap_or_default();
            }
        }
    }
}

pub(crate) fn parse(key: &str) -> RouteKey {
    key.parse().unwrap()
}

/// Limits of a hold that lasts so long.
pub(crate) fn hold(hold_ms: u64) -> HoldLimits {
    HoldLimits {
        hold_ms,
        ..HoldLimits::default()
    }
}

/// Waits until there is an answer.
pub(crate) fn eventually<A>(what: &str, mut ask: impl FnMut() -> Option<A>) -> A {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// A connection with a buffer; every wait is bounded.
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// A message as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// First line and fields, with the empty line.
    pub(crate) head: String,
    /// Decoded if it was chunked.
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (other, value) = line.split_once(':')?;
            other.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Conn {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&to, PATIENCE).unwrap())
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        let socket = socket2::Socket::from(self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads more into the buffer; false at the end.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65536];
        let count = self.stream.read(&mut chunk).unwrap();
        self.buffer.extend_from_slice(&chunk[..count]);
        count > 0
    }

    /// Whether anything comes before the end.
    pub(crate) fn has_more(&mut self) -> bool {
        !self.buffer.is_empty() || self.fill()
    }

    pub(crate) fn read_exact(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill(), "ended after {:?}", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    fn read_line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.drain(..=end).collect();
                return String::from_utf8(line).unwrap();
            }
            let so_far = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.fill(), "ended within a line: {so_far:?}");
        }
    }

    pub(crate) fn read_head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push_str(&self.read_line());
        }
        head
    }

    fn read_chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line();
            let digits = line.split(&[';', '\r'][..]).next().unwrap();
            let size = usize::from_str_radix(digits, 16).unwrap();
            if size == 0 {
                while self.read_line() != "\r\n" {}
                return body;
            }
            body.extend(self.read_exact(size));
            assert_eq!(self.read_exact(2), b"\r\n");
        }
    }

    /// Reads a request.
    pub(crate) fn read_request(&mut self) -> Message {
        let mut message = Message {
            head: self.read_head(),
            body: Vec::new(),
        };
        if message.field("transfer-encoding").is_some() {
            message.body = self.read_chunked();
        } else if let Some(length) = message.field("content-length") {
            let length = length.parse().unwrap();
            message.body = self.read_exact(length);
        }
        message
    }

    /// Reads a response to anything but HEAD.
    pub(crate) fn read_response(&mut self) -> Message {
        let mut message = Message {
            head: self.read_head(),
            body: Vec::new(),
        };
        let status = message.status();
        if status < 200 || status == 204 || status == 304 {
        } else if message.field("transfer-encoding").is_some() {
            message.body = self.read_chunked();
        } else if let Some(length) = message.field("content-length") {
            let length = length.parse().unwrap();
            message.body = self.read_exact(length);
        } else {
            message.body = self.read_to_end();
        }
        message
    }

    /// Sends a request and reads its response.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request);
        self.read_response()
    }

    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// The same when the end may be a reset.
    pub(crate) fn read_to_end_or_reset(&mut self) -> Vec<u8> {
        let mut chunk = [0; 65536];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}"),
            }
        }
        std::mem::take(&mut self.buffer)
    }

    /// The other side ends without a further byte.
    pub(crate) fn assert_ends(&mut self) {
        let rest = self.read_to_end();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    /// The other side ends or resets, whatever it sends before.
    pub(crate) fn wait_gone(&mut self) {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("still there: {error}"),
            }
        }
    }

    /// The other side has nothing to say for a moment.
    pub(crate) fn assert_silent(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.buffer), "");
        let short = Duration::from_millis(50);
        self.stream.set_read_timeout(Some(short)).unwrap();
        let mut byte = [0];
        let answer = self.stream.read(&mut byte);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

/// A request for host `a.test`.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n{body}")
}

pub(crate) fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A service that the test plays: it accepts, reads and answers when the test says so.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    accepted: Receiver<TcpStream>,
}

impl Upstream {
    pub(crate) fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, accepted) = channel();
        thread::spawn(move || {
            // Ends with the test: nobody receives any more.
            while let Ok((stream, _)) = listener.accept() {
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { address, accepted }
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Conn {
        Conn::new(self.accepted.recv_timeout(PATIENCE).unwrap())
    }

    /// The next connection, however long it takes.
    pub(crate) fn try_accept(&self) -> Option<Conn> {
        self.accepted.recv().ok().map(Conn::new)
    }

    /// Whether a connection is waiting.
    pub(crate) fn is_connected(&self, within: Duration) -> bool {
        match self.accepted.recv_timeout(within) {
            Ok(_) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// A service that answers each request with `name`, on any number of connections.
    pub(crate) fn serve(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                thread::spawn(move || answer_all(stream, name));
            }
        });
        address
    }
}

fn answer_all(stream: TcpStream, name: &str) {
    let mut conn = Conn::new(stream);
    conn.stream.set_read_timeout(None).unwrap();
    loop {
        let mut bytes = [0; 16384];
        // Requests of these tests have no bodies and arrive whole.
        match conn.stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => conn.buffer.extend_from_slice(&bytes[..count]),
        }
        while let Some(end) = conn.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            conn.buffer.drain(..end + 4);
            if conn.stream.write_all(ok(name).as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
