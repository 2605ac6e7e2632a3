//! A minimal HTTP client for the credential endpoints of platforms: one request for each
//! connection, an answer of bounded length, no redirects.
//!
//! Existing clients depend on dozens of crates that this does not need. `httparse`, hyper's parser,
//! parses the head, which is easy to get wrong.

use std::fmt::Write as _;

use httparse::{EMPTY_HEADER, Status};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::net::transport::stream::Stream;
use crate::text::printable;

/// The maximum length of an answer, with its interim answers and head.
const MAX_LENGTH: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// The maximum length of a reason phrase in errors, in bytes.
const MAX_REASON: usize = 64;

/// A request without a body.
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    /// The host, and the port if it is not the scheme's default.
    pub(crate) host: &'a str,
    /// The path and the query, encoded.
    pub(crate) target: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

impl Request<'_> {
    /// Sends the request and returns the body of an answer whose status is 200. It may be a secret.
    ///
    /// # Errors
    /// For an answer with another status, the error contains the status and the reason, but never
    /// the body, which may contain a secret, such as the request's own.
    pub(crate) async fn send(&self, mut stream: Stream) -> Result<Zeroizing<Vec<u8>>> {
        let failed = |text: &str| Error::credential(format!("{}: {text}", self.host));
        let request = self
            .encode()
            .ok_or(failed("the request can't be written"))?;
        stream
            .send(request.as_bytes())
            .await
            .map_err(|error| failed(&error.to_string()))?;
        // One allocation: a growing buffer would leave copies of a secret behind.
        let mut answer = Zeroizing::new(Vec::with_capacity(MAX_LENGTH));
        let mut begin = 0;
        loop {
            let room = MAX_LENGTH - answer.len();
            let mut rest = (&mut stream).take(room as u64);
            let read = rest.read_buf(&mut *answer).await;
            let is_over = read.map_err(|error| failed(&error.to_string()))? == 0;
            loop {
                let bytes = answer.get(begin..).unwrap_or_default();
                match Parsed::of(bytes, is_over && room > 0) {
                    Ok(Parsed::Interim(length)) => begin += length,
                    Ok(Parsed::Body(body)) => return Ok(body),
                    Ok(Parsed::Partial) if is_over => {
                        return Err(failed("the answer is too long, or cut short"));
                    }
                    Ok(Parsed::Partial) => break,
                    Err(Problem::Malformed(problem)) => return Err(failed(problem)),
                    Err(Problem::Status(status)) => {
                        return Err(Error::credential(format!(
                            "{} answered {status}",
                            self.host
                        )));
                    }
                }
            }
        }
    }

    /// `None` if a part contains a line break or another character that is not allowed.
    fn encode(&self) -> Option<Zeroizing<String>> {
        let is_text = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let is_safe = is_text(self.host)
            && is_text(self.target)
            && !self.target.contains(' ')
            && self.headers.iter().all(|(_, value)| is_text(value));
        if !is_safe {
            return None;
        }
        let mut text = Zeroizing::new(format!("{} {} HTTP/1.1\r\n", self.method, self.target));
        let length = ("Content-Length", "0");
        let own = [("Host", self.host), ("Connection", "close"), length];
        for (name, value) in own.iter().chain(self.headers) {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        Some(text)
    }
}

/// The parsed part of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// The answer is incomplete.
    Partial,
    /// An interim answer of this length, followed by another answer (RFC 9110, 15.2).
    Interim(usize),
    /// The body of a final answer whose status is 200.
    Body(Zeroizing<Vec<u8>>),
}

/// Why an answer can't be used.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// The problem.
    Malformed(&'static str),
    /// The status and the reason.
    Status(String),
}

impl From<&'static str> for Problem {
    fn from(problem: &'static str) -> Self {
        Self::Malformed(problem)
    }
}

impl Parsed {
    fn of(bytes: &[u8], at_end: bool) -> Result<Self, Problem> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let (start, status) = match (head.parse(bytes), head.code) {
            (Ok(Status::Complete(start)), Some(status)) => (start, status),
            (Ok(Status::Partial), _) => return Ok(Self::Partial),
            (Ok(Status::Complete(_)), None) | (Err(_), _) => return Err("no HTTP answer".into()),
        };
        match status {
            200 => {}
            // No upgrade was requested, so 101 is final.
            100 | 102..=199 => return Ok(Self::Interim(start)),
            _ => {
                let reason = printable(head.reason.unwrap_or_default(), MAX_REASON);
                let text = format!("{status} {reason}");
                return Err(Problem::Status(text.trim_end().to_owned()));
            }
        }
        let body = bytes.get(start..).unwrap_or_default();
        let body = match Framing::of(head.headers)? {
            Framing::Length(length) => body.get(..length).map(<[u8]>::to_vec),
            Framing::Chunks => chunks(body).transpose()?,
            Framing::ToTheEnd => at_end.then(|| body.to_vec()),
        };
        Ok(body.map_or(Self::Partial, |body| Self::Body(Zeroizing::new(body))))
    }
}

/// How the end of a body is determined.
enum Framing {
    Length(usize),
    Chunks,
    ToTheEnd,
}

impl Framing {
    fn of(headers: &[httparse::Header<'_>]) -> Result<Self, &'static str> {
        let mut framing = Self::ToTheEnd;
        for header in headers {
            let value =
                std::str::from_utf8(header.value).map_err(|_| "a header is not valid UTF-8")?;
            let found = if header.name.eq_ignore_ascii_case("content-length") {
                Self::Length(value.trim().parse().map_err(|_| "invalid Content-Length")?)
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                match value.trim().eq_ignore_ascii_case("chunked") {
                    true => Self::Chunks,
                    false => return Err("unsupported Transfer-Encoding"),
                }
            } else {
                continue;
            };
            match framing {
                Self::ToTheEnd => framing = found,
                Self::Length(_) | Self::Chunks => return Err("more than one length"),
            }
        }
        Ok(framing)
    }
}

fn chunks(mut bytes: &[u8]) -> Option<Result<Vec<u8>, &'static str>> {
    // The body is no longer than its chunks.
    let mut body = Vec::with_capacity(bytes.len());
    loop {
        let (start, size) = match httparse::parse_chunk_size(bytes) {
            Ok(Status::Complete((start, size))) => (start, usize::try_from(size).ok()?),
            Ok(Status::Partial) => return None,
            Err(_) => return Some(Err("invalid chunk")),
        };
        if size == 0 {
            return Some(Ok(body));
        }
        let end = start.checked_add(size)?;
        body.extend_from_slice(bytes.get(start..end)?);
        bytes = match bytes.get(end..end.checked_add(2)?)? {
            b"\r\n" => bytes.get(end + 2..)?,
            _ => return Some(Err("invalid chunk")),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, at_end: bool) -> Result<Parsed, Problem> {
        Parsed::of(text.as_bytes(), at_end)
    }

    #[test]
    fn bodies_end_where_the_head_says() {
        let ok = |body: &str| Ok(Parsed::Body(Zeroizing::new(body.into())));
        let head = "HTTP/1.1 200 OK\r\nX: y\r\n";
        assert_eq!(
            parse(&format!("{head}Content-Length: 2\r\n\r\nabc"), false),
            ok("ab")
        );
        assert_eq!(
            parse(&format!("{head}Content-Length: 4\r\n\r\nabc"), true),
            Ok(Parsed::Partial)
        );
        assert_eq!(parse(&format!("{head}\r\nabc"), true), ok("abc"));
        assert_eq!(parse(&format!("{head}\r\nabc"), false), Ok(Parsed::Partial));
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
        let whole = format!("{chunked}2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n");
        assert_eq!(parse(&whole, false), ok("abc"));
        for end in 0..whole.len() - 2 {
            assert_eq!(parse(&whole[..end], false), Ok(Parsed::Partial), "{end}");
        }
    }

    /// With any content of the body or a header.
    #[test]
    fn an_error_status_shows_only_its_code_and_reason() {
        let long = "x".repeat(MAX_REASON);
        for (line, expected) in [
            ("404 Not Found", "404 Not Found"),
            ("203 Non-Authoritative", "203 Non-Authoritative"),
            ("500", "500"),
            ("500 a\tb", r"500 a\tb"),
            ("101 Switching Protocols", "101 Switching Protocols"),
            (&format!("500 {long}m4rked"), &format!("500 {long}")),
        ] {
            let text = format!("HTTP/1.1 {line}\r\nX: m4rked\r\nContent-Length: 6\r\n\r\nm4rked");
            let status = Problem::Status(expected.to_owned());
            assert_eq!(parse(&text, false), Err(status), "{line}");
        }
    }

    #[test]
    fn interim_answers_come_before_the_final_one() {
        for head in ["100 Continue", "103 Early Hints\r\nLink: x", "199"] {
            let interim = format!("HTTP/1.1 {head}\r\nContent-Length: 5\r\n\r\n");
            let text = format!("{interim}HTTP/1.1 200 OK\r\n\r\nbody");
            assert_eq!(
                parse(&text, true),
                Ok(Parsed::Interim(interim.len())),
                "{head}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let head = "HTTP/1.1 200 OK\r\n";
        for bad in [
            "SSH-2.0-OpenSSH\r\n",
            &format!("{head}Content-Length: -1\r\n\r\n"),
            &format!("{head}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            &format!("{head}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
            &format!("{head}Transfer-Encoding: gzip\r\n\r\n"),
            &format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
            &format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\nabc"),
            &format!("{head}{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1)),
        ] {
            assert!(
                matches!(parse(bad, false), Err(Problem::Malformed(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn no_part_of_a_request_ends_its_line() {
        let request = |target: &str, value: &str| {
            let request = Request {
                method: "GET",
                host: "h",
                target,
                headers: &[("X", value)],
            };
            request.encode().is_some()
        };
        assert!(request("/a?b=c", "d e"));
        for (target, value) in [
            ("/a b", ""),
            ("/\r\nX: y", ""),
            ("/", "a\r\nb"),
            ("/", "\u{e4}"),
        ] {
            assert!(!request(target, value), "{target:?} {value:?}");
        }
    }
}
