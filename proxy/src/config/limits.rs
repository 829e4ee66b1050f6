//! Every limit and timeout of the edge: its default, what it may be, and how workers see it.
//!
//! `config/proxy.toml` says what each of them means.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    driver::options::TcpOptions,
    logic::{
        balance::Ejection,
        h2::{H2Limits, meter::FrameLimits, trunk::TrunkLimits},
        http::HEADERS_MAX,
        session::{Policy, SessionLimits},
    },
};

/// Longest timeout: 30 days.
const TIMEOUT_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// Shortest interval between two resolutions of a name.
const RESOLVE_MS_MIN: u64 = 100;
/// Least of what a head may be limited to, in bytes.
const HEAD_BYTES_MIN: usize = 512;
/// Most of it.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Least HTTP/2 window, in bytes: the one that every connection begins with (RFC 9113, 6.9.2).
const H2_WINDOW_MIN: u32 = 65_535;
/// Most of it (RFC 9113, 6.9.1).
const H2_WINDOW_MAX: u32 = (1 << 31) - 1;
/// Most streams of an HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 10_000;

/// Every limit and timeout, with its default.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsFile {
    pub(super) sessions: usize,
    pub(super) sessions_per_client: u32,
    pub(super) session_rate: u32,
    pub(super) session_rate_per_client: u32,
    pub(super) proxy_header_timeout_ms: u64,
    pub(super) tcp_keep_alive_ms: u64,
    pub(super) tcp_user_timeout_ms: u64,
    pub(super) head_bytes: usize,
    pub(super) headers: usize,
    pub(super) target_bytes: usize,
    pub(super) head_timeout_ms: u64,
    pub(super) keep_alive_ms: u64,
    pub(super) request_timeout_ms: u64,
    pub(super) body_timeout_ms: u64,
    pub(super) body_rate: u64,
    pub(super) continue_timeout_ms: u64,
    pub(super) response_timeout_ms: u64,
    pub(super) response_idle_ms: u64,
    pub(super) hello_bytes: usize,
    pub(super) hello_timeout_ms: u64,
    pub(super) h2_streams: u32,
    pub(super) h2_stream_window_bytes: u32,
    pub(super) h2_resets: u32,
    pub(super) h2_pings: u32,
    pub(super) h2_settings: u32,
    pub(super) h2_empty_data: u32,
    pub(super) h2_continuations: u32,
    pub(super) h2_window_updates: u32,
    pub(super) h2_others: u32,
    pub(super) upstream_h2_streams: usize,
    pub(super) upstream_h2_replay_bytes: usize,
    pub(super) upstream_h2_ping_ms: u64,
    pub(super) connect_timeout_ms: u64,
    pub(super) connect_hold_ms: u64,
    pub(super) tcp_idle_ms: u64,
    pub(super) upstream_idle_ms: u64,
    pub(super) upstream_idle_count: usize,
    pub(super) eject_failures: u32,
    pub(super) eject_ms: u64,
    pub(super) eject_ms_max: u64,
    pub(super) eject_percent_max: u32,
    pub(super) resolve_interval_ms: u64,
    pub(super) pipes: usize,
    pub(super) linger_ms: u64,
    pub(super) drain_ms: u64,
    pub(super) upgrade_timeout_ms: u64,
    pub(super) upgrade_drain_ms: u64,
    pub(super) metrics_routes: usize,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            sessions: 100_000,
            sessions_per_client: 20_000,
            session_rate: 0,
            session_rate_per_client: 0,
            proxy_header_timeout_ms: 3_000,
            tcp_keep_alive_ms: 60_000,
            tcp_user_timeout_ms: 0,
            head_bytes: 16 << 10,
            headers: 100,
            target_bytes: 8 << 10,
            head_timeout_ms: 10_000,
            keep_alive_ms: 75_000,
            request_timeout_ms: 3_600_000,
            body_timeout_ms: 30_000,
            body_rate: 100,
            continue_timeout_ms: 1_000,
            response_timeout_ms: 60_000,
            response_idle_ms: 3_600_000,
            hello_bytes: 16 << 10,
            hello_timeout_ms: 10_000,
            h2_streams: 100,
            h2_stream_window_bytes: 64 << 10,
            h2_resets: 100,
            h2_pings: 100,
            h2_settings: 50,
            h2_empty_data: 100,
            h2_continuations: 20,
            h2_window_updates: 1_000,
            h2_others: 200,
            upstream_h2_streams: 100,
            upstream_h2_replay_bytes: 64 << 10,
            upstream_h2_ping_ms: 15_000,
            connect_timeout_ms: 3_000,
            connect_hold_ms: 10_000,
            tcp_idle_ms: 3_600_000,
            upstream_idle_ms: 4_000,
            upstream_idle_count: 256,
            eject_failures: 5,
            eject_ms: 10_000,
            eject_ms_max: 300_000,
            eject_percent_max: 50,
            resolve_interval_ms: 10_000,
            pipes: 32,
            linger_ms: 1_000,
            drain_ms: 30_000,
            upgrade_timeout_ms: 30_000,
            upgrade_drain_ms: 3_600_000,
            metrics_routes: 500,
        }
    }
}

/// Limits of one worker.
#[derive(Debug, Clone)]
pub struct WorkerLimits {
    /// Limits of a session.
    pub session: SessionLimits,
    /// Most sessions.
    pub sessions: usize,
    /// Most new sessions per second; 0 is no limit.
    pub session_rate: u32,
    /// Options of sockets on both sides.
    pub tcp: TcpOptions,
    /// Most pipes for splice.
    pub pipes: usize,
    /// How long an upstream connection is kept idle.
    pub upstream_idle: Duration,
    /// Most idle connections to one upstream.
    pub upstream_idle_count: usize,
    /// Limits of an HTTP/2 connection to an upstream.
    pub trunk: TrunkLimits,
    /// How long a closed session may take to deliver what is left.
    pub linger: Duration,
}

pub(super) fn check_limits(limits: &LimitsFile) -> Result<(), String> {
    if limits.sessions == 0 {
        return Err("limits.sessions is 0: it must be at least 1".to_owned());
    }
    for (key, value, least) in [
        ("head_timeout_ms", limits.head_timeout_ms, 1),
        ("keep_alive_ms", limits.keep_alive_ms, 1),
        ("request_timeout_ms", limits.request_timeout_ms, 1),
        ("body_timeout_ms", limits.body_timeout_ms, 1),
        ("continue_timeout_ms", limits.continue_timeout_ms, 0),
        ("response_idle_ms", limits.response_idle_ms, 1),
        ("response_timeout_ms", limits.response_timeout_ms, 1),
        ("hello_timeout_ms", limits.hello_timeout_ms, 1),
        ("connect_timeout_ms", limits.connect_timeout_ms, 1),
        ("connect_hold_ms", limits.connect_hold_ms, 0),
        ("tcp_idle_ms", limits.tcp_idle_ms, 1),
        ("upstream_idle_ms", limits.upstream_idle_ms, 0),
        ("proxy_header_timeout_ms", limits.proxy_header_timeout_ms, 1),
        ("tcp_keep_alive_ms", limits.tcp_keep_alive_ms, 0),
        ("tcp_user_timeout_ms", limits.tcp_user_timeout_ms, 0),
        ("eject_ms", limits.eject_ms, 1),
        ("eject_ms_max", limits.eject_ms_max, limits.eject_ms),
        (
            "resolve_interval_ms",
            limits.resolve_interval_ms,
            RESOLVE_MS_MIN,
        ),
        ("upstream_h2_ping_ms", limits.upstream_h2_ping_ms, 1),
        ("linger_ms", limits.linger_ms, 0),
        ("drain_ms", limits.drain_ms, 0),
        ("upgrade_timeout_ms", limits.upgrade_timeout_ms, 1),
        ("upgrade_drain_ms", limits.upgrade_drain_ms, 0),
    ] {
        if !(least..=TIMEOUT_MS_MAX).contains(&value) {
            return Err(format!(
                "limits.{key} is {value}: it must be {least} to {TIMEOUT_MS_MAX}"
            ));
        }
    }
    check_h2_limits(limits)?;
    // The kernel counts in whole seconds, and in a short integer.
    let keep_alive = limits.tcp_keep_alive_ms;
    if keep_alive != 0 && !(1_000..=32_000_000).contains(&keep_alive) {
        return Err(format!(
            "limits.tcp_keep_alive_ms is {keep_alive}: it must be 0 or 1000 to 32000000"
        ));
    }
    if limits.eject_percent_max > 100 {
        let percent = limits.eject_percent_max;
        return Err(format!(
            "limits.eject_percent_max is {percent}: it must be 0 to 100"
        ));
    }
    if !(1..=HEADERS_MAX).contains(&limits.headers) {
        let headers = limits.headers;
        return Err(format!(
            "limits.headers is {headers}: it must be 1 to {HEADERS_MAX}"
        ));
    }
    for (key, bytes) in [
        ("head_bytes", limits.head_bytes),
        ("hello_bytes", limits.hello_bytes),
        ("target_bytes", limits.target_bytes),
    ] {
        if !(HEAD_BYTES_MIN..=HEAD_BYTES_MAX).contains(&bytes) {
            return Err(format!(
                "limits.{key} is {bytes}: it must be {HEAD_BYTES_MIN} to {HEAD_BYTES_MAX}"
            ));
        }
    }
    Ok(())
}

/// A duration of which 0 means none.
fn some_ms(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn h2_limits(limits: &LimitsFile) -> H2Limits {
    H2Limits {
        streams: limits.h2_streams,
        stream_window: limits.h2_stream_window_bytes,
        replay_bytes: limits.upstream_h2_replay_bytes,
        frames: FrameLimits {
            resets: limits.h2_resets,
            pings: limits.h2_pings,
            settings: limits.h2_settings,
            empty_data: limits.h2_empty_data,
            continuations: limits.h2_continuations,
            window_updates: limits.h2_window_updates,
            others: limits.h2_others,
        },
    }
}

/// What RFC 9113 allows, and what lets an honest client work.
fn check_h2_limits(limits: &LimitsFile) -> Result<(), String> {
    if limits.upstream_h2_streams == 0 {
        return Err("limits.upstream_h2_streams is 0: it must be at least 1".to_owned());
    }
    let window = (H2_WINDOW_MIN, H2_WINDOW_MAX);
    for (key, value, (least, most)) in [
        ("h2_streams", limits.h2_streams, (1, H2_STREAMS_MAX)),
        (
            "h2_stream_window_bytes",
            limits.h2_stream_window_bytes,
            window,
        ),
        ("h2_settings", limits.h2_settings, (2, u32::MAX)),
    ] {
        if !(least..=most).contains(&value) {
            return Err(format!(
                "limits.{key} is {value}: it must be {least} to {most}"
            ));
        }
    }
    Ok(())
}

impl WorkerLimits {
    pub(super) fn new(limits: &LimitsFile, policy: Arc<Policy>) -> Self {
        let ms = Duration::from_millis;
        Self {
            session: SessionLimits {
                head_bytes: limits.head_bytes,
                headers: limits.headers,
                target_bytes: limits.target_bytes,
                head_timeout: ms(limits.head_timeout_ms),
                keep_alive: ms(limits.keep_alive_ms),
                request_timeout: ms(limits.request_timeout_ms),
                body_timeout: ms(limits.body_timeout_ms),
                body_rate: limits.body_rate,
                continue_timeout: ms(limits.continue_timeout_ms),
                response_idle: ms(limits.response_idle_ms),
                response_timeout: ms(limits.response_timeout_ms),
                connect_timeout: ms(limits.connect_timeout_ms),
                connect_hold: ms(limits.connect_hold_ms),
                tcp_idle: ms(limits.tcp_idle_ms),
                hello_bytes: limits.hello_bytes,
                hello_timeout: ms(limits.hello_timeout_ms),
                h2: h2_limits(limits),
                proxy_header_timeout: ms(limits.proxy_header_timeout_ms),
                ejection: Ejection {
                    failures: limits.eject_failures,
                    base: ms(limits.eject_ms),
                    max: ms(limits.eject_ms_max),
                    share_percent: limits.eject_percent_max,
                },
                policy,
            },
            sessions: limits.sessions,
            session_rate: limits.session_rate,
            tcp: TcpOptions {
                keep_alive: some_ms(limits.tcp_keep_alive_ms),
                user_timeout: some_ms(limits.tcp_user_timeout_ms),
            },
            pipes: limits.pipes,
            upstream_idle: ms(limits.upstream_idle_ms),
            upstream_idle_count: limits.upstream_idle_count,
            trunk: TrunkLimits {
                streams: limits.upstream_h2_streams,
                idle: ms(limits.upstream_idle_ms),
                ping: ms(limits.upstream_h2_ping_ms),
            },
            linger: ms(limits.linger_ms),
        }
    }
}
