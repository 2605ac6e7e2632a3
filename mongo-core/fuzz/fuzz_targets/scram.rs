//! A server's part of SCRAM: its first and its last message, with 0xFF between them, in the
//! mechanism that the first byte says. Nobody without the password can be believed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mongo_core::auth::scram::ClientFirst;
use mongo_core::auth::{Nonce, ScramKeys, ScramMechanism};
use mongo_core_fuzz::timed;

const NONCE: &str = "fuzzfuzzfuzzfuzzfuzzfuzz";
const USER: &str = "user";
const PASSWORD: &str = "pencil";

/// Hashed once: a hash takes as long as a thousand inputs.
static KEYS: LazyLock<[ScramKeys; 2]> = LazyLock::new(|| {
    [ScramMechanism::Sha1, ScramMechanism::Sha256].map(|mechanism| {
        let challenge = format!("r={NONCE}server,s=AQIDBAUGBwgJCgsMDQ4PEA==,i=4096");
        let first = ClientFirst::new(mechanism, USER, nonce());
        let (_, derivation) = first
            .server_first(challenge.as_bytes(), USER, PASSWORD)
            .expect("a decent server");
        derivation.run()
    })
});

fn nonce() -> Nonce {
    Nonce::from_text(NONCE).expect("printable")
}

fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let end = data.iter().position(|byte| *byte == 0xFF);
    let (first, last) = data.split_at(end.unwrap_or(data.len()));
    let keys = &KEYS[usize::from(choice & 1)];
    let own = ClientFirst::new(keys.mechanism(), USER, nonce());
    let Ok((challenge, derivation)) = own.server_first(first, USER, PASSWORD) else {
        return;
    };
    assert!((4096..=2_000_000).contains(&derivation.iterations()));
    let (answer, expected) = challenge.answer(keys).expect("its own keys");
    // The answer repeats the server's nonce, which may have any text.
    let is_said = first
        .windows(PASSWORD.len())
        .any(|text| text == PASSWORD.as_bytes());
    assert!(is_said || !answer.contains(PASSWORD));
    let believed = expected.server_final(last.get(1..).unwrap_or_default());
    assert!(believed.is_err(), "without the password");
}

fuzz_target!(|data: &[u8]| timed(|| run(data)));
