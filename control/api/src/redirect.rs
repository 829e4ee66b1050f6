//! How a route sends clients that came in clear to `https`.

use serde::{Deserialize, Serialize};

/// The status of a redirect: `true` is 308, which keeps method and body; or one of 301, 302,
/// 307 and 308.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "u16")]
pub struct Redirect(u16);

/// An unknown status of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the status of a redirect: write true, 301, 302, 307 or 308")]
pub struct InvalidRedirect(pub u16);

impl Redirect {
    /// A redirect by this status.
    ///
    /// # Errors
    /// It is none of those that can be had.
    pub fn new(status: u16) -> Result<Self, InvalidRedirect> {
        match status {
            301 | 302 | 307 | 308 => Ok(Self(status)),
            _ => Err(InvalidRedirect(status)),
        }
    }

    /// Its status.
    #[must_use]
    pub fn status(self) -> u16 {
        self.0
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Status(u16),
    Yes(bool),
}

impl TryFrom<Form> for Redirect {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        match form {
            Form::Status(status) => Self::new(status).map_err(|error| error.to_string()),
            Form::Yes(true) => Ok(Self(308)),
            Form::Yes(false) => Err("leave redirect_https out for no redirect".to_owned()),
        }
    }
}

impl From<Redirect> for u16 {
    fn from(redirect: Redirect) -> Self {
        redirect.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_true_or_a_status() {
        let read = |text: &str| serde_json::from_str::<Redirect>(text);
        assert_eq!(read("true").unwrap().status(), 308);
        assert_eq!(read("301").unwrap().status(), 301);
        assert_eq!(serde_json::to_string(&read("302").unwrap()).unwrap(), "302");
        assert!(read("303").unwrap_err().to_string().contains("307 or 308"));
        assert!(read("false").is_err());
    }
}
