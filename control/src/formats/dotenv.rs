//! Environment files: `.env` beside a Compose file, and what `env_file` names.
//!
//! ```text
//! # a comment
//! NAME=value            up to the end of the line or ` #`; blanks around it do not count
//! NAME='as it stands'   NAME="with \n, \", \\ and ${VARIABLES}"
//! export NAME=value
//! NAME                  its value comes from where the deployment is made
//! ```

use std::collections::BTreeSet;

use super::{
    error::{FormatError, Place, Problem},
    interpolate::{Template, Variables},
};

/// One line that says something.
struct Line {
    number: usize,
    name: String,
    value: Value,
}

enum Value {
    /// From the environment of whoever deploys.
    Taken,
    Literal(String),
    Template(Result<Template, String>),
}

/// The variables of a file. Those of `outside` stand in its values, and they give those that
/// the file only names; what is nowhere is left out.
pub(super) fn variables(
    file: &str,
    text: &str,
    outside: &Variables,
    errors: &mut Vec<FormatError>,
) -> Variables {
    let mut found = Variables::new();
    let mut known = outside.clone();
    for line in lines(file, text, errors) {
        let value = match line.value {
            Value::Taken => outside.get(&line.name).cloned(),
            Value::Literal(text) => Some(text),
            Value::Template(template) => {
                let value = template
                    .and_then(|template| template.value(&known).map_err(|why| why.to_string()));
                match value {
                    Ok(value) => Some(value),
                    Err(reason) => {
                        errors.push(refused(file, line.number, &line.name, reason));
                        None
                    }
                }
            }
        };
        if let Some(value) = value {
            known
                .entry(line.name.clone())
                .or_insert_with(|| value.clone());
            found.insert(line.name, value);
        }
    }
    found
}

/// The variables that a file needs from outside.
pub(super) fn names(text: &str, into: &mut BTreeSet<String>) {
    for line in lines("", text, &mut Vec::new()) {
        match line.value {
            Value::Taken => {
                into.insert(line.name);
            }
            Value::Template(Ok(template)) => template.names(into),
            Value::Literal(_) | Value::Template(Err(_)) => {}
        }
    }
}

fn refused(file: &str, line: usize, name: &str, reason: String) -> FormatError {
    let place = Place {
        file: file.to_owned(),
        line,
        column: 1,
    };
    let path = name.to_owned();
    FormatError::new(place, Problem::Refused { path, reason })
}

fn lines(file: &str, text: &str, errors: &mut Vec<FormatError>) -> Vec<Line> {
    let mut found = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let line = raw.trim();
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (line, None),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            let reason = "a line must be NAME=value, NAME or a # comment".to_owned();
            errors.push(refused(file, number, line, reason));
            continue;
        }
        match value.map_or(Ok(Value::Taken), parse_value) {
            Ok(value) => found.push(Line {
                number,
                name: name.to_owned(),
                value,
            }),
            Err(reason) => errors.push(refused(file, number, name, reason)),
        }
    }
    found
}

fn parse_value(text: &str) -> Result<Value, String> {
    let template =
        |text: &str| Value::Template(Template::parse(text).map_err(|error| error.to_string()));
    match text.chars().next() {
        Some('\'') => {
            let (inside, rest) = text[1..]
                .split_once('\'')
                .ok_or("its quote ' is not closed on the line")?;
            nothing_after(rest)?;
            Ok(Value::Literal(inside.to_owned()))
        }
        Some('"') => {
            let (inside, rest) = double_quoted(&text[1..])?;
            nothing_after(rest)?;
            Ok(template(&inside))
        }
        _ => {
            let comment = text.find(" #").or_else(|| text.find("\t#"));
            Ok(template(text[..comment.unwrap_or(text.len())].trim_end()))
        }
    }
}

fn nothing_after(rest: &str) -> Result<(), String> {
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(());
    }
    Err(format!("'{rest}' stands behind its closing quote"))
}

/// What stands up to the closing quote, escapes resolved.
fn double_quoted(text: &str) -> Result<(String, &str), String> {
    let mut inside = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((inside, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => inside.push('\n'),
                Some((_, 'r')) => inside.push('\r'),
                Some((_, 't')) => inside.push('\t'),
                Some((_, '$')) => inside.push_str("$$"),
                Some((_, c @ ('"' | '\\'))) => inside.push(c),
                Some((_, c)) => inside.extend(['\\', c]),
                None => break,
            },
            c => inside.push(c),
        }
    }
    Err("its quote \" is not closed on the line".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside() -> Variables {
        [("HOST", "h"), ("WINS", "outside")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn values_of_each_kind() {
        let text = "# comment\n\nA=1\n B = two words # not this\nC='$HOST #x'\nD=\"a\\n\\\"$HOST\\\" \\$A\"\n\
                    export E=${A}${NO:-d}\nHOST\nMISSING\nF=\nG=a#b\nWINS=inside\nH=$WINS\n";
        let mut errors = Vec::new();
        let found = variables("x.env", text, &outside(), &mut errors);
        assert_eq!(errors, []);
        let pairs: Vec<_> = found
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("A", "1"),
                ("B", "two words"),
                ("C", "$HOST #x"),
                ("D", "a\n\"h\" $A"),
                ("E", "1d"),
                ("F", ""),
                ("G", "a#b"),
                ("H", "outside"),
                ("HOST", "h"),
                ("WINS", "inside"),
            ]
        );
    }

    #[test]
    fn bad_lines_are_placed() {
        let text = "A B=1\nX='a\nY=\"a\nZ='a' b\nW=$NO\n=1\n";
        let mut errors = Vec::new();
        variables("x.env", text, &outside(), &mut errors);
        let words = [
            (1, "a line must be NAME=value"),
            (2, "quote ' is not closed"),
            (3, "quote \" is not closed"),
            (4, "'b' stands behind"),
            (5, "NO is not set"),
            (6, "a line must be"),
        ];
        let mut texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        texts.sort();
        for ((line, word), text) in words.iter().zip(&texts) {
            assert!(text.starts_with(&format!("x.env:{line}:1: ")), "{text}");
            assert!(text.contains(word), "{text}");
        }
        assert_eq!(texts.len(), words.len());
    }

    #[test]
    fn what_it_needs_from_outside() {
        let mut found = BTreeSet::new();
        names("A=$B\nC\nD='$E'\n", &mut found);
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found, ["B", "C"]);
    }
}
