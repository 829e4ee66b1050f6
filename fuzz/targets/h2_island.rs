//! The HTTP/2 island: whatever a client sends, each stream that is let through reads as one strict
//! HTTP/1.1 request, nothing panics, and what is kept for the client is bounded.
#![no_main]

use std::task::Waker;

use flocker_fuzz::pieces;
use flocker_proxy::{
    driver::h2::{
        Stream,
        server::{Island, Polled},
    },
    logic::{
        h2::{H2Limits, meter::FrameLimits},
        http::{HeadLimits, Scheme, Verdict, parse_request},
    },
};
use libfuzzer_sys::fuzz_target;

/// Longest list of fields of a request.
const HEAD_BYTES: usize = 16 << 10;
/// Most that may wait to be sent to a client that does not read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

const LIMITS: H2Limits = H2Limits {
    streams: 8,
    stream_window: 65_535,
    replay_bytes: 1024,
    frames: FrameLimits {
        resets: 100,
        pings: 100,
        settings: 50,
        empty_data: 100,
        continuations: 20,
        window_updates: 1_000,
        others: 200,
    },
};

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first() else {
        return;
    };
    let mut island = Island::new(&LIMITS, HEAD_BYTES, Scheme::Http, Waker::noop().clone());
    island.pipe().feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut streams = Vec::new();
    let mut answer = Vec::new();
    for piece in pieces(*seed, bytes) {
        island.pipe().feed(piece);
        loop {
            match island.poll() {
                Polled::Request(incoming) => {
                    if let Ok(stream) = incoming.open(Waker::noop().clone()) {
                        let mut stream = Stream::Server(Box::new(stream));
                        check(&mut stream);
                        streams.push(stream);
                    }
                }
                Polled::Pending => break,
                Polled::Ended => return,
            }
        }
        assert!(streams.len() <= island.streams());
        island.pipe().drain(&mut answer);
        assert!(
            answer.len() <= ANSWER_BYTES_MAX,
            "{} bytes wait",
            answer.len()
        );
    }
});

/// What a session would read first of a stream.
fn check(stream: &mut Stream) {
    let mut buffer = vec![0; 2 * HEAD_BYTES];
    let Ok(got) = stream.read(&mut buffer) else {
        return;
    };
    let read = &buffer[..got.count];
    let limits = HeadLimits {
        head_bytes: buffer.len(),
        target_bytes: HEAD_BYTES,
        ..HeadLimits::default()
    };
    // The session may still refuse a head, by its own limits or for what it asks; but it never
    // takes part of one for the next.
    if let Verdict::Head(head) = parse_request(read, Scheme::Http, &limits) {
        let text = &read[..head.head_bytes];
        let ends = text.windows(4).filter(|four| four == b"\r\n\r\n").count();
        assert_eq!(ends, 1, "{}", String::from_utf8_lossy(text));
    }
}
