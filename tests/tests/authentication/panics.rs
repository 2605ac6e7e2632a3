//! Credential callbacks that panic: the connection fails, and the next one succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mongo_core::auth::{AuthMechanism, AwsCredentials, Credential};
use mongo_core::net::{AccessToken, AwsCredentialProvider, OidcCallback, OidcRequest};
use mongo_core::pools::{ConnectionFactory, ConnectionFactoryBuilder};
use mongo_core::{ErrorKind, Result};
use mongo_testkit::ScriptedServer;

use crate::support::{establish, find, options};

/// Panics at its first call.
#[derive(Default)]
struct Fuse(AtomicUsize);

impl Fuse {
    fn burn(&self) {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            panic!("on purpose");
        }
    }
}

/// Checks that the first attempt fails by a panic of a callback, and that the second one succeeds.
async fn fails_once(builder: ConnectionFactoryBuilder, callback: &str) {
    let factory = builder.build().expect("a factory");
    let error = establish(&factory).await.expect_err("a panic");
    assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
    let wanted = format!("the application's {callback} panicked: on purpose");
    assert!(error.to_string().contains(&wanted), "{error}");
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
}

struct Tokens(Fuse);

#[async_trait::async_trait]
impl OidcCallback for Tokens {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        self.0.burn();
        Ok(AccessToken::new("good"))
    }
}

#[tokio::test]
async fn an_oidc_callback_that_panics_fails_its_connection() {
    let server = ScriptedServer::builder().access_tokens(&["good"]);
    let server = server.start().await;
    let mut options = options(&server, "");
    options.credential = Some(Credential::from_mechanism(AuthMechanism::MongoDbOidc));
    options.allow_plain_without_tls = true;
    let builder = ConnectionFactory::builder(options);
    let builder = builder.oidc_callback(Arc::new(Tokens(Fuse::default())));
    fails_once(builder, "OIDC callback").await;
}

/// Also panics in its `failed` method.
struct Keys(Fuse);

#[async_trait::async_trait]
impl AwsCredentialProvider for Keys {
    async fn credentials(&self) -> Result<AwsCredentials> {
        self.0.burn();
        Ok(AwsCredentials::new("AKIDEXAMPLE", "secret"))
    }

    fn failed(&self) {
        panic!("on purpose");
    }
}

#[tokio::test]
async fn an_aws_credential_provider_that_panics_fails_its_connection() {
    let server = ScriptedServer::builder().aws_key("AKIDEXAMPLE", "secret", None);
    let server = server.start().await;
    let builder = ConnectionFactory::builder(options(&server, "authMechanism=MONGODB-AWS"));
    let builder = builder.aws_credential_provider(Arc::new(Keys(Fuse::default())));
    fails_once(builder, "provider of AWS credentials").await;
}
