//! When a single client obtains its credential, and its checks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::error::{ErrorKind, Wait};
use mongo_core::event::{CommandEvent, EventHandlers};
use mongo_core::net::{CredentialProvider, SingleClient};
use mongo_core::{Error, Result};
use mongo_testkit::{Deployment, SimNetwork, User};
use tokio::time::{Instant, sleep};

use super::{accepted, hellos, over, ping};
use crate::support::secondary;

/// Supplies the current credential, fails, or never returns.
struct Vault {
    state: Mutex<State>,
    asked: AtomicUsize,
}

#[derive(Clone)]
enum State {
    Gives(&'static str, &'static str),
    Fails,
    Hangs,
}

impl Vault {
    fn new(state: State) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            asked: AtomicUsize::new(0),
        })
    }

    fn becomes(&self, state: State) {
        *self.state.lock().expect("no panic") = state;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Vault {
    async fn credential(&self) -> Result<Arc<Credential>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let state = self.state.lock().expect("no panic").clone();
        match state {
            State::Gives(user, password) => {
                let credential = Credential::new(user, password).with_source("admin");
                Ok(Arc::new(credential))
            }
            State::Fails => Err(Error::credential("the vault is sealed")),
            State::Hangs => std::future::pending().await,
        }
    }
}

async fn two_users(network: &SimNetwork) -> Deployment {
    let set = Deployment::replica_set("rs")
        .members(3)
        .user(User::new("one", "first"))
        .user(User::new("two", "second"))
        .network(network);
    set.start().await
}

fn client(uri: &str, network: &SimNetwork, vault: &Arc<Vault>) -> SingleClient {
    let builder = over(uri, network).credential_provider(vault.clone());
    builder.build_client().expect("a client")
}

#[tokio::test(start_paused = true)]
async fn a_provider_failure_fails_the_command_and_leaves_the_server_known() {
    let network = SimNetwork::new(31);
    let set = two_users(&network).await;
    let vault = Vault::new(State::Fails);
    let mut client = client(&set.uri(), &network, &vault);
    for _ in 0..3 {
        let begun = Instant::now();
        let error = ping(&mut client).await.expect_err("sealed");
        assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
        assert!(error.to_string().contains("the vault is sealed"), "{error}");
        assert_eq!(
            error.server().map(ToString::to_string),
            Some(set.address(0))
        );
        assert!(begun.elapsed() < Duration::from_millis(100));
        let primary = client.description().primary().expect("still known");
        assert_eq!(primary.address.to_string(), set.address(0));
    }
    // The connection of the scan is used once there is a credential.
    vault.becomes(State::Gives("one", "first"));
    ping(&mut client).await.expect("authenticated");
    assert_eq!(accepted(&set), [1, 1, 1]);
    assert_eq!([0, 1, 2].map(|member| hellos(&set, member)), [2, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_hung_provider_times_out_and_leaves_the_server_known() {
    let network = SimNetwork::new(32);
    let set = two_users(&network).await;
    let vault = Vault::new(State::Hangs);
    for (option, bound) in [("connectTimeoutMS=300", 300), ("timeoutMS=200", 200)] {
        let uri = format!("{}&{option}", set.uri());
        let mut client = client(&uri, &network, &vault);
        let begun = Instant::now();
        let error = ping(&mut client).await.expect_err("no answer");
        let waited = matches!(
            error.kind(),
            ErrorKind::Timeout {
                wait: Wait::Credential,
                ..
            }
        );
        assert!(waited, "{error}");
        let took = begun.elapsed().as_millis();
        assert!((bound..bound + 20).contains(&took), "{took}");
        assert!(client.description().primary().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_obtained_at_its_first_use() {
    let network = SimNetwork::new(33);
    let set = two_users(&network).await;
    let vault = Vault::new(State::Gives("one", "first"));
    let mut client = client(&set.uri(), &network, &vault);
    ping(&mut client).await.expect("authenticated");
    assert_eq!(vault.asked(), 1, "the other servers were only checked");
    // The secondaries were connected an hour ago; now there is another credential.
    sleep(Duration::from_secs(59)).await;
    vault.becomes(State::Gives("two", "second"));
    let read = doc! { "count": "c", "$readPreference": { "mode": "secondary" } };
    let answered = client.run_command_on(&secondary(), "db", &read).await;
    answered.expect("the new one is good");
    assert_eq!(vault.asked(), 2);
    let users = (1..3).flat_map(|member| {
        set.server(member).look(|seen| {
            let all = seen.connections.values();
            all.filter_map(|own| own.user.clone()).collect::<Vec<_>>()
        })
    });
    assert_eq!(users.collect::<Vec<_>>(), ["admin.two"]);
    assert_eq!(accepted(&set), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_topology_never_obtains_a_credential() {
    let network = SimNetwork::new(34);
    let set = two_users(&network).await;
    let vault = Vault::new(State::Fails);
    let builder = over(&set.uri(), &network).credential_provider(vault.clone());
    let mut topology = builder.build().expect("a topology");
    topology.select(&secondary()).await.expect("a server");
    assert_eq!(vault.asked(), 0);
}

/// This covers the hellos of a scan, on new and on authenticated connections, and pings.
#[tokio::test(start_paused = true)]
async fn checks_publish_no_command_events() {
    let network = SimNetwork::new(35);
    let set = two_users(&network).await;
    let names = Arc::new(Mutex::new(Vec::new()));
    let kept = names.clone();
    let events = EventHandlers::new().on_command(move |event| {
        if let CommandEvent::Started(event) = event {
            kept.lock()
                .expect("no panic")
                .push(event.command_name.to_string());
        }
    });
    let vault = Vault::new(State::Gives("one", "first"));
    let mut client = over(&set.uri(), &network)
        .credential_provider(vault)
        .event_handlers(events)
        .build_client()
        .expect("a client");
    let count = doc! { "count": "c" };
    for _ in 0..3 {
        for idle in [61, 6] {
            sleep(Duration::from_secs(idle)).await;
            client.run_command("db", &count).await.expect("counted");
        }
    }
    assert_eq!(*names.lock().expect("no panic"), ["count"; 6]);
    assert!(hellos(&set, 0) > 3);
    assert_eq!(set.server(0).look(|seen| seen.count("ping")), 3);
}
