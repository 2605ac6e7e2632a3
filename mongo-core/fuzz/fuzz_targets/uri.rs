//! Connection strings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mongo_core::ClientOptions;
use mongo_core_fuzz::timed;

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match ClientOptions::parse(text) {
        Ok(options) => {
            assert!(!options.hosts.is_empty() || options.srv.is_some());
            let _ = options.validate();
        }
        Err(error) => assert!(error.to_string().len() < 4096 + data.len()),
    }
}

fuzz_target!(|data: &[u8]| timed(|| run(data)));
