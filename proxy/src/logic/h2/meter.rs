//! Counts the frames of a connection as they pass, and says when there are too many.
//!
//! The h2 crate answers every frame as the standard says; what no standard says is how many
//! frames that cost more than they carry are an attack. Counted is by windows of one second.
//! Only the nine bytes of each frame's head are looked at, and of a reset its code.
//!
//! | kind | attack |
//! | --- | --- |
//! | resets | Rapid Reset, CVE-2023-44487 |
//! | resets that the client makes us send | MadeYouReset, CVE-2025-8671 |
//! | CONTINUATION | CVE-2024-27316 |
//! | PING, SETTINGS, empty DATA | CVE-2019-9512, -9515, -9518 |
//! | WINDOW_UPDATE, PRIORITY, unknown | CVE-2019-9511, -9513 |
#![warn(clippy::indexing_slicing)]

use std::time::{Duration, Instant};

/// What frames are counted over.
const WINDOW: Duration = Duration::from_secs(1);
/// Bytes of a frame's head (4.1).
const HEAD_BYTES: usize = 9;
/// Bytes of a client's preface (3.4).
const PREFACE_BYTES: u32 = 24;
/// So many window updates are in order for each DATA frame that we send.
const UPDATES_PER_DATA: u32 = 4;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const FLAG_END_STREAM: u8 = 1;

/// Codes of resets that are the client's doing (7): PROTOCOL_ERROR, FLOW_CONTROL_ERROR,
/// STREAM_CLOSED, FRAME_SIZE_ERROR, COMPRESSION_ERROR.
const CLIENTS_DOING: [u32; 5] = [1, 3, 5, 6, 9];

/// Most frames of each kind in a second, on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// RST_STREAM, each way; ours count if the client caused them.
    pub resets: u32,
    /// PING.
    pub pings: u32,
    /// SETTINGS.
    pub settings: u32,
    /// DATA without data that does not end its stream.
    pub empty_data: u32,
    /// CONTINUATION, of one field section.
    pub continuations: u32,
    /// WINDOW_UPDATE, beyond four for each DATA frame that we send.
    pub window_updates: u32,
    /// PRIORITY and frames of unknown types.
    pub others: u32,
}

/// Of what there was too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Flood {
    /// See [`FrameLimits::resets`].
    #[error("too many resets of streams")]
    Resets,
    /// See [`FrameLimits::resets`].
    #[error("too many resets that the client has caused")]
    CausedResets,
    /// See [`FrameLimits::pings`].
    #[error("too many PINGs")]
    Pings,
    /// See [`FrameLimits::settings`].
    #[error("too many SETTINGS")]
    Settings,
    /// See [`FrameLimits::empty_data`].
    #[error("too many empty DATA frames")]
    EmptyData,
    /// See [`FrameLimits::continuations`].
    #[error("too many CONTINUATIONs")]
    Continuations,
    /// See [`FrameLimits::window_updates`].
    #[error("too many WINDOW_UPDATEs")]
    WindowUpdates,
    /// See [`FrameLimits::others`].
    #[error("too many frames that carry nothing")]
    Others,
}

/// Takes frame heads out of a stream of bytes.
#[derive(Debug)]
pub(super) struct Scanner {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Bytes until the next frame, or of the preface.
    skip: u32,
    /// The code of a reset, and how many of its bytes have been read.
    code: Option<(u32, u8)>,
}

/// A frame's head; of a reset the code as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    length: u32,
    code: u32,
}

impl Scanner {
    /// Of a stream whose first frame comes after so many bytes.
    pub(super) fn new(skip: u32) -> Self {
        Self {
            head: [0; HEAD_BYTES],
            head_bytes: 0,
            skip,
            code: None,
        }
    }

    /// The type of the next frame; `None` when the bytes are used up.
    pub(super) fn next_kind(&mut self, bytes: &mut &[u8]) -> Option<u8> {
        self.next(bytes).map(|frame| frame.kind)
    }

    /// The next frame head; `None` when the bytes are used up.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            if let Some((code, read)) = self.code {
                let (first, rest) = bytes.split_first()?;
                *bytes = rest;
                let code = code << 8 | u32::from(*first);
                if read < 3 {
                    self.code = Some((code, read + 1));
                    continue;
                }
                self.code = None;
                return Some(Frame {
                    code,
                    ..self.frame()
                });
            }
            if self.skip > 0 {
                let count = usize::try_from(self.skip).unwrap_or(usize::MAX);
                let count = count.min(bytes.len());
                *bytes = bytes.get(count..).unwrap_or_default();
                self.skip -= u32::try_from(count).unwrap_or(self.skip);
            }
            let missing = HEAD_BYTES - self.head_bytes;
            let count = missing.min(bytes.len());
            if count == 0 {
                return None;
            }
            let (head, rest) = bytes.split_at(count);
            *bytes = rest;
            if let Some(room) = self.head.get_mut(self.head_bytes..self.head_bytes + count) {
                room.copy_from_slice(head);
            }
            self.head_bytes += count;
            if self.head_bytes < HEAD_BYTES {
                return None;
            }
            self.head_bytes = 0;
            let frame = self.frame();
            self.skip = frame.length;
            if frame.kind == RST_STREAM && frame.length == 4 {
                self.skip = 0;
                self.code = Some((0, 0));
                continue;
            }
            return Some(frame);
        }
    }

    fn frame(&self) -> Frame {
        let [high, middle, low, kind, flags, ..] = self.head;
        Frame {
            kind,
            flags,
            length: u32::from_be_bytes([0, high, middle, low]),
            code: 0,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Meter {
    limits: FrameLimits,
    heard: Scanner,
    said: Scanner,
    since: Instant,
    counts: Counts,
    /// CONTINUATION frames of the field section that is being read.
    continuations: u32,
}

#[derive(Debug, Default)]
struct Counts {
    resets: u32,
    caused_resets: u32,
    pings: u32,
    settings: u32,
    empty_data: u32,
    window_updates: u32,
    others: u32,
    data_said: u32,
}

impl Meter {
    /// Of a connection whose client begins with the preface.
    #[must_use]
    pub fn new(limits: FrameLimits, now: Instant) -> Self {
        Self {
            limits,
            heard: Scanner::new(PREFACE_BYTES),
            said: Scanner::new(0),
            since: now,
            counts: Counts::default(),
            continuations: 0,
        }
    }

    /// Counts what a client has sent.
    ///
    /// # Errors
    /// It is a flood: the connection is to be closed.
    pub fn heard(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        self.turn(now);
        while let Some(frame) = self.heard.next(&mut bytes) {
            self.judge(frame)?;
        }
        Ok(())
    }

    /// Counts what is sent to a client.
    ///
    /// # Errors
    /// The client makes us do it too often.
    pub fn said(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        self.turn(now);
        while let Some(frame) = self.said.next(&mut bytes) {
            match frame.kind {
                DATA => self.counts.data_said += 1,
                RST_STREAM if CLIENTS_DOING.contains(&frame.code) => {
                    let count = &mut self.counts.caused_resets;
                    more(count, self.limits.resets, Flood::CausedResets)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn turn(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= WINDOW {
            self.since = now;
            self.counts = Counts::default();
        }
    }

    fn judge(&mut self, frame: Frame) -> Result<(), Flood> {
        let (counts, limits) = (&mut self.counts, &self.limits);
        match frame.kind {
            CONTINUATION => more(
                &mut self.continuations,
                limits.continuations,
                Flood::Continuations,
            ),
            HEADERS => {
                self.continuations = 0;
                Ok(())
            }
            DATA if frame.length == 0 && frame.flags & FLAG_END_STREAM == 0 => {
                more(&mut counts.empty_data, limits.empty_data, Flood::EmptyData)
            }
            // Those of a server; the h2 crate refuses them.
            DATA | PUSH_PROMISE | GOAWAY => Ok(()),
            RST_STREAM => more(&mut counts.resets, limits.resets, Flood::Resets),
            SETTINGS => more(&mut counts.settings, limits.settings, Flood::Settings),
            PING => more(&mut counts.pings, limits.pings, Flood::Pings),
            WINDOW_UPDATE => {
                let earned = counts.data_said.saturating_mul(UPDATES_PER_DATA);
                let limit = limits.window_updates.saturating_add(earned);
                more(&mut counts.window_updates, limit, Flood::WindowUpdates)
            }
            _ => more(&mut counts.others, limits.others, Flood::Others),
        }
    }
}

fn more(count: &mut u32, limit: u32, flood: Flood) -> Result<(), Flood> {
    *count += 1;
    match *count > limit {
        true => Err(flood),
        false => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    const LIMITS: FrameLimits = FrameLimits {
        resets: 3,
        pings: 3,
        settings: 3,
        empty_data: 3,
        continuations: 3,
        window_updates: 3,
        others: 3,
    };

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn after_preface(now: Instant) -> Meter {
        let mut meter = Meter::new(LIMITS, now);
        meter.heard(&[b'P'; 24], now).unwrap();
        meter
    }

    /// One line for each kind: type, flags, payload, and what its flood is called.
    #[test]
    fn each_kind_has_its_limit_and_the_next_second_is_free_again() {
        let now = crate::logic::test_clock();
        for (kind, flags, payload, flood) in [
            (RST_STREAM, 0, &[0, 0, 0, 8][..], Flood::Resets),
            (PING, 0, &[0; 8], Flood::Pings),
            (SETTINGS, 0, &[], Flood::Settings),
            (DATA, 0, &[], Flood::EmptyData),
            (CONTINUATION, 0, &[7; 5], Flood::Continuations),
            (WINDOW_UPDATE, 0, &[0, 0, 0, 1], Flood::WindowUpdates),
            (2, 0, &[0; 5], Flood::Others),
            (99, 0, &[], Flood::Others),
        ] {
            let mut meter = after_preface(now);
            let one = frame(kind, flags, payload);
            meter.heard(&one.repeat(3), now).unwrap();
            assert_eq!(meter.heard(&one, now), Err(flood), "{kind}");

            let mut meter = after_preface(now);
            meter.heard(&one.repeat(3), now).unwrap();
            if kind != CONTINUATION {
                meter.heard(&one, now + WINDOW).unwrap();
            }
        }
    }

    #[test]
    fn frames_are_found_on_every_split() {
        let now = crate::logic::test_clock();
        let mut bytes = vec![b'P'; 24];
        bytes.extend(frame(HEADERS, 4, &[3; 40]));
        for _ in 0..4 {
            bytes.extend(frame(RST_STREAM, 0, &[0, 0, 0, 8]));
            bytes.extend(frame(DATA, 0, &[0; 300]));
        }
        for split in 0..bytes.len() {
            let mut meter = Meter::new(LIMITS, now);
            let first = meter.heard(&bytes[..split], now);
            let both = first.and_then(|()| meter.heard(&bytes[split..], now));
            assert_eq!(both, Err(Flood::Resets), "{split}");
        }
    }

    #[test]
    fn what_ends_a_stream_or_carries_data_is_no_empty_data() {
        let now = crate::logic::test_clock();
        let mut meter = after_preface(now);
        for _ in 0..9 {
            meter
                .heard(&frame(DATA, FLAG_END_STREAM, &[]), now)
                .unwrap();
            meter.heard(&frame(DATA, 0, &[1]), now).unwrap();
        }
    }

    #[test]
    fn continuations_count_by_field_section() {
        let now = crate::logic::test_clock();
        let mut meter = after_preface(now);
        for _ in 0..9 {
            meter.heard(&frame(HEADERS, 0, &[1]), now).unwrap();
            for _ in 0..3 {
                meter.heard(&frame(CONTINUATION, 0, &[1]), now).unwrap();
            }
        }
    }

    #[test]
    fn resets_of_ours_count_when_the_client_has_caused_them() {
        let now = crate::logic::test_clock();
        let mut meter = after_preface(now);
        for code in [0, 2, 7, 8, 0, 2, 7, 8] {
            meter
                .said(&frame(RST_STREAM, 0, &[0, 0, 0, code]), now)
                .unwrap();
        }
        for code in [1, 3, 5] {
            meter
                .said(&frame(RST_STREAM, 0, &[0, 0, 0, code]), now)
                .unwrap();
        }
        let last = frame(RST_STREAM, 0, &[0, 0, 0, 6]);
        assert_eq!(meter.said(&last, now), Err(Flood::CausedResets));
    }

    #[test]
    fn who_reads_data_may_update_windows() {
        let now = crate::logic::test_clock();
        let mut meter = after_preface(now);
        let update = frame(WINDOW_UPDATE, 0, &[0, 0, 1, 0]);
        for _ in 0..9 {
            meter.said(&frame(DATA, 0, &[0; 100]), now).unwrap();
            meter.heard(&update.repeat(4), now).unwrap();
        }
        assert_eq!(
            meter.heard(&update.repeat(4), now),
            Err(Flood::WindowUpdates)
        );
    }
}
