//! The JSON of endpoints for credentials: of a container, of AWS's token service, of Azure. No error
//! may show any of it.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mongo_core::net::{AwsCredentialProvider, AwsSources, AzureTokens, OidcCallback, OidcRequest};
use mongo_core_fuzz::endpoint::{Endpoint, SECRET, check, runtime};
use mongo_core_fuzz::timed;
use tokio::runtime::Runtime;

thread_local! {
    static RUNTIME: Runtime = runtime();
}

/// A web identity.
static TOKEN: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("mongo-core-fuzz-{}-token", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, SECRET).expect("a file");
    path
});

fn aws(endpoint: std::sync::Arc<Endpoint>, is_web_identity: bool) -> AwsSources {
    let sources = AwsSources::new().with_connector(endpoint);
    sources.with_variables(move |name| match (name, is_web_identity) {
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", false) => Some("/x".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", true) => Some(TOKEN.display().to_string()),
        ("AWS_ROLE_ARN", true) => Some("role".to_owned()),
        _ => None,
    })
}

fn run(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else {
        return;
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let endpoint = Endpoint::new(&[head.as_bytes(), body].concat(), usize::MAX);
    let outcome = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            match choice {
                0..=127 => aws(endpoint, false).credentials().await.map(drop),
                // Reads a file, which takes longer.
                128..=143 => aws(endpoint, true).credentials().await.map(drop),
                144.. => {
                    let request = OidcRequest::new(None, Duration::from_secs(60));
                    let azure = AzureTokens::new("resource").with_connector(endpoint);
                    azure.token(request).await.map(drop)
                }
            }
        })
    });
    if let Err(error) = outcome {
        check(&error);
        let text = error.to_string();
        let body = String::from_utf8_lossy(body);
        // No text of our own has a brace.
        let is_foreign = body.len() >= 16 && body.contains('{');
        assert!(!is_foreign || !text.contains(&*body), "{text}");
    }
}

fuzz_target!(|data: &[u8]| timed(|| run(data)));
