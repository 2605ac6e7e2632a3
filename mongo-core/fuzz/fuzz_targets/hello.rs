//! A server's answer to the hello: as a connection's handshake reads it, and as a monitor does.
#![no_main]

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bson::RawDocumentBuf;
use libfuzzer_sys::fuzz_target;
use mongo_core::ServerAddress;
use mongo_core::auth::{Credential, Nonces};
use mongo_core::handshake::{Handshake, HandshakeContext};
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

fn run(data: &[u8], buffer: &mut Vec<u8>) {
    let Some((&choice, elements)) = data.split_first() else {
        return;
    };
    let Some(reply) = document(buffer, elements) else {
        return;
    };
    let setting = &*SETTING;
    let description = ServerDescription::from_hello(setting.server.clone(), reply, setting.now);
    assert!(description.members().count() <= 4000);
    let context = HandshakeContext {
        credential: (choice & 1 == 0).then(|| setting.credential.clone()),
        load_balanced: choice & 2 != 0,
        compressors: vec![Compressor::Zlib],
        ..HandshakeContext::new(setting.metadata.clone(), Nonces::from_random([7; 48]))
    };
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
