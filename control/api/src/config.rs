//! Configuration files: TOML, unknown keys refused, errors that name file and place.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path} is not valid:\n{source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Names line, column and key.
        source: Box<toml::de::Error>,
    },
    /// Each value is well-formed, and yet they cannot be.
    #[error("{path}: {reason}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Names the key and what would be right.
        reason: String,
    },
}

/// Reads the file form `T` (with `deny_unknown_fields`) from a TOML file.
///
/// # Errors
/// Names the file and, where it is malformed, line, column and key.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[expect(dead_code, reason = "only its parsing is of interest")]
        name: String,
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "name = \"a\"\ncolour = 3").unwrap();
        let message = load::<File>(file.path()).unwrap_err().to_string();
        assert!(
            message.contains("line 2") && message.contains("colour"),
            "{message}"
        );
    }
}
