//! Health checks of a route's upstreams: what is asked of each, how often, and what its answers
//! lead to.
//!
//! In JSON and TOML a check is a table, `{ kind = "http", path = "/ready" }`; on a command line
//! the same is `http,path=/ready`. What is not said has a default.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::host::Hostname;

/// Shortest interval and timeout of a check, in ms.
pub const CHECK_MS_MIN: u64 = 10;
/// Longest interval and timeout of a check, in ms: an hour.
pub const CHECK_MS_MAX: u64 = 3_600_000;
/// Most answers in a row that a change of opinion may take.
pub const CHECK_STREAK_MAX: u32 = 1000;

/// What is asked of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthKind {
    /// That it takes a connection.
    Tcp,
    /// That it answers a GET.
    Http,
}

/// A range of HTTP status codes: `200-399`, or one of them: `204`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StatusRange {
    /// The lowest.
    pub from: u16,
    /// The highest.
    pub to: u16,
}

impl Default for StatusRange {
    fn default() -> Self {
        Self { from: 200, to: 399 }
    }
}

impl StatusRange {
    /// Whether a status is in it.
    #[must_use]
    pub fn contains(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

/// Why a text is not a health check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHealth {
    /// Neither tcp nor http.
    #[error("'{0}' is not a kind of health check: it is tcp or http")]
    Kind(String),
    /// Not a status or a range of them.
    #[error("'{0}' is not a status or a range of them: write 204 or 200-399, of 100 to 599")]
    Status(String),
    /// A path that does not begin with a slash, or that cannot be in a request line.
    #[error("'{0}' is not a path: it must begin with / and have neither blanks nor controls")]
    Path(String),
    /// A number out of range.
    #[error("{key} is '{value}': it must be {least} to {most}")]
    Number {
        /// Its name.
        key: &'static str,
        /// What was given.
        value: String,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// The host name is none.
    #[error("the check's host: {0}")]
    Host(String),
    /// Only http checks have a path, a host and a status.
    #[error("a tcp check has no {0}")]
    NotForTcp(&'static str),
    /// An unknown word.
    #[error(
        "'{0}' is not known of a health check: after the kind come path=, host=, status=, \
         interval_ms=, timeout_ms=, rise= or fall="
    )]
    Option(String),
}

impl FromStr for StatusRange {
    type Err = InvalidHealth;

    fn from_str(text: &str) -> Result<Self, InvalidHealth> {
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let status = text.parse().ok().filter(|_| digits);
            status.filter(|status| (100..=599).contains(status))
        };
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (status(from), status(to)) {
            (Some(from), Some(to)) if from <= to => Ok(Self { from, to }),
            _ => Err(InvalidHealth::Status(text.to_owned())),
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from == self.to {
            true => self.from.fmt(f),
            false => write!(f, "{}-{}", self.from, self.to),
        }
    }
}

impl TryFrom<String> for StatusRange {
    type Error = InvalidHealth;

    fn try_from(text: String) -> Result<Self, InvalidHealth> {
        text.parse()
    }
}

impl From<StatusRange> for String {
    fn from(range: StatusRange) -> Self {
        range.to_string()
    }
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct Health {
    /// What is asked.
    pub kind: HealthKind,
    /// HTTP: what is got.
    pub path: String,
    /// HTTP: the Host of the request; without one it is the upstream's address.
    pub host: Option<Hostname>,
    /// HTTP: the answers that count as healthy.
    pub status: StatusRange,
    /// From one check to the next, in ms; a tenth more or less, so that not all come at once.
    pub interval_ms: u64,
    /// Longest wait for the answer, in ms.
    pub timeout_ms: u64,
    /// Good answers in a row that bring an upstream back. The first check of all decides alone.
    pub rise: u32,
    /// Bad ones in a row that take it out.
    pub fall: u32,
}

impl Health {
    /// A check of this kind with the defaults of everything else: GET /, 200 to 399, every 2 s,
    /// 1 s for an answer, back after 2 good ones, out after 3 bad ones.
    #[must_use]
    pub fn new(kind: HealthKind) -> Self {
        Self {
            kind,
            path: "/".to_owned(),
            host: None,
            status: StatusRange::default(),
            interval_ms: 2_000,
            timeout_ms: 1_000,
            rise: 2,
            fall: 3,
        }
    }
}

/// The form on the wire: what is default is left out.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kind: HealthKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<Hostname>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<StatusRange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rise: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fall: Option<u32>,
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<u64, InvalidHealth> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(InvalidHealth::Number {
            key,
            value: value.to_string(),
            least,
            most,
        }),
    }
}

fn check_path(path: String) -> Result<String, InvalidHealth> {
    let graphic = path.bytes().all(|byte| byte.is_ascii_graphic());
    match path.starts_with('/') && graphic {
        true => Ok(path),
        false => Err(InvalidHealth::Path(path)),
    }
}

impl TryFrom<Table> for Health {
    type Error = InvalidHealth;

    fn try_from(table: Table) -> Result<Self, InvalidHealth> {
        let default = Self::new(table.kind);
        if table.kind == HealthKind::Tcp {
            let (path, host, status) = (&table.path, &table.host, &table.status);
            for (key, given) in [
                ("path", path.is_some()),
                ("host", host.is_some()),
                ("status", status.is_some()),
            ] {
                if given {
                    return Err(InvalidHealth::NotForTcp(key));
                }
            }
        }
        let ms = |key, value: Option<u64>, default| {
            within(key, value.unwrap_or(default), CHECK_MS_MIN, CHECK_MS_MAX)
        };
        let streak = |key, value: Option<u32>, default| {
            let value = value.unwrap_or(default);
            within(key, value.into(), 1, CHECK_STREAK_MAX.into()).map(|_| value)
        };
        Ok(Self {
            kind: table.kind,
            path: check_path(table.path.unwrap_or(default.path))?,
            host: table.host,
            status: table.status.unwrap_or_default(),
            interval_ms: ms("interval_ms", table.interval_ms, default.interval_ms)?,
            timeout_ms: ms("timeout_ms", table.timeout_ms, default.timeout_ms)?,
            rise: streak("rise", table.rise, default.rise)?,
            fall: streak("fall", table.fall, default.fall)?,
        })
    }
}

impl From<Health> for Table {
    fn from(health: Health) -> Self {
        let default = Health::new(health.kind);
        Self {
            kind: health.kind,
            path: (health.path != default.path).then_some(health.path),
            host: health.host,
            status: (health.status != default.status).then_some(health.status),
            interval_ms: (health.interval_ms != default.interval_ms).then_some(health.interval_ms),
            timeout_ms: (health.timeout_ms != default.timeout_ms).then_some(health.timeout_ms),
            rise: (health.rise != default.rise).then_some(health.rise),
            fall: (health.fall != default.fall).then_some(health.fall),
        }
    }
}

impl FromStr for Health {
    type Err = InvalidHealth;

    fn from_str(text: &str) -> Result<Self, InvalidHealth> {
        let mut parts = text.split(',');
        let kind = match parts.next().unwrap_or_default() {
            "tcp" => HealthKind::Tcp,
            "http" => HealthKind::Http,
            other => return Err(InvalidHealth::Kind(other.to_owned())),
        };
        let mut table = Table {
            kind,
            path: None,
            host: None,
            status: None,
            interval_ms: None,
            timeout_ms: None,
            rise: None,
            fall: None,
        };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "path" => table.path = Some(value.to_owned()),
                "host" => table.host = Some(parse_host(value)?),
                "status" => table.status = Some(value.parse()?),
                "interval_ms" => table.interval_ms = Some(number("interval_ms", value)?),
                "timeout_ms" => table.timeout_ms = Some(number("timeout_ms", value)?),
                "rise" => table.rise = Some(number("rise", value)?),
                "fall" => table.fall = Some(number("fall", value)?),
                _ => return Err(InvalidHealth::Option(part.to_owned())),
            }
        }
        table.try_into()
    }
}

fn parse_host(value: &str) -> Result<Hostname, InvalidHealth> {
    let host: Result<Hostname, _> = value.parse();
    host.map_err(|error| InvalidHealth::Host(error.to_string()))
}

fn number<N: FromStr>(key: &'static str, value: &str) -> Result<N, InvalidHealth> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let most = match key {
        "rise" | "fall" => CHECK_STREAK_MAX.into(),
        _ => CHECK_MS_MAX,
    };
    let number = value.parse().ok().filter(|_| digits);
    number.ok_or_else(|| InvalidHealth::Number {
        key,
        value: value.to_owned(),
        least: 1,
        most,
    })
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = Table::from(self.clone());
        f.write_str(match self.kind {
            HealthKind::Tcp => "tcp",
            HealthKind::Http => "http",
        })?;
        let values = [
            ("path", table.path),
            ("host", table.host.map(|host| host.to_string())),
            ("status", table.status.map(|status| status.to_string())),
            ("interval_ms", table.interval_ms.map(|ms| ms.to_string())),
            ("timeout_ms", table.timeout_ms.map(|ms| ms.to_string())),
            ("rise", table.rise.map(|count| count.to_string())),
            ("fall", table.fall.map(|count| count.to_string())),
        ];
        for (key, value) in values {
            if let Some(value) = value {
                write!(f, ",{key}={value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_and_the_long_form_round_trip() {
        for (json, line) in [
            (r#"{"kind":"tcp"}"#, "tcp"),
            (
                r#"{"kind":"tcp","interval_ms":500,"fall":1}"#,
                "tcp,interval_ms=500,fall=1",
            ),
            (
                r#"{"kind":"http","path":"/ready","host":"a.test","status":"204"}"#,
                "http,path=/ready,host=a.test,status=204",
            ),
        ] {
            let health: Health = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&health).unwrap(), json);
            assert_eq!(health.to_string(), line);
            assert_eq!(line.parse::<Health>().unwrap(), health);
        }
    }

    #[test]
    fn what_is_no_check_says_what_would_be_right() {
        for (text, expected) in [
            ("udp", "tcp or http"),
            ("http,path=ready", "begin with /"),
            ("http,path=/a b", "begin with /"),
            ("http,status=99", "100 to 599"),
            ("http,status=300-200", "200-399"),
            ("http,rise=0", "rise is '0'"),
            ("http,interval_ms=+5", "interval_ms is '+5'"),
            ("http,interval_ms=1", "10 to 3600000"),
            ("tcp,path=/a", "a tcp check has no path"),
            ("tcp,colour=1", "colour=1"),
        ] {
            let message = text.parse::<Health>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
        let json = r#"{"kind":"http","colour":"blue"}"#;
        let error = serde_json::from_str::<Health>(json).unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
    }
}
