//! What the edge says in its own answers: one table of statuses, and the pages that an operator
//! has put in their place.

use std::collections::HashMap;

use super::accept::{Accept, Format};

/// The set that is used where a route names none.
pub const DEFAULT_SET: &str = "default";

/// Every status that the edge answers with by itself: its phrase (RFC 9110, section 15) and what
/// it says to a person.
pub const ANSWERS: [(u16, &str, &str); 22] = [
    (301, "Moved Permanently", "this is served over https"),
    (302, "Found", "this is served over https"),
    (307, "Temporary Redirect", "this is served over https"),
    (308, "Permanent Redirect", "this is served over https"),
    (400, "Bad Request", "the request is malformed"),
    (403, "Forbidden", "this is not allowed from here"),
    (404, "Not Found", "no route leads from this host"),
    (408, "Request Timeout", "the request did not arrive in time"),
    (413, "Content Too Large", "the body is too long"),
    (414, "URI Too Long", "the request target is too long"),
    (417, "Expectation Failed", "the expectation cannot be met"),
    (
        421,
        "Misdirected Request",
        "this host is not served on this connection",
    ),
    (425, "Too Early", "this must not be sent as early data"),
    (426, "Upgrade Required", "another protocol is needed"),
    (429, "Too Many Requests", "too many requests from here"),
    (
        431,
        "Request Header Fields Too Large",
        "the request head is too long",
    ),
    (500, "Internal Server Error", "the request failed"),
    (501, "Not Implemented", "this is not implemented"),
    (502, "Bad Gateway", "the service gave no valid answer"),
    (
        503,
        "Service Unavailable",
        "the service is not available now",
    ),
    (504, "Gateway Timeout", "the service did not answer in time"),
    (
        505,
        "HTTP Version Not Supported",
        "this HTTP version is not served",
    ),
];

/// Phrase and message of a status. A phrase may be empty (RFC 9112, section 4).
#[must_use]
pub fn answer(status: u16) -> (&'static str, &'static str) {
    ANSWERS
        .iter()
        .find(|(known, ..)| *known == status)
        .map_or(("", "the request failed"), |(_, phrase, message)| {
            (*phrase, *message)
        })
}

/// A page of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its format.
    pub format: Format,
    /// Its bytes; `{request_id}` and `{status}` stand for what they say.
    pub bytes: Vec<u8>,
}

/// All pages, by set and status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages(HashMap<String, HashMap<u16, Vec<Page>>>);

impl Pages {
    /// Adds one.
    pub fn add(&mut self, set: &str, status: u16, page: Page) {
        let set = self.0.entry(set.to_owned()).or_default();
        set.entry(status).or_default().push(page);
    }

    /// Whether there is a set of this name.
    #[must_use]
    pub fn has(&self, set: &str) -> bool {
        set == DEFAULT_SET || self.0.contains_key(set)
    }

    /// Appends the body of an answer; says of which format it is.
    pub fn write(&self, about: &About<'_>, out: &mut Vec<u8>) -> Format {
        let named = about.set.unwrap_or(DEFAULT_SET);
        let of = |set: &str| self.0.get(set)?.get(&about.status);
        if let Some(pages) = of(named).or_else(|| of(DEFAULT_SET)) {
            let choices = pages.iter().map(|page| (page.format, page));
            if let Some(page) = about.accept.best(choices) {
                fill(&page.bytes, about, out);
                return page.format;
            }
        }
        let formats = Format::ALL.into_iter().map(|format| (format, format));
        let format = about.accept.best(formats).unwrap_or(Format::Text);
        built_in(format, about, out);
        format
    }
}

/// What an answer is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its status.
    pub status: u16,
    /// The set of pages that the route names.
    pub set: Option<&'a str>,
    /// What the client would like.
    pub accept: Accept,
    /// The id of the request; empty if it has none. Letters, digits and `-._~+/=:@` only.
    pub request_id: &'a [u8],
}

fn built_in(format: Format, about: &About<'_>, out: &mut Vec<u8>) {
    let (phrase, message) = answer(about.status);
    let template = match format {
        Format::Text => format!("{message}\n"),
        Format::Json => format!(
            "{{\"status\":{{status}},\"error\":\"{message}\",\"request_id\":\"{{request_id}}\"}}\n"
        ),
        Format::Html => format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <title>{{status}} {phrase}</title></head>\n\
             <body><h1>{phrase}</h1><p>{message}</p>\
             <p><small>{{request_id}}</small></p></body></html>\n"
        ),
    };
    fill(template.as_bytes(), about, out);
}

/// Appends a page with what stands in its places.
fn fill(page: &[u8], about: &About<'_>, out: &mut Vec<u8>) {
    const ID: &[u8] = b"{request_id}";
    const STATUS: &[u8] = b"{status}";
    let mut rest = page;
    while let Some(at) = memchr::memchr(b'{', rest) {
        let (before, from) = rest.split_at(at);
        out.extend_from_slice(before);
        if let Some(after) = from.strip_prefix(ID) {
            out.extend_from_slice(about.request_id);
            rest = after;
        } else if let Some(after) = from.strip_prefix(STATUS) {
            out.extend_from_slice(about.status.to_string().as_bytes());
            rest = after;
        } else {
            out.push(b'{');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(status: u16, set: Option<&'static str>, accept: &str) -> About<'static> {
        About {
            status,
            set,
            accept: Accept::of(accept.as_bytes()),
            request_id: b"abc-1",
        }
    }

    fn written(pages: &Pages, about: &About<'_>) -> (Format, String) {
        let mut out = Vec::new();
        let format = pages.write(about, &mut out);
        (format, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_table_is_in_order_and_has_each_status_once() {
        assert!(ANSWERS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn built_in_pages_have_the_format_that_the_client_reads() {
        let pages = Pages::default();
        let (format, text) = written(&pages, &about(503, None, "*/*"));
        assert_eq!(
            (format, &*text),
            (Format::Text, "the service is not available now\n")
        );
        let (format, text) = written(&pages, &about(503, None, "application/json"));
        assert_eq!(format, Format::Json);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["status"], 503);
        assert_eq!(json["request_id"], "abc-1");
        let (format, text) = written(&pages, &about(404, None, "text/html"));
        assert_eq!(format, Format::Html);
        assert!(
            text.contains("<h1>Not Found</h1>") && text.contains("abc-1"),
            "{text}"
        );
    }

    #[test]
    fn an_operators_page_takes_their_place() {
        let page = |format, text: &str| Page {
            format,
            bytes: text.as_bytes().to_vec(),
        };
        let mut pages = Pages::default();
        pages.add(
            "default",
            503,
            page(Format::Html, "<p>{status} {x} {request_id}{"),
        );
        pages.add("shop", 503, page(Format::Html, "shop"));
        pages.add("shop", 503, page(Format::Json, "{}"));
        let all = |set, accept| written(&pages, &about(503, set, accept)).1;
        assert_eq!(all(None, "application/json"), "<p>503 {x} abc-1{");
        assert_eq!(all(Some("shop"), "*/*"), "shop");
        assert_eq!(all(Some("shop"), "application/json"), "{}");
        // A status that the set does not have is the default's, then built in.
        pages.add("default", 404, page(Format::Text, "lost"));
        let (_, text) = written(&pages, &about(404, Some("shop"), "*/*"));
        assert_eq!(text, "lost");
        let (_, text) = written(&pages, &about(502, Some("shop"), "*/*"));
        assert_eq!(text, "the service gave no valid answer\n");
        assert!(pages.has("shop") && pages.has("default") && !pages.has("x"));
    }
}
