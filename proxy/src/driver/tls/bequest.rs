//! What another process must be told of certificates and tickets: what is in memory alone.

use flocker_api::{
    authority::PutAuthority,
    certificate::{PutCertificate, TicketKey},
    name::{AuthorityName, CertificateName},
};
use serde::{Deserialize, Serialize};

use super::{Material, tickets::Tickets};

/// See the module. It has keys in it: for a socket between two processes of one edge only.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bequest {
    /// Certificates that came by the admin API and are in no folder.
    certificates: Vec<(CertificateName, PutCertificate)>,
    /// Authorities of that kind.
    #[serde(default)]
    authorities: Vec<(AuthorityName, PutAuthority)>,
    /// Ticket keys, the current one first.
    tickets: Vec<TicketKey>,
}

impl Material {
    /// What another process must be told.
    #[must_use]
    pub fn bequeath(&self) -> Bequest {
        Bequest {
            certificates: self.sources().sent(),
            authorities: self.authorities.sent(),
            tickets: self.tickets.secrets(),
        }
    }

    /// Goes on with what another process had, where the configuration does not say otherwise.
    pub fn inherit(&self, bequest: Bequest, now_s: i64) {
        for (name, sent) in bequest.certificates {
            if let Err(error) = self.put(&name, &sent, now_s) {
                let error = flocker_api::error::chain(&error);
                tracing::warn!(%name, error, "a certificate of the old process is not served");
            }
        }
        for (name, sent) in bequest.authorities {
            if let Err(error) = self.put_authority(&name, &sent, now_s) {
                let error = flocker_api::error::chain(&error);
                tracing::warn!(%name, error, "an authority of the old process does not count");
            }
        }
        let mut keys = bequest.tickets.into_iter();
        if let (None, Some(current)) = (&self.config.tickets, keys.next()) {
            self.tickets.replace(&Tickets::new(current, keys.next()));
        }
    }
}
