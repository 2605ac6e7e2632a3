//! A server's part of MONGODB-AWS: what is in its first message, or the whole of its replies. What is
//! signed never has the key in it.
#![no_main]

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf, rawdoc};
use libfuzzer_sys::fuzz_target;
use mongo_core::auth::{
    AuthMechanism, AuthNeed, AuthStep, AwsCredentials, Conversation, Credential, Evidence, Nonce,
};
use mongo_core_fuzz::endpoint::SECRET;
use mongo_core_fuzz::{document, timed};

const NONCE: &str = "fuzzfuzzfuzzfuzzfuzzfuzzfuzzfuzz";

static CREDENTIAL: LazyLock<Arc<Credential>> =
    LazyLock::new(|| Arc::new(Credential::from_mechanism(AuthMechanism::MongoDbAws)));

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn reply(payload: &RawDocument) -> RawDocumentBuf {
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes: payload.as_bytes().to_vec(),
    };
    rawdoc! { "conversationId": 1, "done": false, "payload": payload, "ok": 1 }
}

fn run(data: &[u8], buffer: &mut Vec<u8>) {
    let Some((&choice, elements)) = data.split_first() else {
        return;
    };
    let Some(said) = document(buffer, elements) else {
        return;
    };
    let own = Nonce::from_text(NONCE).expect("printable");
    let begun = Conversation::new(AuthMechanism::MongoDbAws, CREDENTIAL.clone(), own);
    let mut conversation = begun.expect("complete");
    let AuthStep::Send(_) = conversation.begin().expect("a first message") else {
        panic!("no first message");
    };
    let first = match choice & 1 {
        0 => reply(said),
        _ => said.to_owned(),
    };
    match conversation.handle_reply(&first) {
        Ok(AuthStep::Need(AuthNeed::AwsCredentials)) => {}
        Ok(_) => panic!("the server has nothing to believe yet"),
        Err(error) => {
            assert!(error.to_string().len() < 2048, "{error}");
            return;
        }
    }
    let credentials = AwsCredentials::new("AKIDEXAMPLE", SECRET);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let signed = conversation.handle_evidence(Evidence::AwsCredentials { credentials, now });
    if let Ok(AuthStep::Send(command)) = signed {
        let mut sent = command.as_bytes().windows(SECRET.len());
        assert!(!sent.any(|part| part == SECRET.as_bytes()), "the key");
        let _ = conversation.handle_reply(said);
    }
}

fuzz_target!(|data: &[u8]| BUFFER.with_borrow_mut(|buffer| {
    let buffer = RefCell::new(buffer);
    timed(|| run(data, &mut buffer.borrow_mut()));
}));
