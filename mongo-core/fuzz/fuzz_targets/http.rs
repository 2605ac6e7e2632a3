//! The HTTP answer of an endpoint for credentials. After what the fuzzer says comes a body with a
//! secret, which no error may show.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mongo_core::net::{AwsCredentialProvider, AwsSources};
use mongo_core_fuzz::endpoint::{Endpoint, SECRET, check, runtime};
use mongo_core_fuzz::timed;
use tokio::runtime::Runtime;

thread_local! {
    static RUNTIME: Runtime = runtime();
}

fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let body = format!(
        "\r\n\r\n{{\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"{SECRET}\",\"Token\":\"{SECRET}\"}}"
    );
    let answer = [data, body.as_bytes()].concat();
    let endpoint = Endpoint::new(&answer, usize::from(choice) + 1);
    let sources = AwsSources::new()
        .with_variables(|name| {
            let is_set = name == "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
            is_set.then(|| SECRET.to_owned())
        })
        .with_connector(endpoint);
    match RUNTIME.with(|runtime| runtime.block_on(sources.credentials())) {
        Ok(credentials) => assert!(!credentials.access_key_id.is_empty()),
        Err(error) => check(&error),
    }
}

fuzz_target!(|data: &[u8]| timed(|| run(data)));
