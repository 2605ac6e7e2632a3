//! Tokens of Azure and Google, from a correct or a hostile endpoint.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mongo_core::error::Wait;
use mongo_core::net::{AzureTokens, GcpTokens};
use mongo_core::{Deadline, ErrorKind};

use crate::endpoint::{Endpoint, Everywhere, answer};
use crate::oidc::{GOOD, factory, server};
use crate::support::{establish, find, texts};

/// Contains characters that a URL has to encode, and a comma.
const RESOURCE: &str = "api://db/a,b c";

#[tokio::test]
async fn tokens_from_azure() {
    let server = server().await;
    let body = format!("{{ \"access_token\": \"{GOOD}\", \"expires_in\": \"3599\", \"x\": [1] }}");
    let endpoint = Endpoint::start(move |_| answer(200, &body)).await;
    let tokens = AzureTokens::new(RESOURCE).with_connector(Arc::new(Everywhere(endpoint.clone())));
    let factory = factory(&server, Arc::new(tokens));
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
    let line = "169.254.169.254:80 GET /metadata/identity/oauth2/token?api-version=2018-02-01\
                &resource=api%3A%2F%2Fdb%2Fa%2Cb%20c&client_id=workload";
    assert_eq!(endpoint.lines(), [line]);
    let head = endpoint.head(0);
    for header in [
        "Host: 169.254.169.254",
        "Metadata: true",
        "Accept: application/json",
    ] {
        assert!(head.contains(&format!("{header}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn tokens_from_google() {
    let server = server().await;
    let endpoint = Endpoint::start(|_| answer(200, &format!("{GOOD}\n"))).await;
    let tokens = GcpTokens::new(RESOURCE).with_connector(Arc::new(Everywhere(endpoint.clone())));
    let factory = factory(&server, Arc::new(tokens));
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
    let line = "metadata:80 GET /computeMetadata/v1/instance/service-accounts/default/identity\
                ?audience=api%3A%2F%2Fdb%2Fa%2Cb%20c";
    assert_eq!(endpoint.lines(), [line]);
    assert!(endpoint.head(0).contains("Metadata-Flavor: Google\r\n"));
}

/// Garbage, refusals and too long responses: the error shows only the status and the reason.
#[tokio::test]
async fn hostile_endpoints_are_refused() {
    let endless = || [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'x'; 1 << 20]].concat();
    let declared =
        || b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nm4rked".to_vec();
    let cases: [(Vec<u8>, &str); 9] = [
        (answer(400, "m4rked"), "169.254.169.254 answered 400 X"),
        (
            answer(200, "{\"access_token\": 7, \"x\": \"m4rked\"}"),
            "has no access token",
        ),
        (answer(200, "m4rked"), "has no access token"),
        (
            answer(203, "{\"access_token\": \"m4rked\"}"),
            "answered 203 X",
        ),
        (answer(200, "{\"access_token\": \"\"}"), "is empty"),
        (b"220 m4rked ESMTP\r\n".to_vec(), "no HTTP answer"),
        (Vec::new(), "cut short"),
        (endless(), "too long"),
        (declared(), "too long, or cut short"),
    ];
    let server = server().await;
    for (given, expected) in cases {
        let endpoint = Endpoint::start(move |_| given.clone()).await;
        let tokens = AzureTokens::new("r").with_connector(Arc::new(Everywhere(endpoint)));
        let factory = factory(&server, Arc::new(tokens));
        let error = establish(&factory).await.expect_err(expected);
        assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
        let texts = texts(&error);
        assert!(texts.contains(expected), "{expected}: {texts}");
        assert!(texts.len() < 4096, "{}", texts.len());
    }
    assert_eq!(server.look(|seen| seen.count("saslStart")), 0);
}

/// The wait is bounded by the general timeout.
#[tokio::test]
async fn a_silent_endpoint_times_out() {
    struct Silent;

    #[async_trait::async_trait]
    impl mongo_core::net::Connector for Silent {
        async fn connect(
            &self,
            _: &mongo_core::ServerAddress,
        ) -> mongo_core::Result<mongo_core::net::Stream> {
            let (ours, theirs) = tokio::io::duplex(64);
            // Accepts connections and never answers.
            tokio::spawn(async move {
                let _theirs = theirs;
                std::future::pending::<()>().await;
            });
            Ok(mongo_core::net::Stream::custom(ours))
        }
    }

    let server = server().await;
    let tokens = AzureTokens::new("r").with_connector(Arc::new(Silent));
    let factory = factory(&server, Arc::new(tokens));
    let begin = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(6000));
    let attempt = tokio::time::timeout(Duration::from_millis(200), factory.establish(deadline));
    assert!(attempt.await.is_err(), "it can be dropped");
    let deadline = Deadline::after(Duration::from_millis(200));
    let error = factory.establish(deadline).await.expect_err("silent");
    let waited = matches!(
        error.kind(),
        ErrorKind::Timeout {
            wait: Wait::Credential,
            ..
        }
    );
    assert!(waited, "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}
