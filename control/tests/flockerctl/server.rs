//! An HTTP server of the simplest kind: canned JSON by method and path, requests noted.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use flocker_api::ErrorBody;
use serde::Serialize;
use serde_json::Value;

type Answers = HashMap<String, VecDeque<(u16, String)>>;

/// A server that answers until the test ends.
pub(crate) struct Server {
    address: SocketAddr,
    listener: Option<TcpListener>,
    answers: Answers,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    /// One that takes connections but answers nothing yet.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        Self {
            address: listener
                .local_addr()
                .expect("a bound socket has an address"),
            listener: Some(listener),
            answers: HashMap::new(),
            requests: Arc::default(),
        }
    }

    /// Answers `GET /path` and the like; several answers to the same come one after the
    /// other, and the last stays. What follows a `?` does not count.
    pub(crate) fn answer<T: Serialize>(mut self, call: &str, answer: &T) -> Self {
        let text = serde_json::to_string(answer).expect("canned answers are JSON");
        let answers = self.answers.entry(call.to_owned()).or_default();
        answers.push_back((200, text));
        self
    }

    /// Answers with an error.
    pub(crate) fn refuse(mut self, call: &str, error: &ErrorBody) -> Self {
        let text = serde_json::to_string(error).expect("errors are JSON");
        let answers = self.answers.entry(call.to_owned()).or_default();
        answers.push_back((error.code.http_status(), text));
        self
    }

    /// Begins to answer.
    pub(crate) fn start(mut self) -> Self {
        let listener = self.listener.take().expect("it is started once");
        let (mut answers, requests) = (std::mem::take(&mut self.answers), self.requests.clone());
        // It ends with the test's process, which nextest gives to each test alone.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away in the middle is not the server's trouble.
                drop(serve(stream, &mut answers, &requests));
            }
        });
        self
    }

    /// `IP:PORT`
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Bodies of the requests to a call so far.
    pub(crate) fn requests(&self, call: &str) -> Vec<Value> {
        let requests = self.requests.lock().expect("no holder panics");
        let matching = requests.iter().filter(|(made, _)| made == call);
        matching.map(|(_, body)| body.clone()).collect()
    }

    /// All calls so far, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        let requests = self.requests.lock().expect("no holder panics");
        requests.iter().map(|(call, _)| call.clone()).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    answers: &mut Answers,
    requests: &Mutex<Vec<(String, Value)>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line
        .rsplit_once(' ')
        .map_or("", |(target, _version)| target);
    let call = target.split('?').next().unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    requests
        .lock()
        .expect("no holder panics")
        .push((call.clone(), body));
    let (status, text) = match answers.get_mut(&call) {
        Some(left) if left.len() > 1 => left.pop_front().unwrap_or_default(),
        Some(left) => left.front().cloned().unwrap_or_default(),
        None => (404, format!("nothing is canned for {call}")),
    };
    write!(
        stream,
        "HTTP/1.1 {status} Canned\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
}
