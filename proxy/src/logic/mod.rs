//! What the edge decides, without sockets, clocks or threads.
//!
//! | module | duty |
//! | --- | --- |
//! | [`sniff`], [`host`], [`http`] | bytes to verdicts |
//! | [`table`] | which route a key leads to |
//! | [`gate`] | who is admitted, parked or refused |
//! | [`h2`] | HTTP/2 to HTTP/1.1 and back, and its floods |
//! | [`balance`] | which of a route's upstreams is next |
//! | [`guard`] | which clients may connect, and how many of one |
//! | [`proxy_header`] | for whom a proxy connects |
//! | [`session`] | one connection: events in, actions out |
//! | [`access`] | what is known of a request once it is over, and its line in the log |

pub mod access;
pub mod balance;
pub mod gate;
pub mod guard;
pub mod h2;
pub mod host;
pub mod http;
pub mod proxy_header;
pub mod session;
pub mod sniff;
pub mod table;

/// A point in time for tests of machines that are given the time.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "where virtual time begins")]
pub(crate) fn test_clock() -> std::time::Instant {
    std::time::Instant::now()
}
