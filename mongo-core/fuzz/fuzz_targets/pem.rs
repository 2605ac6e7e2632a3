//! PEM files: of authorities, or with a certificate and a key. Read as in life, from a file.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mongo_core::net::Tls;
use mongo_core::uri::TlsOptions;
use mongo_core_fuzz::timed;

const AUTHORITY: &[u8] = include_bytes!("../seeds/pem/authority");

struct Files {
    authority: PathBuf,
    input: PathBuf,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let directory = std::env::temp_dir();
    let name = |what| directory.join(format!("mongo-core-fuzz-{}-{what}", std::process::id()));
    let files = Files {
        authority: name("authority"),
        input: name("input"),
    };
    std::fs::write(&files.authority, &AUTHORITY[1..]).expect("a file");
    files
});

fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let files = &*FILES;
    std::fs::write(&files.input, data).expect("a file");
    let mut options = TlsOptions::default();
    if choice & 1 == 0 {
        options.ca_file = Some(files.input.clone());
    } else {
        options.ca_file = Some(files.authority.clone());
        options.certificate_key_file = Some(files.input.clone());
    }
    let _ = Tls::from_options(&options);
}

fuzz_target!(|data: &[u8]| timed(|| run(data)));
