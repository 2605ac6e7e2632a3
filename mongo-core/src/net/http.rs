//! As much of an HTTP client as a platform's own endpoints for credentials need: one request on one
//! connection, an answer of a bounded length, no redirects.
//!
//! The clients there are bring dozens of crates for what this has no use for. Reading the head, which
//! is the part that is easy to get wrong, is `httparse`'s, the parser of hyper.

use std::fmt::Write as _;

use httparse::{EMPTY_HEADER, Status};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::stream::Stream;
use crate::error::{Error, Result};
use crate::text::printable;

/// The longest answer, head and all.
const MAX_LENGTH: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// How much of an answer that is an error is shown.
const SHOWN: usize = 1024;

/// A request without a body.
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) host: &'a str,
    /// The path and the query, encoded.
    pub(super) target: &'a str,
    pub(super) headers: &'a [(&'a str, &'a str)],
}

/// The status, and the body, which may be a secret.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Request<'_> {
    /// Asks, and gives the body of an answer that says 200.
    pub(super) async fn send(&self, stream: Stream) -> Result<Zeroizing<Vec<u8>>> {
        let response = self.exchange(stream).await?;
        if response.status == 200 {
            return Ok(response.body);
        }
        let text = printable(&String::from_utf8_lossy(&response.body), SHOWN);
        let (host, status) = (self.host, response.status);
        Err(Error::credential(format!(
            "{host} answered {status}: {text}"
        )))
    }

    async fn exchange(&self, mut stream: Stream) -> Result<Response> {
        let failed = |text: &str| Error::credential(format!("{}: {text}", self.host));
        let request = self
            .encode()
            .ok_or(failed("the request can't be written"))?;
        stream
            .send(request.as_bytes())
            .await
            .map_err(|error| failed(&error.to_string()))?;
        // All at once, so that no copy of a secret is left behind where it grew.
        let mut answer = Zeroizing::new(Vec::with_capacity(MAX_LENGTH));
        loop {
            let mut rest = (&mut stream).take((MAX_LENGTH - answer.len()) as u64);
            let read = rest.read_buf(&mut *answer).await;
            let at_end = read.map_err(|error| failed(&error.to_string()))? == 0;
            match Response::parse(&answer, at_end) {
                Some(Ok(response)) => return Ok(response),
                Some(Err(problem)) => return Err(failed(problem)),
                None if at_end => return Err(failed("the answer is too long, or cut short")),
                None => {}
            }
        }
    }

    /// `None` if a part would end its line.
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

impl Response {
    /// Reads what has come of an answer; `None` if more is to come.
    fn parse(bytes: &[u8], at_end: bool) -> Option<Result<Self, &'static str>> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let (start, status) = match (head.parse(bytes), head.code) {
            (Ok(Status::Complete(start)), Some(status)) => (start, status),
            (Ok(Status::Partial), _) => return None,
            (Ok(Status::Complete(_)), None) | (Err(_), _) => return Some(Err("no HTTP answer")),
        };
        let body = bytes.get(start..).unwrap_or_default();
        let body = match Framing::of(head.headers) {
            Err(problem) => return Some(Err(problem)),
            Ok(Framing::Length(length)) => body.get(..length)?.to_vec(),
            Ok(Framing::Chunks) => match chunks(body)? {
                Ok(body) => body,
                Err(problem) => return Some(Err(problem)),
            },
            Ok(Framing::ToTheEnd) if at_end && bytes.len() < MAX_LENGTH => body.to_vec(),
            Ok(Framing::ToTheEnd) => return None,
        };
        Some(Ok(Self {
            status,
            body: Zeroizing::new(body),
        }))
    }
}

/// How the end of a body is told.
enum Framing {
    Length(usize),
    Chunks,
    ToTheEnd,
}

impl Framing {
    fn of(headers: &[httparse::Header<'_>]) -> Result<Self, &'static str> {
        let mut framing = Self::ToTheEnd;
        for header in headers {
            let value = std::str::from_utf8(header.value).map_err(|_| "a header is no text")?;
            let found = if header.name.eq_ignore_ascii_case("content-length") {
                Self::Length(value.trim().parse().map_err(|_| "no valid length")?)
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                match value.trim().eq_ignore_ascii_case("chunked") {
                    true => Self::Chunks,
                    false => return Err("an encoding that is not known"),
                }
            } else {
                continue;
            };
            match framing {
                Self::ToTheEnd => framing = found,
                Self::Length(_) | Self::Chunks => return Err("two lengths"),
            }
        }
        Ok(framing)
    }
}

fn chunks(mut bytes: &[u8]) -> Option<Result<Vec<u8>, &'static str>> {
    // No longer than what it is made of.
    let mut body = Vec::with_capacity(bytes.len());
    loop {
        let (start, size) = match httparse::parse_chunk_size(bytes) {
            Ok(Status::Complete((start, size))) => (start, usize::try_from(size).ok()?),
            Ok(Status::Partial) => return None,
            Err(_) => return Some(Err("no valid chunk")),
        };
        if size == 0 {
            return Some(Ok(body));
        }
        let end = start.checked_add(size)?;
        body.extend_from_slice(bytes.get(start..end)?);
        bytes = match bytes.get(end..end.checked_add(2)?)? {
            b"\r\n" => bytes.get(end + 2..)?,
            _ => return Some(Err("no valid chunk")),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, at_end: bool) -> Option<Result<(u16, String), &'static str>> {
        let parsed = Response::parse(text.as_bytes(), at_end)?;
        Some(parsed.map(|it| {
            (
                it.status,
                String::from_utf8(it.body.to_vec()).expect("text"),
            )
        }))
    }

    #[test]
    fn bodies_end_where_the_head_says() {
        let ok = |body: &str| Some(Ok((200, body.to_owned())));
        let head = "HTTP/1.1 200 OK\r\nX: y\r\n";
        assert_eq!(
            parse(&format!("{head}Content-Length: 2\r\n\r\nabc"), false),
            ok("ab")
        );
        assert_eq!(
            parse(&format!("{head}Content-Length: 4\r\n\r\nabc"), true),
            None
        );
        assert_eq!(parse(&format!("{head}\r\nabc"), true), ok("abc"));
        assert_eq!(parse(&format!("{head}\r\nabc"), false), None);
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
        let whole = format!("{chunked}2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n");
        assert_eq!(parse(&whole, false), ok("abc"));
        for end in 0..whole.len() - 2 {
            assert_eq!(parse(&whole[..end], false), None, "{end}");
        }
        assert_eq!(
            parse("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false),
            Some(Ok((404, String::new())))
        );
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
            assert!(matches!(parse(bad, false), Some(Err(_))), "{bad}");
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
