//! The edge from outside: the real program on loopback, with scripted clients and upstreams.
//!
//! Each test starts an edge of its own at an address of its own in 127.0.0.0/8, so that tests
//! run side by side. Nothing sleeps: a test waits for bytes, connections or a state that the
//! admin API shows, each with a deadline.
#![expect(
    clippy::disallowed_methods,
    reason = "tests start the program and bound their waits by the clock"
)]

#[cfg(test)]
mod authorities;
#[cfg(test)]
mod classes;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod endurance;
#[cfg(test)]
mod gates;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod h2;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod http;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod mix;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod proxied;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod terminated;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod upstream_tls;
#[cfg(test)]
mod upstreams;
#[cfg(test)]
mod wellness;
