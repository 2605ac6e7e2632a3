//! Replies changed at random, from a fixed seed: none of them causes a panic.

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use std::sync::Arc;

use crate::auth::{AuthNeed, Credential, Evidence, KeyDerivation};

use super::scripted::{binary, context};
use super::{Handshake, HandshakeContext, Step};

/// The xorshift generator: the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Changes, removes or repeats a few bytes.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b',', b'=', 0x05];
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self
                .below(bytes.len().max(1))
                .min(bytes.len().saturating_sub(1));
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] = ODD[self.below(ODD.len())],
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 if !bytes.is_empty() => {
                    bytes.remove(at);
                }
                3 => bytes.insert(at, ODD[self.below(ODD.len())]),
                _ => {
                    let end = (at + self.below(16)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }

    /// The same with the document's length corrected, so that more of it is read.
    fn mutate_document(&mut self, document: &RawDocument) -> Vec<u8> {
        let mut bytes = self.mutate(document.as_bytes());
        if let (length, Some(head)) = (bytes.len() as i32, bytes.first_chunk_mut::<4>()) {
            *head = length.to_le_bytes();
        }
        if let Some(last) = bytes.last_mut() {
            *last = 0;
        }
        bytes
    }
}

fn hello(payload: &str) -> RawDocumentBuf {
    rawdoc! {
        "topologyVersion": { "processId": bson::oid::ObjectId::from_bytes([1; 12]), "counter": 6_i64 },
        "setName": "rs0", "isWritablePrimary": true, "maxBsonObjectSize": 16_777_216,
        "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
        "compression": ["zlib"], "minWireVersion": 0, "maxWireVersion": 25,
        "saslSupportedMechs": ["SCRAM-SHA-1", "SCRAM-SHA-256"],
        "speculativeAuthenticate": {
            "conversationId": 1, "done": false, "payload": binary(payload),
        },
        "code": 18, "errmsg": "text", "errorLabels": ["a"], "ok": 1.0,
    }
}

const CHALLENGE: &str = "r=speculative%SERVER,s=AQIDBA==,i=4096";

fn begun() -> Handshake {
    let mut handshake = Handshake::new(HandshakeContext {
        credential: Some(Arc::new(Credential::new("user", "pencil"))),
        ..context()
    });
    handshake.start().expect("begun");
    handshake
}

fn give(handshake: &mut Handshake, bytes: &[u8]) -> Option<Step> {
    handshake
        .handle_reply(RawDocument::from_bytes(bytes).ok()?)
        .ok()
}

#[test]
fn no_hello_reply_makes_it_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut refused, mut derivations) = (0, 0);
    let reply = hello(CHALLENGE);
    for _ in 0..20_000 {
        let bytes = random.mutate_document(&reply);
        match give(&mut begun(), &bytes) {
            Some(Step::Need(AuthNeed::ScramKeys(derivation))) => {
                derivations += 1;
                assert!((4096..=2_000_000).contains(&derivation.iterations()));
            }
            Some(Step::Need(other)) => panic!("{other:?}"),
            Some(Step::Send(_) | Step::Done(_)) => {}
            None => refused += 1,
        }
    }
    // The changes are neither too small to have an effect nor so great that nothing is read.
    assert!(
        refused > 1000 && derivations > 1000,
        "{refused} {derivations}"
    );
}

#[test]
fn no_challenge_makes_it_panic_or_pass_its_bounds() {
    let mut random = Random(0xd1b5_4a32_d192_ed03);
    for _ in 0..20_000 {
        let bytes = random.mutate(CHALLENGE.as_bytes());
        let reply = hello(&String::from_utf8_lossy(&bytes));
        if let Some(Step::Need(AuthNeed::ScramKeys(derivation))) =
            give(&mut begun(), reply.as_bytes())
        {
            assert!((4096..=2_000_000).contains(&derivation.iterations()));
        }
    }
}

#[test]
fn no_final_reply_makes_it_panic_or_passes_without_the_signature() {
    let challenged = |handshake: &mut Handshake| -> KeyDerivation {
        match handshake.handle_reply(&hello(CHALLENGE)) {
            Ok(Step::Need(AuthNeed::ScramKeys(derivation))) => derivation,
            other => panic!("{other:?}"),
        }
    };
    let keys = challenged(&mut begun()).run();
    let wrong = format!("v={}", "A".repeat(43) + "=");
    let reply = rawdoc! {
        "conversationId": 1, "done": true, "payload": binary(&wrong), "ok": 1.0
    };
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..5_000 {
        let mut handshake = begun();
        challenged(&mut handshake);
        handshake
            .handle_evidence(Evidence::ScramKeys(keys.clone()))
            .expect("the final message");
        let bytes = random.mutate_document(&reply);
        assert!(give(&mut handshake, &bytes).is_none());
    }
}
