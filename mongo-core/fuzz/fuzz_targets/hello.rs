//! A server's answer to the hello: as a connection's handshake reads it, and as a monitor does. By
//! the first byte, the last answer of SCRAM in place of it: none is believed.
#![no_main]

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf, rawdoc};
use libfuzzer_sys::fuzz_target;
use mongo_core::ServerAddress;
use mongo_core::auth::{AuthNeed, Credential, Evidence, KeyDerivation, Nonce, Nonces, ScramKeys};
use mongo_core::handshake::{Handshake, HandshakeContext, Step};
use mongo_core::sdam::ServerDescription;
use mongo_core::uri::Compressor;
use mongo_core_fuzz::{document, timed};

struct Setting {
    credential: Arc<Credential>,
    metadata: Arc<RawDocumentBuf>,
    server: ServerAddress,
    now: Instant,
}

static SETTING: LazyLock<Setting> = LazyLock::new(|| Setting {
    credential: Arc::new(Credential::new("user", "pencil")),
    metadata: Arc::new(bson::rawdoc! { "driver": { "name": "fuzz" } }),
    server: ServerAddress::tcp("db.example", 27017),
    now: Instant::now(),
});

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A hello with an honest challenge.
static CHALLENGE: LazyLock<RawDocumentBuf> = LazyLock::new(|| {
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes: b"r=speculativeSERVER,s=AQIDBAUGBwgJCgsMDQ4PEA==,i=4096".to_vec(),
    };
    rawdoc! {
        "isWritablePrimary": true, "minWireVersion": 0, "maxWireVersion": 25,
        "saslSupportedMechs": ["SCRAM-SHA-256"],
        "speculativeAuthenticate": { "conversationId": 1, "done": false, "payload": payload },
        "ok": 1.0,
    }
});

/// The keys of [`CHALLENGE`], derived once.
static KEYS: LazyLock<ScramKeys> = LazyLock::new(|| challenged().1.run());

/// A handshake that has the challenge, and the keys that it needs.
fn challenged() -> (Handshake, KeyDerivation) {
    let nonce = |text| Nonce::from_text(text).expect("printable");
    let nonces = Nonces::new(nonce("speculative"), nonce("ordinary"));
    let mut context = HandshakeContext::new(SETTING.metadata.clone(), nonces);
    context.credential = Some(SETTING.credential.clone());
    let mut handshake = Handshake::new(context);
    handshake.start().expect("a hello");
    match handshake.handle_reply(&CHALLENGE) {
        Ok(Step::Need(AuthNeed::ScramKeys(derivation))) => (handshake, derivation),
        other => panic!("{other:?}"),
    }
}

fn last_reply(reply: &RawDocument) {
    let keys = KEYS.clone();
    let (mut handshake, _) = challenged();
    handshake
        .handle_evidence(Evidence::ScramKeys(keys))
        .expect("the last message");
    assert!(
        handshake.handle_reply(reply).is_err(),
        "without the password"
    );
}

fn run(data: &[u8], buffer: &mut Vec<u8>) {
    let Some((&choice, elements)) = data.split_first() else {
        return;
    };
    let Some(reply) = document(buffer, elements) else {
        return;
    };
    if choice & 4 != 0 {
        return last_reply(reply);
    }
    let setting = &*SETTING;
    let description = ServerDescription::from_hello(setting.server.clone(), reply, setting.now);
    assert!(description.members().count() <= 4000);
    let nonces = Nonces::from_random([7; 48]);
    let mut context = HandshakeContext::new(setting.metadata.clone(), nonces);
    context.credential = (choice & 1 == 0).then(|| setting.credential.clone());
    context.load_balanced = choice & 2 != 0;
    context.compressors = vec![Compressor::Zlib];
    let mut handshake = Handshake::new(context);
    handshake.start().expect("a hello");
    // The second one is out of order, or an answer in a conversation.
    let _ = handshake.handle_reply(reply);
    let _ = handshake.handle_reply(reply);
}

fuzz_target!(|data: &[u8]| BUFFER.with_borrow_mut(|buffer| {
    let buffer = RefCell::new(buffer);
    timed(|| run(data, &mut buffer.borrow_mut()));
}));
