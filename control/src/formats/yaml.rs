//! YAML texts as trees whose every key and value knows its line and column.
//!
//! Built from the parser's events, not from a ready-made tree, because three things must
//! survive that trees lose: the text of a scalar as it was written (`15.10` is an image tag,
//! not 15.1), the place of every key, and keys that stand twice.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::error::{FormatError, Place, Problem};

/// Deepest nesting; the deepest key of the formats is at 7.
const DEPTH_MAX: usize = 32;
/// Most nodes that aliases may add to a file.
const ALIAS_NODES_MAX: usize = 10_000;

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Mark {
    /// The same place with its file.
    pub(super) fn in_file(self, file: &str) -> Place {
        Place {
            file: file.to_owned(),
            line: self.line,
            column: self.column,
        }
    }
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Mark,
    pub(super) value: Value,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A scalar as it was written.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Neither quoted nor a block nor tagged `!!str`: may be a number, a boolean or null.
    pub(super) plain: bool,
}

/// One key of a mapping with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) at: Mark,
    pub(super) key: Scalar,
    pub(super) value: Node,
}

/// What a value is, by the core schema of YAML 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    Text,
    List,
    Map,
}

impl Kind {
    /// With its article, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Map => "a mapping",
        }
    }
}

impl Scalar {
    /// What it is.
    pub(super) fn kind(&self) -> Kind {
        if !self.plain {
            return Kind::Text;
        }
        let text = self.text.as_str();
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Boolean,
            _ if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Kind::Integer,
            _ if based(text) => Kind::Integer,
            // Rust reads `inf`, `nan` and `infinity` as numbers; YAML writes them `.inf`, `.nan`.
            _ if text.contains(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok() => {
                Kind::Number
            }
            _ => Kind::Text,
        }
    }
}

impl Scalar {
    fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        let text = self.text.as_str();
        let number = match self.kind() {
            Kind::Null => return Json::Null,
            Kind::Boolean => return Json::Bool(text.eq_ignore_ascii_case("true")),
            Kind::Integer => match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
                (Some(digits), _) => u64::from_str_radix(digits, 16).ok().map(Json::from),
                (_, Some(digits)) => u64::from_str_radix(digits, 8).ok().map(Json::from),
                _ => text.parse::<i64>().ok().map(Json::from),
            },
            Kind::Number => text.parse::<f64>().ok().map(Json::from),
            Kind::Text | Kind::List | Kind::Map => None,
        };
        number.unwrap_or_else(|| Json::from(text))
    }
}

/// Whether it is `0x1f` or `0o17`.
fn based(text: &str) -> bool {
    let digits = |rest: &str, radix| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
    text.strip_prefix("0x").is_some_and(|rest| digits(rest, 16))
        || text.strip_prefix("0o").is_some_and(|rest| digits(rest, 8))
}

impl Node {
    /// What it is.
    pub(super) fn kind(&self) -> Kind {
        match &self.value {
            Value::Scalar(scalar) => scalar.kind(),
            Value::List(_) => Kind::List,
            Value::Map(_) => Kind::Map,
        }
    }

    /// The same value in JSON; a number that JSON cannot have is a text.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Scalar(scalar) => scalar.to_json(),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => {
                let field = |entry: &Entry| (entry.key.text.clone(), entry.value.to_json());
                Json::Object(entries.iter().map(field).collect())
            }
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| 1 + entry.value.count()).sum(),
        }
    }
}

/// Reads a text into a tree; `None` when there is none (the errors say why).
pub(super) fn load(file: &str, text: &str, errors: &mut Vec<FormatError>) -> Option<Node> {
    let mut builder = Builder {
        file,
        errors,
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        alias_nodes: 0,
        root: None,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(builder.scan_error(&error)),
        };
        if let Err(fatal) = step {
            builder.errors.push(fatal);
            return None;
        }
    }
    if builder.root.is_none() {
        let start = Mark { line: 1, column: 1 };
        let error = builder.syntax(start, "the file is empty".to_owned());
        builder.errors.push(error);
    }
    builder.root
}

/// A container that is not yet closed.
enum Frame {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(Mark, Scalar)>,
    },
}

struct Open {
    at: Mark,
    anchor: usize,
    frame: Frame,
}

struct Builder<'a> {
    file: &'a str,
    errors: &'a mut Vec<FormatError>,
    stack: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    alias_nodes: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    /// Takes in one event; an error is one after which nothing more can be read.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), FormatError> {
        let at = Mark {
            line: span.start.line(),
            column: span.start.col() + 1,
        };
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(self.syntax(at, "a file holds one document, this is a second".to_owned()))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(anchor) => self.alias(at, anchor),
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = self.check_tag(at, tag.as_deref())?;
                let scalar = Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain && !tagged,
                };
                let value = Value::Scalar(scalar);
                self.close(Node { at, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(at, tag.as_deref())?;
                self.open(at, anchor, Frame::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(at, tag.as_deref())?;
                let entries = Vec::new();
                self.open(at, anchor, Frame::Map { entries, key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open { at, anchor, frame }) => {
                    let value = match frame {
                        Frame::List(items) => Value::List(items),
                        Frame::Map { entries, .. } => Value::Map(entries),
                    };
                    self.close(Node { at, value }, anchor)
                }
                None => Err(self.syntax(at, "something ends here that never began".to_owned())),
            },
        }
    }

    fn open(&mut self, at: Mark, anchor: usize, frame: Frame) -> Result<(), FormatError> {
        if self.stack.len() == DEPTH_MAX {
            return Err(self.syntax(at, format!("it is nested deeper than {DEPTH_MAX} levels")));
        }
        self.stack.push(Open { at, anchor, frame });
        Ok(())
    }

    /// A node is complete: puts it where it belongs.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), FormatError> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.frame {
            Frame::List(items) => items.push(node),
            Frame::Map { entries, key } => match (key.take(), node) {
                (Some((at, key)), value) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key.text == key.text) {
                        let problem = Problem::DuplicateKey {
                            key: key.text,
                            first: first.at.in_file(self.file),
                        };
                        let error = FormatError::new(at.in_file(self.file), problem);
                        self.errors.push(error);
                    } else {
                        entries.push(Entry { at, key, value });
                    }
                }
                (
                    None,
                    Node {
                        at,
                        value: Value::Scalar(scalar),
                    },
                ) => *key = Some((at, scalar)),
                (None, Node { at, .. }) => {
                    return Err(self.syntax(at, "a key must be a single word or text".to_owned()));
                }
            },
        }
        Ok(())
    }

    fn alias(&mut self, at: Mark, anchor: usize) -> Result<(), FormatError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(self.syntax(at, "this alias refers to what contains it".to_owned()));
        };
        self.alias_nodes += node.count();
        if self.alias_nodes > ALIAS_NODES_MAX {
            let message = format!("aliases make more than {ALIAS_NODES_MAX} values of it");
            return Err(self.syntax(at, message));
        }
        let node = Node {
            at,
            value: node.value.clone(),
        };
        self.close(node, 0)
    }

    /// Whether the tag makes a text of whatever it stands at.
    fn check_tag(&self, at: Mark, tag: Option<&Tag>) -> Result<bool, FormatError> {
        match tag {
            None => Ok(false),
            Some(tag) if tag.is_yaml_core_schema() => Ok(tag.suffix == "str"),
            Some(tag) => {
                let message = format!("the tag '{}{}' has no meaning here", tag.handle, tag.suffix);
                Err(self.syntax(at, message))
            }
        }
    }

    fn syntax(&self, at: Mark, message: String) -> FormatError {
        FormatError::new(at.in_file(self.file), Problem::Syntax(message))
    }

    fn scan_error(&self, error: &ScanError) -> FormatError {
        let marker = error.marker();
        let at = Mark {
            line: marker.line(),
            column: marker.col() + 1,
        };
        self.syntax(at, error.info().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let mut errors = Vec::new();
        load("f.yml", text, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    fn root(text: &str) -> Node {
        let mut errors = Vec::new();
        let node = load("f.yml", text, &mut errors);
        assert_eq!(errors, []);
        node.unwrap()
    }

    #[test]
    fn scalars_keep_their_text_and_know_their_kind() {
        let kinds = [
            ("15.10", Kind::Number),
            ("\"15.10\"", Kind::Text),
            ("!!str 15.10", Kind::Text),
            ("-3", Kind::Integer),
            ("0x1f", Kind::Integer),
            ("1e3", Kind::Number),
            ("1G", Kind::Text),
            ("inf", Kind::Text),
            ("-", Kind::List),
            ("~", Kind::Null),
            ("true", Kind::Boolean),
            ("yes", Kind::Text),
        ];
        for (text, kind) in kinds {
            assert_eq!(root(text).kind(), kind, "{text}");
        }
        let Value::Scalar(scalar) = root("15.10").value else {
            panic!("a scalar");
        };
        assert_eq!(scalar.text, "15.10");
    }

    #[test]
    fn every_key_knows_its_place() {
        let Value::Map(entries) = root("a: 1\nb:\n  - c: 2\n").value else {
            panic!("a mapping");
        };
        assert_eq!(entries[1].at, Mark { line: 2, column: 1 });
        let Value::List(items) = &entries[1].value.value else {
            panic!("a list");
        };
        assert_eq!(items[0].at, Mark { line: 3, column: 5 });
    }

    #[test]
    fn duplicate_keys_are_all_found() {
        assert_eq!(
            errors("a: 1\na: 2\nb: {c: 1, c: 2}\n"),
            [
                "f.yml:2:1: the key 'a' stands here twice; the first is at f.yml:1:1",
                "f.yml:3:11: the key 'c' stands here twice; the first is at f.yml:3:5",
            ]
        );
    }

    #[test]
    fn bad_yaml_is_placed() {
        for (text, expected) in [
            ("", "f.yml:1:1: this is not valid YAML: the file is empty"),
            ("a: [1", "f.yml:"),
            (
                "a: 1\n---\nb: 2\n",
                "f.yml:2:1: this is not valid YAML: a file holds one",
            ),
            ("? [a]\n: 1", "a key must be a single word"),
            ("a: !thing 1", "the tag '!thing' has no meaning here"),
            ("a: &x [*x]", "refers to what contains it"),
        ] {
            let found = errors(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(expected), "{text}: {found:?}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        assert!(errors(&"[".repeat(40))[0].contains("nested deeper"));
        assert_eq!(errors(&"[".repeat(100_000)).len(), 1);
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let refs = vec![format!("*a{}", i - 1); 9].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(errors(&bomb)[0].contains("aliases make more than"));
    }
}
