//! Session tickets (RFC 5077; RFC 8446, section 4.6.1): what an edge seals and any edge with the
//! same keys opens, so that a client may resume wherever its next connection leads.
//!
//! A ticket is `key's name (16) | salt (32) | sealed (time of issue (8) | state)`. Each is
//! sealed with a key of its own, derived from the edge's and the salt, so that no nonce is ever
//! used twice however many edges seal. The terms under which it was issued are sealed in as
//! associated data: under other terms it does not open, and a full handshake follows.
#![expect(
    clippy::disallowed_methods,
    reason = "tickets are valid by the clock of all edges"
)]

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use flocker_api::certificate::{TicketKey, TicketKeys};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};
use rustls::server::ProducesTickets;

const NAME_BYTES: usize = 16;
const SALT_BYTES: usize = 32;
const TIME_BYTES: usize = 8;

/// The keys of an edge, shared by all its workers.
#[derive(Debug)]
pub struct Tickets(ArcSwap<Keys>);

#[derive(Debug, Clone)]
struct Keys {
    current: Key,
    previous: Option<Key>,
}

#[derive(Clone)]
struct Key {
    name: [u8; NAME_BYTES],
    secret: TicketKey,
    derive: hmac::Key,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.label())
    }
}

impl Key {
    fn new(secret: TicketKey) -> Self {
        let derive = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
        let tag = hmac::sign(&derive, b"flocker ticket key name");
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&tag.as_ref()[..NAME_BYTES]);
        Self {
            name,
            secret,
            derive,
        }
    }

    fn label(&self) -> String {
        self.name
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The key of one ticket.
    fn of_ticket(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let mut input = hmac::Context::with_key(&self.derive);
        input.update(b"flocker ticket");
        input.update(salt);
        let key = UnboundKey::new(&AES_256_GCM, input.sign().as_ref()).ok()?;
        Some(LessSafeKey::new(key))
    }
}

impl Tickets {
    /// With these keys, the current one first.
    #[must_use]
    pub fn new(current: TicketKey, previous: Option<TicketKey>) -> Self {
        Self(ArcSwap::from_pointee(Keys {
            current: Key::new(current),
            previous: previous.map(Key::new),
        }))
    }

    /// With a key that nobody else has.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn random() -> Result<Self, ring::error::Unspecified> {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key)?;
        Ok(Self::new(TicketKey(key), None))
    }

    /// Makes a key the current one; the current one again changes nothing. Callers are
    /// serialised by their own lock.
    pub fn rotate(&self, key: TicketKey) {
        let keys = self.0.load();
        if keys.current.secret != key {
            self.0.store(Arc::new(Keys {
                current: Key::new(key),
                previous: Some(keys.current.clone()),
            }));
        }
    }

    /// Takes the keys of others.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// The keys, the current one first.
    #[must_use]
    pub fn secrets(&self) -> Vec<TicketKey> {
        let keys = self.0.load();
        let all = [Some(&keys.current), keys.previous.as_ref()];
        all.into_iter()
            .flatten()
            .map(|key| key.secret.clone())
            .collect()
    }

    /// What may be shown of the keys.
    #[must_use]
    pub fn status(&self) -> TicketKeys {
        let keys = self.0.load();
        TicketKeys {
            current: keys.current.label(),
            previous: keys.previous.as_ref().map(Key::label),
        }
    }
}

/// Seals and opens the tickets of connections under the same terms.
#[derive(Debug)]
pub(super) struct Ticketer {
    tickets: Arc<Tickets>,
    /// What tells these terms from others.
    terms: Vec<u8>,
    lifetime: Duration,
    random: SystemRandom,
}

impl Ticketer {
    /// Tickets that are good for `lifetime`, under `terms` alone.
    #[must_use]
    pub(super) fn new(tickets: Arc<Tickets>, terms: &[u8], lifetime: Duration) -> Self {
        Self {
            tickets,
            terms: digest::digest(&digest::SHA256, terms).as_ref().to_vec(),
            lifetime,
            random: SystemRandom::new(),
        }
    }

    fn seal(&self, state: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let keys = self.tickets.0.load();
        let key = &keys.current;
        let mut salt = [0; SALT_BYTES];
        self.random.fill(&mut salt).ok()?;
        let mut sealed = Vec::with_capacity(TIME_BYTES + state.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&now_s.to_be_bytes());
        sealed.extend_from_slice(state);
        key.of_ticket(&salt)?
            .seal_in_place_append_tag(nonce(), Aad::from(&self.terms), &mut sealed)
            .ok()?;
        Some([&key.name[..], &salt, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (salt, sealed) = rest.split_at_checked(SALT_BYTES)?;
        let keys = self.tickets.0.load();
        let mut all = [Some(&keys.current), keys.previous.as_ref()]
            .into_iter()
            .flatten();
        let key = all.find(|key| key.name == name)?;
        let mut bytes = sealed.to_vec();
        let plain = key
            .of_ticket(salt)?
            .open_in_place(nonce(), Aad::from(&self.terms), &mut bytes)
            .ok()?;
        let (issued, state) = plain.split_first_chunk::<TIME_BYTES>()?;
        let age = now_s.saturating_sub(u64::from_be_bytes(*issued));
        (age <= self.lifetime.as_secs()).then(|| state.to_vec())
    }
}

/// A key seals one ticket, so its only nonce is this.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now_s())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now_s())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn edge(key: u8) -> Arc<Tickets> {
        Arc::new(Tickets::new(TicketKey([key; 32]), None))
    }

    #[test]
    fn another_edge_with_the_same_key_opens_a_ticket() {
        let near = Ticketer::new(edge(1), b"terms", HOUR);
        let far = Ticketer::new(edge(1), b"terms", HOUR);
        let ticket = near.seal(b"state", 100).unwrap();
        assert_eq!(far.open(&ticket, 100).unwrap(), b"state");
        assert_ne!(ticket, near.seal(b"state", 100).unwrap(), "salted");
    }

    #[test]
    fn other_terms_another_key_and_every_changed_byte_do_not_open_it() {
        let near = Ticketer::new(edge(1), b"no client certificate", HOUR);
        let strict = Ticketer::new(edge(1), b"a client certificate", HOUR);
        let stranger = Ticketer::new(edge(2), b"no client certificate", HOUR);
        let ticket = near.seal(b"state", 100).unwrap();
        assert_eq!(strict.open(&ticket, 100), None);
        assert_eq!(stranger.open(&ticket, 100), None);
        for at in 0..ticket.len() {
            let mut bad = ticket.clone();
            bad[at] ^= 1;
            assert_eq!(near.open(&bad, 100), None, "byte {at}");
            assert_eq!(near.open(&ticket[..at], 100), None, "cut at {at}");
        }
    }

    #[test]
    fn a_ticket_outlives_one_rotation_and_not_two() {
        let tickets = edge(1);
        let ticketer = Ticketer::new(Arc::clone(&tickets), b"terms", HOUR);
        let ticket = ticketer.seal(b"state", 100).unwrap();
        tickets.rotate(TicketKey([2; 32]));
        tickets.rotate(TicketKey([2; 32]));
        assert!(ticketer.open(&ticket, 100).is_some(), "repeated: once");
        tickets.rotate(TicketKey([3; 32]));
        assert_eq!(ticketer.open(&ticket, 100), None);
        assert_eq!(tickets.secrets().len(), 2);
    }

    #[test]
    fn a_ticket_is_good_for_its_lifetime() {
        let ticketer = Ticketer::new(edge(1), b"terms", HOUR);
        let ticket = ticketer.seal(b"state", 100).unwrap();
        assert!(ticketer.open(&ticket, 100 + 3600).is_some());
        assert_eq!(ticketer.open(&ticket, 100 + 3601), None);
    }
}
