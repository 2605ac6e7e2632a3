//! Any input is parsed or refused quickly and without a panic.

use std::time::Instant;

use super::*;

const SEEDS: [&str; 8] = [
    "mongodb://u:p@a:1,[::1]:2,%2Ftmp%2Fx.sock/db?w=1&journal=true&wTimeoutMS=5",
    "mongodb+srv://u@c.example.com/?srvMaxHosts=2&srvServiceName=x&tls=false",
    "mongodb://h/?readPreference=nearest&readPreferenceTags=dc:ny,r:1&maxStalenessSeconds=120",
    "mongodb://h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:gcp,TOKEN_RESOURCE:a",
    "mongodb://u%40d@h/?authMechanism=GSSAPI&gssapiServiceName=x&authSource=$external",
    "mongodb://h/?compressors=zlib,zstd&zlibCompressionLevel=9&timeoutMS=0&appname=%C3%BC",
    "mongodb://h/?proxyHost=p&proxyPort=9&proxyUsername=u&proxyPassword=q&ssl=true&tls=true",
    "mongodb://b\u{fc}cher,h:27018/d%20b?tlsCAFile=ca.pem&loadBalanced=false&wtimeout=1",
];

/// A small pseudo-random number generator, so that the tests are the same in every run.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }
}

/// Mutates one to eight places: replaces, inserts, removes or duplicates.
fn mutated(random: &mut XorShift) -> String {
    const PIECES: [&str; 16] = [
        "%",
        "@",
        ":",
        "/",
        "?",
        "&",
        "=",
        ",",
        "[",
        "]",
        "%2F",
        "%ff",
        "\0",
        "\u{1F98A}",
        "-9",
        "9999999999",
    ];
    let mut text: Vec<char> = SEEDS[random.below(SEEDS.len())].chars().collect();
    for _ in 0..=random.below(8) {
        let at = random.below(text.len().max(1)).min(text.len());
        let piece = PIECES[random.below(PIECES.len())].chars();
        match random.below(4) {
            0 => drop(text.splice(at..text.len().min(at + 1), piece)),
            1 => drop(text.splice(at..at, piece)),
            2 => drop(text.drain(at..text.len().min(at + 3))),
            _ => {
                let tail = text[at..].to_vec();
                text.extend(tail);
            }
        }
    }
    text.into_iter().collect()
}

#[test]
fn mutated_strings_never_panic() {
    let mut random = XorShift(0x9E37_79B9_7F4A_7C15);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let uri = mutated(&mut random);
        match ClientOptions::parse(&uri) {
            Ok(options) => {
                taken += 1;
                // Accepted options satisfy the rules, and can be formatted.
                match options.validate() {
                    Ok(()) | Err(UriError::Credential(CredentialError::PasswordMissing(_))) => {}
                    Err(error) => panic!("{uri}: {error}"),
                }
                assert!(!format!("{options:?} {:?}", options.warnings()).is_empty());
            }
            Err(error) => {
                refused += 1;
                assert!(!format!("{error} {error:?}").is_empty());
            }
        }
    }
    // Both outcomes occur.
    assert!(
        taken > 1000 && refused > 1000,
        "{taken} taken, {refused} refused"
    );
}

#[test]
fn a_string_over_the_bound_is_refused() {
    let at_bound = format!("mongodb://{}", "h".repeat(MAX_LENGTH - 10));
    assert_eq!(parse(&at_bound).hosts.len(), 1);
    let over = format!("mongodb://{}", "h".repeat(1024 * 1024));
    let expected = UriError::TooLong {
        length: 1024 * 1024 + 10,
        max: MAX_LENGTH,
    };
    assert_eq!(refused(&over), expected);
}

#[test]
fn the_longest_strings_take_linear_time() {
    let long = |head: &str, piece: &str| {
        let room = MAX_LENGTH - head.len();
        format!("{head}{}", piece.repeat(room / piece.len()))
    };
    let strings = [
        long("mongodb://", ","),
        long("mongodb://", "h,"),
        long("mongodb://", ":"),
        long("mongodb://", "@"),
        long("mongodb://", "%"),
        long("mongodb://", "%41"),
        long("mongodb://", "["),
        long("mongodb://h/", "%"),
        long("mongodb://h/?", "&"),
        long("mongodb://h/?a=1", "&a=1"),
        long("mongodb://h/?wtimeout=1", "&wtimeout=1"),
        long("mongodb://h/?w=1", "&w=1"),
        long("mongodb://h/?compressors=", "zlib,"),
        long(
            "mongodb://h/?readPreference=nearest",
            "&readPreferenceTags=a:b",
        ),
        long("mongodb://h/?authMechanismProperties=", "A:b,"),
    ];
    let begin = Instant::now();
    for string in &strings {
        drop(ClientOptions::parse(string));
    }
    // A few milliseconds each; quadratic time would be minutes.
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}
