//! Credentials from a provider: asked for each connection, so that a secret may change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::error::Wait;
use mongo_core::net::CredentialProvider;
use mongo_core::pools::ConnectionFactory;
use mongo_core::{Deadline, Error, ErrorKind, Result};
use mongo_testkit::{ScriptedServer, User};

use crate::support::{MARK, establish, find, names_on, options, texts};

/// Gives whatever it was told last.
struct Told {
    credential: Mutex<Credential>,
    asked: AtomicUsize,
}

impl Told {
    fn new(credential: Credential) -> Arc<Self> {
        Arc::new(Self {
            credential: Mutex::new(credential),
            asked: AtomicUsize::new(0),
        })
    }

    fn tell(&self, credential: Credential) {
        *self.credential.lock().expect("not poisoned") = credential;
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Told {
    async fn credential(&self) -> Result<Arc<Credential>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let credential = self.credential.lock().expect("not poisoned").clone();
        match credential.username() {
            Some(_) => Ok(Arc::new(credential)),
            None => Err(Error::credential("the vault is sealed")),
        }
    }
}

fn factory(server: &ScriptedServer, provider: Arc<dyn CredentialProvider>) -> ConnectionFactory {
    let builder = ConnectionFactory::builder(options(server, ""));
    let built = builder.credential_provider(provider).build();
    built.expect("a factory")
}

#[tokio::test]
async fn a_rotated_secret_is_used_from_the_next_connection_on() {
    let (old, new) = (format!("{MARK}-1"), format!("{MARK}-2"));
    let server = ScriptedServer::builder()
        .user(User::new("app", &old))
        .user(User::new("other", &new))
        .start()
        .await;
    let provider = Told::new(Credential::new("app", &*old));
    let factory = factory(&server, provider.clone());
    let mut first = establish(&factory).await.expect("a connection");
    assert_eq!(first.user(), Some("app"));
    provider.tell(Credential::new("other", &*new));
    let mut second = establish(&factory).await.expect("a connection");
    assert_eq!(second.user(), Some("other"));
    // The one that was open stays what it is.
    for connection in [&mut first, &mut second] {
        find(connection).await.expect("authenticated");
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 2);
    provider.tell(Credential::new("other", &*old));
    let error = establish(&factory).await.expect_err("an old password");
    assert!(error.is_authentication(), "{error}");
    assert_eq!(error.user(), Some("other"));
    texts(&error);
}

#[tokio::test]
async fn what_it_gives_is_checked_before_it_is_used() {
    let server = ScriptedServer::builder()
        .plain_user("app", MARK)
        .start()
        .await;
    let plain = Credential::new("app", MARK).with_mechanism(AuthMechanism::Plain);
    let provider = Told::new(plain);
    let factory = factory(&server, provider.clone());
    let error = establish(&factory).await.expect_err("no TLS");
    assert!(texts(&error).contains("allow_plain_without_tls"), "{error}");
    provider.tell(Credential::default().with_username("app"));
    let error = establish(&factory).await.expect_err("no password");
    assert!(error.is_authentication(), "{error}");
    assert_eq!(error.user(), Some("app"));
    assert_eq!(names_on(&server, 1), [""; 0]);
    assert_eq!(names_on(&server, 2), [""; 0]);
}

#[tokio::test]
async fn its_failure_is_told_as_its_own() {
    let server = ScriptedServer::start().await;
    let factory = factory(&server, Told::new(Credential::default()));
    let error = establish(&factory).await.expect_err("sealed");
    assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
    assert!(texts(&error).contains("the vault is sealed"), "{error}");
    assert!(error.server().is_some());
}

struct Silent;

#[async_trait::async_trait]
impl CredentialProvider for Silent {
    async fn credential(&self) -> Result<Arc<Credential>> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn it_is_waited_for_until_the_deadline() {
    let server = ScriptedServer::start().await;
    let factory = factory(&server, Arc::new(Silent));
    let deadline = Deadline::after(Duration::from_millis(20));
    let error = factory.establish(deadline).await.expect_err("silent");
    let waited = matches!(
        error.kind(),
        ErrorKind::Timeout {
            wait: Wait::Credential,
            ..
        }
    );
    assert!(waited, "{error}");
}

#[tokio::test]
async fn two_sources_are_one_too_many() {
    let server = ScriptedServer::start().await;
    let mut options = options(&server, "");
    options.credential = Some(Credential::new("app", MARK));
    let provider = Told::new(Credential::new("app", MARK));
    let builder = ConnectionFactory::builder(options).credential_provider(provider);
    let error = builder.build().map(drop).expect_err("two");
    assert!(
        matches!(error.kind(), ErrorKind::Configuration(_)),
        "{error}"
    );
    texts(&error);
}
