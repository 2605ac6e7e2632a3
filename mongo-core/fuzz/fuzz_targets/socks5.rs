//! A SOCKS5 proxy's answers.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mongo_core::auth::Secret;
use mongo_core::socks5::Negotiation;
use mongo_core_fuzz::timed;

static CREDENTIAL: LazyLock<(String, Secret)> =
    LazyLock::new(|| ("user".to_owned(), Secret::new("pencil")));

fn run(data: &[u8]) {
    let Some((&choice, mut data)) = data.split_first() else {
        return;
    };
    let credential = (choice & 1 == 0).then_some(&*CREDENTIAL);
    let host = match choice & 2 {
        0 => "db.example",
        _ => "::1",
    };
    let mut negotiation = Negotiation::new(host, 27017, credential).expect("short");
    // Method, password, reply, length, address: there is no more to be read.
    for _ in 0..5 {
        assert!(negotiation.output().len() < 64);
        let wanted = negotiation.wanted();
        assert!((1..=Negotiation::MAX_WANTED).contains(&wanted));
        let Some((answer, rest)) = data.split_at_checked(wanted) else {
            return;
        };
        data = rest;
        match negotiation.handle(answer) {
            Ok(false) => {}
            Ok(true) | Err(_) => return,
        }
    }
    panic!("no end");
}

fuzz_target!(|data: &[u8]| timed(|| run(data)));
