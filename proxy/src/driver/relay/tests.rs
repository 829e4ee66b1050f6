//! Relays between real sockets, driven by poll(2).
#![expect(
    clippy::disallowed_methods,
    reason = "a test that waits for sockets needs a deadline"
)]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// Longest time of a test.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than any socket buffer.
const BULK: usize = 16 << 20;

/// A plain socket for the test and the relay's end of the same connection.
fn pair() -> (std::net::TcpStream, Conn) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outside = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (inside, _) = listener.accept().unwrap();
    inside.set_nonblocking(true).unwrap();
    inside.set_nodelay(true).unwrap();
    (outside, Conn::new(TcpStream::from_std(inside), true))
}

struct Bed {
    from: Conn,
    to: Conn,
    flow: Flow,
    pipes: Pipes,
    buffer: Vec<u8>,
    moved: u64,
    /// Most bytes that were ever on their way outside the kernel.
    backlog_max: usize,
    spliced: bool,
}

impl Bed {
    fn new(pipes: usize) -> (std::net::TcpStream, Self, std::net::TcpStream) {
        let (source, from) = pair();
        let (sink, to) = pair();
        let bed = Self {
            from,
            to,
            flow: Flow::default(),
            pipes: Pipes::new(pipes),
            buffer: vec![0; 256 << 10],
            moved: 0,
            backlog_max: 0,
            spliced: false,
        };
        (source, bed, sink)
    }

    fn pump(&mut self, length: Option<u64>) -> Stop {
        let mut tools = Tools {
            buffer: &mut self.buffer,
            pipes: &mut self.pipes,
            may_overread: true,
        };
        let pumped = pump(
            &mut self.from,
            &mut self.to,
            &mut self.flow,
            length,
            1 << 20,
            &mut tools,
        );
        self.moved += pumped.bytes;
        self.backlog_max = self.backlog_max.max(self.flow.out.len());
        self.spliced |= self.flow.streak >= STREAK;
        pumped.stop
    }

    /// Pumps until something other than waiting is called for.
    fn run(&mut self, length: Option<u64>) -> Stop {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "stuck after {}", self.moved);
            self.from.readable = !self.from.eof;
            self.to.writable = true;
            let left = length.map(|length| length - self.moved);
            match self.pump(left) {
                Stop::Blocked => self.wait(),
                Stop::Budget => {}
                stop => return stop,
            }
        }
    }

    /// Until the socket that is waited for is ready, or for a moment.
    fn wait(&self) {
        let mut ready = [match self.flow.is_empty() {
            true => PollFd::new(self.from.stream.socket().unwrap(), PollFlags::IN),
            false => PollFd::new(self.to.stream.socket().unwrap(), PollFlags::OUT),
        }];
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        poll(&mut ready, Some(&moment)).unwrap();
    }

    /// Delivers what is left, then the end.
    fn finish(&mut self) {
        self.to.finish = true;
        let deadline = Instant::now() + PATIENCE;
        while !self.to.shut {
            assert!(Instant::now() < deadline, "{} left", self.flow.len());
            self.to.writable = true;
            self.moved += self.flow.flush(&mut self.to, &mut self.pipes).unwrap();
            if !self.flow.is_empty() {
                self.wait();
            }
        }
    }
}

fn pattern(count: usize) -> Vec<u8> {
    (0..=250).cycle().take(count).collect()
}

fn send(mut source: std::net::TcpStream, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        source.write_all(&bytes).unwrap();
        source.shutdown(Shutdown::Write).unwrap();
    })
}

fn receive(mut sink: std::net::TcpStream, step: usize) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), vec![0; step]);
        while let Ok(count @ 1..) = sink.read(&mut buffer) {
            all.extend_from_slice(&buffer[..count]);
        }
        all
    })
}

#[test]
fn a_stream_arrives_whole_by_splice_and_by_copy() {
    for pipes in [0, 1] {
        // Sips and gulps.
        for (step, count) in [(100, 2 << 20), (64 << 10, BULK)] {
            let (source, mut bed, sink) = Bed::new(pipes);
            let bytes = pattern(count);
            let (sender, receiver) = (send(source, bytes.clone()), receive(sink, step));
            assert!(matches!(bed.run(None), Stop::Eof));
            // The end was told only now, with at most a copied rest on its way.
            assert_eq!(
                bed.flow.held(),
                0,
                "the pipe is empty before the end is told"
            );
            bed.finish();
            sender.join().unwrap();
            assert!(
                receiver.join().unwrap() == bytes,
                "pipes {pipes}, step {step}"
            );
            assert_eq!(bed.moved, count as u64);
            assert!(bed.backlog_max <= 256 << 10, "{}", bed.backlog_max);
        }
    }
}

#[test]
fn a_stream_takes_a_pipe_and_gives_it_back() {
    let (source, mut bed, sink) = Bed::new(1);
    let (sender, receiver) = (send(source, pattern(BULK)), receive(sink, 256 << 10));
    bed.run(None);
    bed.finish();
    sender.join().unwrap();
    receiver.join().unwrap();
    assert!(bed.spliced, "it streamed");
    assert_eq!(bed.pipes.idle.len() + bed.pipes.left, 1);
    assert!(bed.flow.pipe.is_none());
}

#[test]
fn a_counted_stretch_ends_with_its_last_byte_and_not_in_a_pipe() {
    let (mut source, mut bed, sink) = Bed::new(1);
    let count = BULK - 7;
    let sender = thread::spawn(move || {
        source.write_all(&pattern(BULK)).unwrap();
        source
    });
    let receiver = receive(sink, 64 << 10);
    assert!(matches!(bed.run(Some(count as u64)), Stop::Complete));
    assert_eq!(bed.moved, count as u64);
    assert_eq!(bed.flow.held(), 0);
    bed.finish();
    assert!(receiver.join().unwrap() == pattern(count));
    drop(sender.join().unwrap());
}

#[test]
fn a_pipe_that_is_full_is_not_taken_for_a_socket_that_is_empty() {
    let (source, mut bed, sink) = Bed::new(1);
    let sender = send(source, pattern(BULK));
    // Nobody reads: sockets and pipe fill up.
    let deadline = Instant::now() + PATIENCE;
    let mut quiet = 0;
    while quiet < 1000 {
        assert!(Instant::now() < deadline);
        bed.from.readable = true;
        bed.to.writable = true;
        let before = bed.moved;
        bed.pump(None);
        // A sender that has not had its turn is no reader that stalls.
        let stalled = bed.moved == before && !bed.to.writable;
        quiet = if stalled { quiet + 1 } else { 0 };
    }
    assert!(
        bed.from.readable || bed.flow.is_empty(),
        "there is more to read, and that was not forgotten"
    );
    let receiver = receive(sink, 256 << 10);
    assert!(matches!(bed.run(None), Stop::Eof));
    bed.finish();
    sender.join().unwrap();
    assert!(receiver.join().unwrap() == pattern(BULK));
}

#[test]
fn a_peer_that_sends_more_than_it_announced_is_found_out() {
    let (mut source, mut bed, sink) = Bed::new(0);
    source.write_all(b"12345").unwrap();
    assert!(matches!(bed.run(Some(4)), Stop::Complete));
    assert!(bed.from.surplus);
    bed.finish();
    assert_eq!(receive(sink, 10).join().unwrap(), b"1234");
}

#[test]
fn a_short_read_of_a_counted_stretch_leaves_nothing_to_try() {
    let (mut source, mut bed, _sink) = Bed::new(0);
    source.write_all(b"1234").unwrap();
    assert!(matches!(bed.run(Some(4)), Stop::Complete));
    assert!(!bed.from.readable, "no read just to learn EAGAIN");
    assert!(!bed.from.surplus);
}

#[test]
fn a_lost_destination_is_told() {
    let (mut source, mut bed, sink) = Bed::new(1);
    let socket = socket2::SockRef::from(&sink);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(sink);
    let feeder = thread::spawn(move || while source.write_all(&[0; 65536]).is_ok() {});
    assert!(matches!(bed.run(None), Stop::Unwritable));
    bed.flow.clear(&mut bed.pipes);
    assert_eq!(bed.pipes.idle.len() + bed.pipes.left, 1, "no pipe is lost");
    drop(bed);
    feeder.join().unwrap();
}
