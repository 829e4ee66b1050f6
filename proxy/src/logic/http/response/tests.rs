//! Response heads: framing by request and status, refusals, what is passed on.

use super::*;

fn asked(method: Method) -> Asked {
    Asked {
        method,
        version: Version::Http11,
        upgrade: false,
    }
}

const HTTP10: Asked = Asked {
    method: Method::Get,
    version: Version::Http10,
    upgrade: false,
};

const UPGRADE: Asked = Asked {
    method: Method::Get,
    version: Version::Http11,
    upgrade: true,
};

fn verdict(response: &str, asked: &Asked) -> Verdict<ResponseHead> {
    parse_response(response.as_bytes(), asked, &HeadLimits::default())
}

fn response(start: &str, fields: &str) -> String {
    format!("{start}\r\n{fields}\r\n")
}

/// The head of a good response, after every prefix was undecided.
fn head(response: &str, asked: &Asked) -> ResponseHead {
    for prefix in 0..response.len() {
        assert_eq!(
            verdict(&response[..prefix], asked),
            Verdict::NeedMore,
            "prefix of {prefix} bytes of {response:?}"
        );
    }
    let Verdict::Head(head) = verdict(&format!("{response}body\n"), asked) else {
        panic!("{response:?}: {:?}", verdict(response, asked));
    };
    assert_eq!(head.head_bytes, response.len());
    head
}

fn framing_of(start: &str, fields: &str, method: Method) -> (Framing, bool) {
    let head = head(&response(start, fields), &asked(method));
    (head.framing, head.keep_alive)
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a line per rule")]
fn framing_follows_request_and_status() {
    use Framing::{Chunked, Length, None, UntilClose};
    let table: [(&str, &str, Method, Framing, bool); 17] = [
        (
            "HTTP/1.1 200 OK",
            "Content-Length: 5\r\n",
            Method::Get,
            Length(5),
            true,
        ),
        (
            "HTTP/1.1 200 OK",
            "Content-Length: 0\r\n",
            Method::Get,
            None,
            true,
        ),
        (
            "HTTP/1.1 200 OK",
            "Transfer-Encoding: chunked\r\n",
            Method::Get,
            Chunked,
            true,
        ),
        ("HTTP/1.1 200 OK", "", Method::Get, UntilClose, false),
        ("HTTP/1.1 500", "", Method::Other, UntilClose, false),
        (
            "HTTP/1.1 200 OK",
            "Connection: close\r\nContent-Length: 1\r\n",
            Method::Get,
            Length(1),
            false,
        ),
        (
            "HTTP/1.0 200 OK",
            "Content-Length: 1\r\n",
            Method::Get,
            Length(1),
            false,
        ),
        (
            "HTTP/1.0 200 OK",
            "Content-Length: 1\r\nConnection: keep-alive\r\n",
            Method::Get,
            Length(1),
            true,
        ),
        // RFC 9112, section 6.3, item 1.
        (
            "HTTP/1.1 200 OK",
            "Content-Length: 5\r\n",
            Method::Head,
            None,
            true,
        ),
        (
            "HTTP/1.1 200 OK",
            "Transfer-Encoding: chunked\r\n",
            Method::Head,
            None,
            true,
        ),
        ("HTTP/1.1 200 OK", "", Method::Head, None, true),
        (
            "HTTP/1.1 304 Not Modified",
            "Content-Length: 5\r\n",
            Method::Get,
            None,
            true,
        ),
        ("HTTP/1.1 204 No Content", "", Method::Get, None, true),
        (
            "HTTP/1.1 204 No Content",
            "Content-Length: 0\r\n",
            Method::Get,
            None,
            true,
        ),
        // RFC 9110, section 8.6: a 204 with a length may be followed by anything.
        (
            "HTTP/1.1 204 No Content",
            "Content-Length: 5\r\n",
            Method::Get,
            None,
            false,
        ),
        (
            "HTTP/1.1 204 No Content",
            "Transfer-Encoding: chunked\r\n",
            Method::Get,
            None,
            false,
        ),
        ("HTTP/1.1 100 Continue", "", Method::Other, None, true),
    ];
    for (start, fields, method, framing, keep_alive) in table {
        assert_eq!(
            framing_of(start, fields, method),
            (framing, keep_alive),
            "{start} {fields} to {method:?}"
        );
    }
}

#[test]
fn interim_and_switching_are_told_apart() {
    let interim = head(
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        &asked(Method::Get),
    );
    assert!(interim.is_interim && !interim.switching);
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let head = head(switching, &UPGRADE);
    assert!(head.switching && !head.is_interim && !head.keep_alive);
    assert_eq!(
        verdict(switching, &asked(Method::Get)),
        Verdict::Reject(RejectReason::UnaskedUpgrade)
    );
}

#[test]
fn answers_in_doubt_are_refused() {
    use RejectReason::{
        Coding, CodingDuplicate, CodingVersion, FieldName, FieldValue, LengthAndCoding,
        LengthDuplicate, LengthInvalid, LineEnd, StatusLine, Version as BadVersion,
    };
    let ok = "HTTP/1.1 200 OK";
    let table: [(&str, &str, RejectReason); 21] = [
        (
            ok,
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            LengthAndCoding,
        ),
        (
            ok,
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            LengthDuplicate,
        ),
        (
            ok,
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            LengthDuplicate,
        ),
        (ok, "Content-Length: 5,5\r\n", LengthDuplicate),
        (ok, "Content-Length: +5\r\n", LengthInvalid),
        (ok, "Content-Length: \r\n", LengthInvalid),
        (
            ok,
            "Content-Length: 18446744073709551616\r\n",
            LengthInvalid,
        ),
        (ok, "Transfer-Encoding: gzip, chunked\r\n", Coding),
        (ok, "Transfer-Encoding: identity\r\n", Coding),
        (
            ok,
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            CodingDuplicate,
        ),
        (
            "HTTP/1.0 200 OK",
            "Transfer-Encoding: chunked\r\n",
            CodingVersion,
        ),
        (ok, "Content-Length : 5\r\n", FieldName),
        (ok, "A: 1\r\n folded\r\n", FieldName),
        (ok, ": 1\r\n", FieldName),
        (ok, "A: 1\0\r\n", FieldValue),
        (ok, "A: 1\nB: 2\r\n", LineEnd),
        (ok, "A: 1\rB: 2\r\n", LineEnd),
        ("HTTP/2.0 200 OK", "", BadVersion),
        ("HTTP/1.1 20 OK", "", StatusLine),
        ("HTTP/1.1 099 Low", "", StatusLine),
        ("ICY 200 OK", "", StatusLine),
    ];
    for (start, fields, reason) in table {
        assert_eq!(
            verdict(&response(start, fields), &asked(Method::Get)),
            Verdict::Reject(reason),
            "{start} {fields:?}"
        );
    }
    // A client of HTTP/1.0 could not read it.
    assert_eq!(
        verdict(&response(ok, "Transfer-Encoding: chunked\r\n"), &HTTP10),
        Verdict::Reject(CodingVersion)
    );
    let endless = response(ok, &"A: 1\r\n".repeat(5_000));
    assert_eq!(
        verdict(&endless, &asked(Method::Get)),
        Verdict::Reject(RejectReason::HeadTooLong)
    );
}

fn passed(response: &str, asked: &Asked, keep_alive: bool) -> String {
    let head = head(response, asked);
    let mut out = Vec::new();
    write_downstream_head(&head, response.as_bytes(), asked, keep_alive, &mut out);
    let Verdict::Head(again) = parse_response(&out, asked, &HeadLimits::default()) else {
        panic!("the head passed on is malformed: {out:?}");
    };
    assert_eq!(again.head_bytes, out.len());
    assert_eq!((again.framing, again.status), (head.framing, head.status));
    String::from_utf8(out).unwrap()
}

#[test]
fn the_head_passed_on_says_what_the_verdict_says() {
    let get = asked(Method::Get);
    assert_eq!(
        passed(
            "HTTP/1.0 404 Not Here\r\nserver:  x \r\ncontent-length: 05\r\nConnection: x-mine\r\n\
             X-Mine: 1\r\nKeep-Alive: 9\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
            &get,
            true
        ),
        "HTTP/1.1 404 Not Here\r\nserver: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
         Content-Length: 5\r\n\r\n"
    );
    // The client's connection is its own: the upstream's close is not passed on.
    assert_eq!(
        passed(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            &get,
            true
        ),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(
        passed("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", &get, false),
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        passed("HTTP/1.1 200 OK\r\n\r\n", &get, true),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        passed(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
            &HTTP10,
            true
        ),
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        passed(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: D\r\n\r\n",
            &get,
            true
        ),
        "HTTP/1.1 200 OK\r\nTrailer: D\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
}

#[test]
fn what_a_bodiless_answer_says_of_its_body_is_kept_where_it_may() {
    assert_eq!(
        passed(
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            &asked(Method::Head),
            true
        ),
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    );
    assert_eq!(
        passed(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            &asked(Method::Get),
            true
        ),
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"
    );
    assert_eq!(
        passed(
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            &asked(Method::Get),
            true
        ),
        "HTTP/1.1 204 No Content\r\n\r\n"
    );
    assert_eq!(
        passed(
            "HTTP/1.1 100 Continue\r\n\r\n",
            &asked(Method::Other),
            false
        ),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    assert_eq!(
        passed(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
            &UPGRADE,
            true
        ),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    );
}
