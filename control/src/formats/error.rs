//! What can be wrong with a file that people write: thing, place, and what would be right.

use std::fmt;

/// Where in the files something stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's name, as the user wrote it.
    pub file: String,
    /// From 1; 0 when the whole file is meant.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    /// `apps.yml:3:5`, as compilers write it and editors read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct FormatError {
    /// Where.
    pub place: Place,
    /// What; boxed, because results carry it around.
    pub problem: Box<Problem>,
}

impl FormatError {
    pub(super) fn new(place: Place, problem: Problem) -> Self {
        Self {
            place,
            problem: Box::new(problem),
        }
    }
}

/// What is wrong. A path (`applications.notes.ports[0].internal`) says which key is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No YAML, or YAML that these files have no use for.
    #[error("this is not valid YAML: {0}")]
    Syntax(String),
    /// The file is of no kind that is read.
    #[error(
        "this is neither a Compose file (key 'services') nor an application file \
         (key 'applications') nor a deployment file (key 'nodes') nor a Fig file (services \
         with an 'image' each): {0}"
    )]
    UnknownKind(String),
    /// A file of a kind that is needed is not among those given.
    #[error("no {kind} file is given: one of the files must have the key '{key}'")]
    MissingKind {
        /// `application` or `deployment`.
        kind: &'static str,
        /// The key by which such a file is known.
        key: &'static str,
    },
    /// A key that nothing reads.
    #[error("unknown key '{key}' in {path}{}; allowed: {}", did_you_mean(.suggestion.as_deref()), .allowed.join(", "))]
    UnknownKey {
        /// Where the key stands.
        path: String,
        /// The key.
        key: String,
        /// Keys that may stand there.
        allowed: Vec<&'static str>,
        /// The one that was probably meant.
        suggestion: Option<String>,
    },
    /// A key that must be there is not.
    #[error("{path} lacks the key '{key}': {expected}")]
    MissingKey {
        /// Where the key should stand.
        path: String,
        /// The key.
        key: &'static str,
        /// What it should hold.
        expected: String,
    },
    /// A key that other tools know, and that has no meaning or no way here.
    #[error("the key '{key}' in {path} is not supported: {instead}")]
    NotSupported {
        /// Where the key stands.
        path: String,
        /// The key.
        key: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// The same key twice in one mapping.
    #[error("the key '{key}' stands here twice; the first is at {first}")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands first.
        first: Place,
    },
    /// A value of another type.
    #[error("{path} must be {expected}, not {found}")]
    WrongType {
        /// Which value.
        path: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A value of the right type that is not allowed.
    #[error("{path} is '{value}', but must be {expected}")]
    BadValue {
        /// Which value.
        path: String,
        /// The value.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// A value that its own type refuses.
    #[error("{path}: {reason}")]
    Refused {
        /// Which value.
        path: String,
        /// Why, in the words of the type.
        reason: String,
    },
    /// Something that may be there only once is there again.
    #[error("{what} is declared twice; the first is at {first}")]
    Repeated {
        /// The thing: `route tcp:80`, `app notes`.
        what: String,
        /// Where it stands first.
        first: Place,
    },
    /// An app is named that no file declares.
    #[error("{path} names the app '{app}', which no file declares{}; declared: {}", did_you_mean(.suggestion.as_deref()), list_or_none(.declared))]
    UnknownApp {
        /// Where it is named.
        path: String,
        /// The app.
        app: String,
        /// Apps that are declared.
        declared: Vec<String>,
        /// The one that was probably meant.
        suggestion: Option<String>,
    },
    /// Two apps of one node listen at the same port of its address.
    #[error(
        "app {app} listens at port {port}, as does app {other} ({first}); both shall run on node {node}"
    )]
    PortTaken {
        /// The second app.
        app: String,
        /// The first app.
        other: String,
        /// The port.
        port: u16,
        /// Their node.
        node: String,
        /// Where the first app is declared.
        first: Place,
    },
    /// Well-formed, but this version cannot do it, and it would be wrong to pass over it.
    #[error("{path}: {what} cannot be carried out by this version; {instead}")]
    Unsupported {
        /// Which value.
        path: String,
        /// The thing.
        what: String,
        /// What to do instead.
        instead: &'static str,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |word| format!(" (did you mean '{word}'?)"))
}

fn list_or_none(words: &[String]) -> String {
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn nearest<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<String> {
    let (distance, best) = known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min()?;
    // A third of the letters may be wrong; a one-letter word is like any other.
    (distance > 0 && distance * 3 <= best.len().max(word.len())).then(|| best.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        let keys = ["mountpoint", "maximum_size", "dataset_id"];
        assert_eq!(nearest("mountpont", keys).as_deref(), Some("mountpoint"));
        assert_eq!(
            nearest("maximum-size", keys).as_deref(),
            Some("maximum_size")
        );
        assert_eq!(nearest("size", keys), None);
        assert_eq!(nearest("x", ["y"]), None);
    }
}
