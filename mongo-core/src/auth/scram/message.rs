//! Strict parsing of the server's two messages (RFC 5802), and the escaping of names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::nonce::is_nonce_byte;
use crate::text::printable;

use super::{
    MAX_ITERATIONS, MAX_PAYLOAD_LENGTH, MAX_SALT_LENGTH, MIN_ITERATIONS, Nonce, ScramError,
};

pub(super) const SERVER_FIRST: &str = "server-first-message";
pub(super) const SERVER_FINAL: &str = "server-final-message";

/// The maximum length of the server's error text that is kept, in bytes.
const MAX_ERROR_LENGTH: usize = 256;

/// The content of the server-first-message, within bounds.
pub(super) struct ServerFirst<'a> {
    /// The unchanged message.
    pub(super) text: &'a str,
    /// Both nonces: the client's, followed by the server's.
    pub(super) nonce: &'a str,
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

/// `[m=..,]r=nonce,s=salt,i=count[,extensions]`
pub(super) fn server_first<'a>(
    payload: &'a [u8],
    ours: &Nonce,
) -> Result<ServerFirst<'a>, ScramError> {
    let text = bounded_text(payload, SERVER_FIRST)?;
    if text.starts_with("m=") {
        return Err(ScramError::MandatoryExtension);
    }
    if let Some(error) = text.strip_prefix("e=") {
        return Err(server_error(error));
    }
    let mut parts = text.split(',');
    let nonce = attribute(&mut parts, "r=").ok_or(malformed(SERVER_FIRST, "a nonce (r=)"))?;
    let added = nonce
        .strip_prefix(ours.as_str())
        .filter(|added| !added.is_empty());
    if added.is_none() || !nonce.bytes().all(is_nonce_byte) {
        return Err(ScramError::Nonce);
    }
    let salt = attribute(&mut parts, "s=").ok_or(malformed(SERVER_FIRST, "a salt (s=)"))?;
    let salt = read_salt(salt)?;
    let count =
        attribute(&mut parts, "i=").ok_or(malformed(SERVER_FIRST, "an iteration count (i=)"))?;
    let iterations = read_iterations(count)?;
    extensions(parts, SERVER_FIRST)?;
    Ok(ServerFirst {
        text,
        nonce,
        salt,
        iterations,
    })
}

/// `v=signature[,extensions]`, or `e=error`.
pub(super) fn server_final(payload: &[u8]) -> Result<Vec<u8>, ScramError> {
    let text = bounded_text(payload, SERVER_FINAL)?;
    if let Some(error) = text.strip_prefix("e=") {
        return Err(server_error(error));
    }
    let mut parts = text.split(',');
    let signature = attribute(&mut parts, "v=").ok_or(ScramError::NoSignature)?;
    extensions(parts, SERVER_FINAL)?;
    STANDARD
        .decode(signature)
        .map_err(|_| malformed(SERVER_FINAL, "a signature in base64"))
}

/// RFC 5802's `saslname`: commas and equals signs are escaped.
pub(super) fn escape_name(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

fn bounded_text<'a>(payload: &'a [u8], message: &'static str) -> Result<&'a str, ScramError> {
    match payload.len() {
        0 => Err(ScramError::Empty { message }),
        length if length > MAX_PAYLOAD_LENGTH => Err(ScramError::TooLong { message, length }),
        _ => std::str::from_utf8(payload).map_err(|_| malformed(message, "UTF-8")),
    }
}

const fn malformed(message: &'static str, expected: &'static str) -> ScramError {
    ScramError::Malformed { message, expected }
}

fn attribute<'a>(parts: &mut std::str::Split<'a, char>, name: &str) -> Option<&'a str> {
    parts.next()?.strip_prefix(name)
}

fn read_salt(encoded: &str) -> Result<Vec<u8>, ScramError> {
    let salt = STANDARD
        .decode(encoded)
        .map_err(|_| malformed(SERVER_FIRST, "a salt in base64"))?;
    match salt.len() {
        1..=MAX_SALT_LENGTH => Ok(salt),
        length => Err(ScramError::SaltLength(length)),
    }
}

/// A number without a sign or a leading zero. One that exceeds `u64` is too large in any case.
fn read_iterations(digits: &str) -> Result<u32, ScramError> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit())
        || digits.is_empty()
        || (digits.starts_with('0') && digits.len() > 1)
    {
        return Err(malformed(SERVER_FIRST, "an iteration count in digits"));
    }
    let count = digits.parse::<u64>().unwrap_or(u64::MAX);
    match u32::try_from(count) {
        Ok(count) if count < MIN_ITERATIONS => Err(ScramError::TooFewIterations(count.into())),
        Ok(count) if count <= MAX_ITERATIONS => Ok(count),
        Ok(_) | Err(_) => Err(ScramError::TooManyIterations(count)),
    }
}

/// Ignores optional extensions if they are valid: a letter that RFC 5802 does not define, each at
/// most once, with a value.
fn extensions(parts: std::str::Split<'_, char>, message: &'static str) -> Result<(), ScramError> {
    let wrong = malformed(
        message,
        "nothing but new extensions after the known attributes",
    );
    let mut seen: u64 = 0;
    for part in parts {
        let (name, value) = match part.as_bytes() {
            [name, b'=', value @ ..] => (*name, value),
            _ => return Err(wrong),
        };
        if !name.is_ascii_alphabetic()
            || b"amnrcsipve".contains(&name)
            || value.is_empty()
            || value.contains(&0)
        {
            return Err(wrong);
        }
        let bit = 1 << (name - b'A');
        if seen & bit != 0 {
            return Err(wrong);
        }
        seen |= bit;
    }
    Ok(())
}

/// The server's error text, truncated and without control characters.
fn server_error(text: &str) -> ScramError {
    let text = text.split(',').next().unwrap_or_default();
    ScramError::Server(printable(text, MAX_ERROR_LENGTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Result<(String, Vec<u8>, u32), ScramError> {
        let nonce = Nonce::from_text("abc").expect("a nonce");
        server_first(text.as_bytes(), &nonce)
            .map(|read| (read.nonce.to_owned(), read.salt, read.iterations))
    }

    #[test]
    fn a_server_first_message_is_read() {
        let read = first("r=abcX%y,s=AQI=,i=4096").expect("valid");
        assert_eq!(read, ("abcX%y".to_owned(), vec![1, 2], 4096));
        assert_eq!(
            first("r=abcX,s=AQI=,i=2000000").expect("valid").2,
            2_000_000
        );
        assert!(first("r=abcX,s=AQI=,i=4096,x=new,Z=a=b").is_ok());
    }

    #[test]
    fn a_nonce_must_extend_that_of_the_client() {
        for bad in ["r=abc", "r=ab", "r=", "r=xyzabc", "r=abcd e", "r=abc\u{e4}"] {
            let text = format!("{bad},s=AQI=,i=4096");
            assert_eq!(first(&text), Err(ScramError::Nonce), "{text}");
        }
    }

    #[test]
    fn the_iteration_count_is_bounded() {
        let count = |digits: &str| first(&format!("r=abcX,s=AQI=,i={digits}")).map(|read| read.2);
        assert_eq!(count("1"), Err(ScramError::TooFewIterations(1)));
        assert_eq!(count("0"), Err(ScramError::TooFewIterations(0)));
        assert_eq!(count("4095"), Err(ScramError::TooFewIterations(4095)));
        for many in [2_000_001, 4_294_967_295, 4_294_967_296, u64::MAX] {
            let error = ScramError::TooManyIterations(many);
            assert_eq!(count(&many.to_string()), Err(error));
        }
        let error = ScramError::TooManyIterations(u64::MAX);
        assert_eq!(count("99999999999999999999999999"), Err(error));
        for bad in [
            "", "+4096", "-1", "04096", "4096 ", "0x1000", "4e3", "4096.0",
        ] {
            let error = malformed(SERVER_FIRST, "an iteration count in digits");
            assert_eq!(count(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn the_length_of_the_salt_is_bounded() {
        let salted = |bytes: usize| {
            let salt = STANDARD.encode(vec![7; bytes]);
            first(&format!("r=abcX,s={salt},i=4096")).map(|read| read.1.len())
        };
        assert_eq!(salted(0), Err(ScramError::SaltLength(0)));
        assert_eq!(salted(256), Ok(256));
        assert_eq!(salted(257), Err(ScramError::SaltLength(257)));
        let huge = ScramError::TooLong {
            message: SERVER_FIRST,
            length: 13_352,
        };
        assert_eq!(salted(10_000), Err(huge));
        for bad in ["AQI", "AQJ=", "A", "****", "AQI= "] {
            let error = malformed(SERVER_FIRST, "a salt in base64");
            assert_eq!(first(&format!("r=abcX,s={bad},i=4096")), Err(error));
        }
    }

    #[test]
    fn attributes_out_of_order_repeated_or_unknown_are_refused() {
        for bad in [
            "s=AQI=,r=abcX,i=4096",
            "r=abcX,i=4096,s=AQI=",
            "r=abcX,r=abcX,s=AQI=,i=4096",
            "r=abcX,s=AQI=,s=AQI=,i=4096",
            "r=abcX,s=AQI=",
            "r=abcX",
            "r=abcX,s=AQI=,i=4096,",
            "r=abcX,s=AQI=,i=4096,x=",
            "r=abcX,s=AQI=,i=4096,x=1,x=2",
            "r=abcX,s=AQI=,i=4096,i=5000",
            "r=abcX,s=AQI=,i=4096,m=1",
            "r=abcX,s=AQI=,i=4096,1=1",
            "r=abcX,x=1,s=AQI=,i=4096",
            "v=AQI=",
            "nonsense",
        ] {
            let refused = matches!(first(bad), Err(ScramError::Malformed { .. }));
            assert!(refused, "{bad}: {:?}", first(bad));
        }
        let demanded = first("m=1,r=abcX,s=AQI=,i=4096");
        assert_eq!(demanded, Err(ScramError::MandatoryExtension));
        let empty = ScramError::Empty {
            message: SERVER_FIRST,
        };
        assert_eq!(first(""), Err(empty));
        let nonce = Nonce::from_text("abc").expect("a nonce");
        let binary = server_first(b"r=abc\xff,s=AQI=,i=4096", &nonce).map(|_| ());
        assert_eq!(binary, Err(malformed(SERVER_FIRST, "UTF-8")));
    }

    #[test]
    fn a_server_final_message_is_read() {
        assert_eq!(server_final(b"v=AQI="), Ok(vec![1, 2]));
        assert_eq!(server_final(b"v=AQI=,x=1"), Ok(vec![1, 2]));
        assert_eq!(server_final(b"x=1,v=AQI="), Err(ScramError::NoSignature));
        assert_eq!(server_final(b"ok"), Err(ScramError::NoSignature));
        assert!(matches!(server_final(b""), Err(ScramError::Empty { .. })));
        assert!(matches!(
            server_final(b"v=?"),
            Err(ScramError::Malformed { .. })
        ));
        let error = ScramError::Server("invalid-proof".to_owned());
        assert_eq!(server_final(b"e=invalid-proof,x=1"), Err(error));
        let long = format!("e=\n{}", "\u{e4}".repeat(1000));
        match server_final(long.as_bytes()) {
            Err(ScramError::Server(text)) => assert!(text.len() <= MAX_ERROR_LENGTH, "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape_name("a=b,c=3D"), "a=3Db=2Cc=3D3D");
        assert_eq!(escape_name("\u{2168}"), "\u{2168}");
    }
}
