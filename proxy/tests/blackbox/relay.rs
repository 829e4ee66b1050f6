//! Opaque bytes through the edge: the ways in which splice, half-close and resets go wrong.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    sync::OnceLock,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::harness::{Conn, Edge, Upstream, eventually, nobody};

/// An edge with a TCP route, connected on both sides.
struct Relay {
    edge: Edge,
    upstream: Upstream,
    address: SocketAddr,
    key: String,
}

impl Relay {
    fn start() -> Self {
        Self::start_with("")
    }

    fn start_with(limits: &str) -> Self {
        let edge = Edge::start_with(limits, 1);
        let upstream = Upstream::listen();
        let (address, key) = edge.tcp(0);
        edge.route(&key, &[upstream.address]);
        Self {
            edge,
            upstream,
            address,
            key,
        }
    }

    fn connect(&self) -> (Conn, Conn) {
        let client = Conn::connect(self.address);
        (client, self.upstream.accept())
    }
}

/// Length after which the pattern repeats: no multiple of any buffer's.
const PERIOD: u64 = 1_000_003;

/// A part of a stream in which any cut, loss or repetition would show.
fn pattern(from: u64, count: u64) -> Vec<u8> {
    static PERIODS: OnceLock<Vec<u8>> = OnceLock::new();
    let periods = PERIODS.get_or_init(|| {
        (0..2 * PERIOD)
            .map(|at| {
                (at % PERIOD)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .to_be_bytes()[0]
            })
            .collect()
    });
    assert!(count <= PERIOD);
    let start = usize::try_from(from % PERIOD).unwrap();
    periods[start..start + usize::try_from(count).unwrap()].to_vec()
}

/// These bytes are the pattern's from there on.
fn assert_pattern(bytes: &[u8], from: u64) {
    if bytes != pattern(from, bytes.len() as u64) {
        let expected = pattern(from, bytes.len() as u64);
        let at = bytes
            .iter()
            .zip(&expected)
            .take_while(|(a, b)| a == b)
            .count();
        panic!("byte {} is not what was sent", from + at as u64);
    }
}

/// Sends so many bytes of the pattern.
fn send_pattern(conn: &mut Conn, from: u64, count: u64) {
    let mut at = from;
    while at < from + count {
        let step = (from + count - at).min(1 << 16);
        conn.send(pattern(at, step));
        at += step;
    }
}

fn sending(mut conn: Conn, count: u64) -> JoinHandle<Conn> {
    thread::spawn(move || {
        send_pattern(&mut conn, 0, count);
        conn
    })
}

/// Reads so many bytes of the pattern, at most `block` at a time.
fn read_pattern(conn: &mut Conn, from: u64, count: u64, block: usize) {
    let mut at = from;
    let mut buffer = vec![0; block];
    while at < from + count {
        let most = buffer
            .len()
            .min(usize::try_from(from + count - at).unwrap());
        let got = conn.stream.read(&mut buffer[..most]).unwrap();
        assert!(got > 0, "ended after {at} bytes");
        assert_pattern(&buffer[..got], at);
        at += got as u64;
    }
}

/// Sends the pattern until nothing more is taken; how much was.
fn fill_up(conn: &mut Conn) -> u64 {
    let short = Duration::from_millis(60);
    conn.stream.set_write_timeout(Some(short)).unwrap();
    let mut sent = 0u64;
    loop {
        match conn.stream.write(&pattern(sent, 1 << 16)) {
            Ok(count) => sent += count as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    conn.stream
        .set_write_timeout(Some(crate::harness::PATIENCE))
        .unwrap();
    sent
}

#[test]
fn both_directions_carry_much_at_once() {
    let relay = Relay::start();
    let (client, service) = relay.connect();
    let count = 48 << 20;
    let (mut up, mut down) = (twin(&service), twin(&client));
    let (client, service) = (sending(client, count), sending(service, count));
    let reading = thread::spawn(move || read_pattern(&mut up, 0, count, 1 << 16));
    read_pattern(&mut down, 0, count, 1 << 16);
    reading.join().unwrap();
    let (client, mut service) = (client.join().unwrap(), service.join().unwrap());
    client.finish();
    service.assert_ends();
}

/// The same connection for another thread.
fn twin(conn: &Conn) -> Conn {
    Conn::new(conn.stream.try_clone().unwrap())
}

#[test]
fn a_half_closed_session_goes_on_in_the_other_direction() {
    let relay = Relay::start();
    for client_first in [true, false] {
        let (client, service) = relay.connect();
        let (mut first, mut second) = if client_first {
            (client, service)
        } else {
            (service, client)
        };
        first.send("question");
        first.finish();
        assert_eq!(second.read_to_end(), b"question");
        // Longer than any "termination delay" would let it live, in much data and in little.
        send_pattern_in_background(&second, 4 << 20);
        read_pattern(&mut first, 0, 4 << 20, 1 << 16);
        second.send("bye");
        drop(second);
        assert_eq!(first.read_to_end(), b"bye");
    }
    relay.edge.wait_in_flight(&relay.key, 0);
}

fn send_pattern_in_background(conn: &Conn, count: u64) {
    let mut conn = twin(conn);
    thread::spawn(move || send_pattern(&mut conn, 0, count));
}

/// sozu#1323: EAGAIN of a splice into a full pipe was taken for an empty socket, and the tail
/// of the stream hung.
#[test]
fn a_reader_that_stalls_with_a_full_pipe_gets_the_whole_tail() {
    let relay = Relay::start();
    let (mut client, mut service) = relay.connect();
    // Streams first, so that the direction goes by splice.
    let warm = 8 << 20;
    send_pattern_in_background(&service, warm);
    read_pattern(&mut client, 0, warm, 1 << 16);
    for _ in 0..3 {
        let sent = fill_up(&mut service);
        assert!(sent > 1 << 20, "only {sent} bytes were taken");
        // Nothing more is sent: what is in the pipe and in the sockets must come by itself.
        read_pattern(&mut client, 0, sent, 1 << 16);
        client.assert_silent();
    }
}

/// mmproxy-rs#22: the end of the source while the pipe holds bytes cut the stream off.
#[test]
fn the_end_of_a_stream_comes_after_what_is_in_the_pipe() {
    let relay = Relay::start();
    for _ in 0..3 {
        let (mut client, mut service) = relay.connect();
        let warm = 4 << 20;
        send_pattern_in_background(&service, warm);
        read_pattern(&mut client, 0, warm, 1 << 16);
        let sent = fill_up(&mut service);
        drop(service);
        read_pattern(&mut client, 0, sent, 5_000);
        client.assert_ends();
    }
}

/// kklis/proxy#4: what a short write left in the pipe was lost.
#[test]
fn a_reader_of_small_sips_loses_nothing() {
    let relay = Relay::start();
    let (mut client, service) = relay.connect();
    let count = 6 << 20;
    let service = sending(service, count);
    for block in [1, 7, 100, 1_447, 4_097] {
        read_pattern_at(&mut client, block);
    }
    let taken = 5 * SIPS;
    read_pattern(&mut client, taken, count - taken, 33_333);
    drop(service.join().unwrap());
    client.assert_ends();
}

/// Bytes taken in each round of sips.
const SIPS: u64 = 10_000;

fn read_pattern_at(client: &mut Conn, block: usize) {
    let round = match block {
        1 => 0,
        7 => 1,
        100 => 2,
        1_447 => 3,
        _ => 4,
    };
    read_pattern(client, round * SIPS, SIPS, block);
}

/// A pipe has slots, one a fragment: small segments fill it long before its bytes do.
#[test]
fn many_small_segments_do_not_stall() {
    let relay = Relay::start();
    let (mut client, mut service) = relay.connect();
    let warm = 4 << 20;
    send_pattern_in_background(&service, warm);
    read_pattern(&mut client, 0, warm, 1 << 16);
    let count = 2_000 * 1_448;
    let reading = thread::spawn(move || {
        read_pattern(&mut client, 0, count, 1 << 16);
        client
    });
    for at in (0..count).step_by(1_448) {
        service.send(pattern(at, 1_448));
    }
    drop(reading.join().unwrap());
}

/// golang#10948: SPLICE_F_MORE corked the last segment for 200 ms.
#[test]
fn small_messages_after_a_stream_are_not_delayed() {
    let relay = Relay::start();
    let (mut client, mut service) = relay.connect();
    for _ in 0..5 {
        let count = 3 << 20;
        send_pattern_in_background(&service, count);
        read_pattern(&mut client, 0, count, 1 << 16);
        let mut rounds: Vec<Duration> = Vec::new();
        for _ in 0..9 {
            let started = Instant::now();
            service.send("ping");
            assert_eq!(client.read_exact(4), b"ping");
            client.send("pong");
            assert_eq!(service.read_exact(4), b"pong");
            rounds.push(started.elapsed());
        }
        // The median: the machine may be busy, a cork is always there.
        rounds.sort();
        assert!(rounds[4] < Duration::from_millis(100), "{rounds:?}");
    }
}

/// envoy#45190: a reset overtook the bytes before it; envoy#43927: it became a clean end.
#[test]
fn a_reset_arrives_as_one_after_the_bytes_before_it() {
    let relay = Relay::start();
    for to_client in [true, false] {
        for _ in 0..10 {
            let (client, service) = relay.connect();
            let (mut from, mut to) = if to_client {
                (service, client)
            } else {
                (client, service)
            };
            from.send("last words");
            assert_eq!(to.read_exact(4), b"last");
            from.reset();
            assert_eq!(to.read_exact(6), b" words");
            let end = to.stream.read(&mut [0; 10]);
            let error = end.expect_err("a reset became a clean end");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }
    relay.edge.wait_in_flight(&relay.key, 0);
}

/// A service that answers and closes while the client is still sending resets the connection;
/// its answer came before that.
#[test]
fn last_words_are_heard_by_a_client_that_is_still_sending() {
    let relay = Relay::start();
    for _ in 0..5 {
        let (mut client, mut service) = relay.connect();
        let mut uploading = twin(&client);
        let upload = thread::spawn(move || {
            // Ends by a reset, when the service has closed.
            while uploading.stream.write_all(&[0; 1 << 16]).is_ok() {}
        });
        service.read_exact(1 << 20);
        service.send("last words");
        drop(service);
        assert_eq!(client.read_to_end_or_reset(), b"last words");
        upload.join().unwrap();
    }
    relay.edge.wait_in_flight(&relay.key, 0);
}

#[test]
fn a_reset_behind_a_full_pipe_does_not_hide_that_bytes_are_missing() {
    let relay = Relay::start();
    let (mut client, mut service) = relay.connect();
    let sent = fill_up(&mut service);
    service.reset();
    let mut at = 0u64;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match client.stream.read(&mut buffer) {
            Ok(0) => {
                assert_eq!(at, sent, "a clean end after {at} of {sent} bytes");
                break;
            }
            Ok(count) => {
                assert_pattern(&buffer[..count], at);
                at += count as u64;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                break;
            }
        }
    }
    relay.edge.wait_in_flight(&relay.key, 0);
}

#[test]
fn slow_readers_do_not_fill_memory_nor_burn_cpu() {
    let relay = Relay::start();
    let before = relay.edge.resident();
    let mut pairs = Vec::new();
    for _ in 0..8 {
        let (client, mut service) = relay.connect();
        fill_up(&mut service);
        pairs.push((client, service));
    }
    let grown = relay.edge.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for 8 slow readers");
    // All are blocked: the edge has nothing to do. apt-cacher-rs#109 spun here.
    let cpu = relay.edge.cpu();
    let (mut client, _) = pairs.pop().unwrap();
    client.stream.set_nodelay(true).unwrap();
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        thread::park_timeout(Duration::from_millis(50));
    }
    let used = relay.edge.cpu().saturating_sub(cpu);
    assert!(used < Duration::from_millis(150), "{used:?} of 500 ms");
    assert_eq!(client.read_exact(4).len(), 4);
}

#[test]
fn sessions_leave_no_descriptor_behind() {
    let relay = Relay::start();
    let (client, service) = relay.connect();
    drop((client, service));
    relay.edge.wait_in_flight(&relay.key, 0);
    // Pipes are kept for the next stream; so is nothing else.
    let before = relay.edge.descriptors();
    for round in 0..60 {
        let (mut client, mut service) = relay.connect();
        // A connection that is reset before its first byte may be made again.
        client.send("first");
        assert_eq!(service.read_exact(5), b"first");
        match round % 8 {
            0 => client.reset(),
            1 => service.reset(),
            2 => {
                send_pattern(&mut service, 0, 1 << 20);
                client.reset();
            }
            _ => client.finish(),
        }
    }
    relay.edge.wait_in_flight(&relay.key, 0);
    eventually("only pooled pipes are left", || {
        (relay.edge.descriptors() <= before + 8).then_some(())
    });
    assert_eq!(relay.edge.status().sessions, 0);
}

#[test]
fn a_connect_that_fails_is_tried_again_and_then_given_up() {
    let relay = Relay::start_with("connect_hold_ms = 400");
    let address = nobody();
    relay.edge.route(&relay.key, &[address]);
    let mut client = Conn::connect(relay.address);
    client.send("early");
    let listener = std::net::TcpListener::bind(address).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut service = Conn::new(stream);
    assert_eq!(service.read_exact(5), b"early");
    drop((client, service, listener));
    let mut client = Conn::connect(relay.address);
    let started = Instant::now();
    client.wait_gone();
    assert!(started.elapsed() < Duration::from_secs(5));
    relay.edge.wait_in_flight(&relay.key, 0);
}

#[test]
fn a_port_is_listened_on_as_long_as_its_route_is_there() {
    use flocker_api::route::Operation;
    let relay = Relay::start();
    let (other, key) = relay.edge.tcp(1);
    let refused = |address| {
        let error = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    };
    refused(other);
    relay.edge.route(&key, &[relay.upstream.address]);
    drop((Conn::connect(other), relay.upstream.accept()));
    let key = key.parse().unwrap();
    relay.edge.apply(vec![Operation::Remove { key }]).unwrap();
    refused(other);
    // Sessions of other routes do not notice.
    let (mut client, mut service) = relay.connect();
    client.send("x");
    assert_eq!(service.read_exact(1), b"x");
}

#[test]
fn a_port_that_is_taken_refuses_the_transaction_by_name() {
    use flocker_api::{
        ErrorCode,
        route::{Operation, Route},
    };
    let relay = Relay::start();
    let (address, key) = relay.edge.tcp(1);
    let _taken = std::net::TcpListener::bind(address).unwrap();
    let add = |key: &str| Operation::Add {
        route: Route::new(key.parse().unwrap(), [relay.upstream.address]),
    };
    let before = relay.edge.status();
    let error = relay
        .edge
        .apply(vec![add("http:new.test"), add(&key)])
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::Precondition);
    assert!(error.message.contains(&address.to_string()), "{error}");
    let after = relay.edge.status();
    assert_eq!(after.generation, before.generation);
    assert_eq!(after.routes, before.routes);
}
