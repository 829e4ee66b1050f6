//! A command in one text, split into words as a shell would split it, without running one.

/// The words; `None` when a quote is not closed.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None, '\\') => word.get_or_insert_default().push(chars.next()?),
            (Some('"'), '\\') if matches!(chars.peek(), Some('"' | '\\' | '$' | '`')) => {
                word.get_or_insert_default().extend(chars.next());
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return None;
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (text, expected) in [
            ("a b  c", Some(vec!["a", "b", "c"])),
            (" a\t", Some(vec!["a"])),
            ("", Some(vec![])),
            ("sh -c 'a \"b\" c'", Some(vec!["sh", "-c", "a \"b\" c"])),
            ("\"a \\\" b\" ''", Some(vec!["a \" b", ""])),
            ("a\\ b 'c'd", Some(vec!["a b", "cd"])),
            ("\"\\n\"", Some(vec!["\\n"])),
            ("'a", None),
            ("a\\", None),
        ] {
            let words = split(text);
            let words: Option<Vec<&str>> = words
                .as_ref()
                .map(|words| words.iter().map(String::as_str).collect());
            assert_eq!(words, expected, "{text}");
        }
    }
}
