//! Many unlike requests at once, in random pieces, while their route is moved to and fro: what
//! one exchange leaves behind must not show in the next.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use flocker_api::gate::QuiesceReply;

use crate::harness::{Conn, Edge, Message, eventually, hold};

const KEY: &str = "http:a.test";

/// Numbers that only look random; the seed is in the failure's message.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn body(seed: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (seed.wrapping_add(at).wrapping_mul(0x9e37_79b1) >> 13).to_be_bytes()[7])
        .collect()
}

fn chunked(body: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((1 + dice.below(30_000)).min(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = after;
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// A service that answers what the path asks for, `/KIND/SEED/LENGTH`, and says how the
/// request's body looked to it.
fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // A panic ends one connection, and the client tells of it.
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(stream: TcpStream) {
    let mut conn = Conn::new(stream);
    conn.stream.set_read_timeout(None).unwrap();
    let mut dice = Dice(7);
    while conn.has_more() {
        let request = conn.read_request();
        let path = request.head.split(' ').nth(1).unwrap();
        let parts: Vec<&str> = path.split('/').collect();
        let (seed, length) = (parts[2].parse().unwrap(), parts[3].parse().unwrap());
        let answer = body(seed, length);
        let seen = digest(&request.body);
        let mut out = format!("HTTP/1.1 200 OK\r\nX-Seen: {seen}\r\n").into_bytes();
        match parts[1] {
            "empty" => {
                out = format!("HTTP/1.1 204 No Content\r\nX-Seen: {seen}\r\n\r\n").into_bytes();
            }
            "chunked" => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                out.extend(chunked(&answer, &mut dice));
            }
            kind => {
                out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
                if kind == "close" {
                    out.extend_from_slice(b"Connection: close\r\n");
                }
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(&answer);
            }
        }
        for piece in pieces(&out, &mut dice) {
            conn.send(piece);
        }
        if parts[1] == "close" {
            return;
        }
    }
}

fn digest(body: &[u8]) -> String {
    let sum = body
        .iter()
        .fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
    format!("{}-{sum:x}", body.len())
}

/// The bytes in a few pieces.
fn pieces<'b>(bytes: &'b [u8], dice: &mut Dice) -> Vec<&'b [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for _ in 0..dice.below(4) {
        let (piece, after) = rest.split_at(dice.below(rest.len() + 1));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// A request, and what must come back.
struct Case {
    bytes: Vec<u8>,
    seen: String,
    answer: Vec<u8>,
    status: u16,
}

impl Case {
    fn draw(dice: &mut Dice) -> Self {
        let length = |dice: &mut Dice| match dice.below(4) {
            0 => 0,
            1 => dice.below(100),
            2 => dice.below(20_000),
            _ => dice.below(300_000),
        };
        let kind = ["length", "chunked", "empty", "close"][dice.below(4)];
        let (seed, answer) = (dice.below(1_000), length(dice));
        let path = format!("/{kind}/{seed}/{answer}");
        let sent = body(dice.below(1_000), length(dice));
        let (bytes, seen) = match dice.below(3) {
            0 => (
                format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n").into_bytes(),
                digest(b""),
            ),
            1 => {
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n",
                    sent.len()
                );
                ([head.as_bytes(), &sent].concat(), digest(&sent))
            }
            _ => {
                let head = format!(
                    "PUT {path} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                let body = chunked(&sent, dice);
                ([head.as_bytes(), &body].concat(), digest(&sent))
            }
        };
        let empty = kind == "empty";
        Self {
            bytes,
            seen,
            answer: if empty {
                Vec::new()
            } else {
                body(seed, answer)
            },
            status: if empty { 204 } else { 200 },
        }
    }

    fn check(&self, response: &Message, context: &str) {
        assert_eq!(
            response.status(),
            self.status,
            "{context}: {}",
            response.head
        );
        assert_eq!(response.field("x-seen"), Some(&*self.seen), "{context}");
        assert!(response.body == self.answer, "{context}: another body");
    }
}

/// Asks so many times, in bursts of pipelined requests.
fn client(to: SocketAddr, seed: u64, bursts: usize) {
    let mut dice = Dice(seed);
    let mut conn = Conn::connect(to);
    for burst in 0..bursts {
        let cases: Vec<Case> = (0..1 + dice.below(4))
            .map(|_| Case::draw(&mut dice))
            .collect();
        let bytes: Vec<u8> = cases.iter().flat_map(|case| case.bytes.clone()).collect();
        let mut sender = Conn::new(conn.stream.try_clone().unwrap());
        let cuts: Vec<Vec<u8>> = pieces(&bytes, &mut dice)
            .into_iter()
            .map(<[u8]>::to_vec)
            .collect();
        // Answers are read meanwhile, or both sides would wait for the other to read.
        let sending = thread::spawn(move || {
            for piece in cuts {
                sender.send(piece);
            }
        });
        for (number, case) in cases.iter().enumerate() {
            let context = format!("seed {seed}, burst {burst}, request {number}");
            case.check(&conn.read_response(), &context);
        }
        sending.join().unwrap();
        if dice.below(5) == 0 {
            conn = Conn::connect(to);
        }
    }
}

#[test]
fn unlike_exchanges_do_not_meet_while_their_route_moves() {
    let edge = Edge::start_with("", 2);
    let upstreams = [mirror(), mirror()];
    edge.route(KEY, &[upstreams[0]]);
    let to = edge.http();
    let clients: Vec<_> = (1..=8)
        .map(|seed| thread::spawn(move || client(to, seed, 25)))
        .collect();
    let mut moves = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        moves += 1;
        let token = edge.pause(KEY, hold(20_000));
        let quiesced = edge.quiesce(KEY, token, 15_000);
        assert_eq!(
            quiesced,
            QuiesceReply::Quiesced { closed: 0 },
            "move {moves}"
        );
        edge.switch(KEY, token, upstreams[moves % 2], true).unwrap();
        let before = edge.show(KEY).requests;
        eventually("some requests pass", || {
            let over = clients.iter().all(thread::JoinHandle::is_finished);
            (over || edge.show(KEY).requests > before + 10).then_some(())
        });
    }
    for client in clients {
        client.join().unwrap();
    }
    assert!(moves > 3, "only {moves} moves");
    let route = edge.show(KEY);
    assert_eq!((route.failed, route.gate.in_flight), (0, 0));
}
