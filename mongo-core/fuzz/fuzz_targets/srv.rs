//! SRV and TXT records: lines of a port (two bytes) and a target; after a line that begins with `=`,
//! a TXT record's strings.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mongo_core::ClientOptions;
use mongo_core::uri::{SrvRecord, TxtRecord};
use mongo_core_fuzz::timed;

static OPTIONS: LazyLock<[ClientOptions; 2]> = LazyLock::new(|| {
    [
        "mongodb+srv://db.example.com/",
        "mongodb+srv://example.com/?srvMaxHosts=2&tls=true",
    ]
    .map(|uri| ClientOptions::parse(uri).expect("valid"))
});

fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let mut records = Vec::new();
    let mut txt = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        match line {
            [b'=', text @ ..] => txt.push(TxtRecord::new(
                text.chunks(255).map(<[u8]>::to_vec).collect(),
            )),
            [high, low, target @ ..] => records.push(SrvRecord::new(
                String::from_utf8_lossy(target).into_owned(),
                u16::from_be_bytes([*high, *low]),
                Duration::from_secs(60),
            )),
            _ => {}
        }
    }
    let options = OPTIONS[usize::from(choice & 1)].clone();
    let mut number = u64::from(choice);
    let mut random = || {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        number
    };
    if let Ok(options) = options.with_records(&records, &txt, &mut random) {
        assert!((1..=records.len()).contains(&options.hosts.len()));
        for host in &options.hosts {
            let host = host.host().expect("TCP");
            assert!(host.ends_with(".example.com"), "{host}");
        }
    }
}

fuzz_target!(|data: &[u8]| timed(|| run(data)));
