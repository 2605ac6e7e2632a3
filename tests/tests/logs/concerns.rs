//! Warnings of options of the connection string that reach no command.

use std::time::Duration;

use mongo_core::ClientOptions;
use mongo_core::bson::doc;
use mongo_core::operation::OperationKind;
use mongo_core::pools::{Backend, Pools};
use mongo_testkit::{Deployment, SimNetwork};
use tokio::time::sleep;
use tracing::subscriber;

use crate::Capture;
use crate::support::OverSim;

/// The warnings so far.
fn warnings(capture: &Capture) -> Vec<String> {
    let lines = capture.of("mongo_core::operation");
    lines.iter().map(|line| line.message().to_owned()).collect()
}

async fn pools<B: Backend<Config: Default>>(options: &str) -> (Deployment, Pools<B>) {
    let network = SimNetwork::new(5);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let set = set.start().await;
    let uri = format!("{}&{options}", set.uri());
    let options = ClientOptions::parse(&uri).expect("a connection string");
    let builder = Pools::builder(options).connector(std::sync::Arc::new(OverSim(network)));
    (set, builder.build().expect("pools"))
}

async fn a_write_without_a_kind_is_warned_of_once<B: Backend<Config: Default>>() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let (_set, pools) = pools::<B>("w=majority&readPreference=nearest").await;
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = || pools.command("db", &insert);
    let ping = pools.command("db", &doc! { "ping": 1 });
    ping.await.map(drop).expect("a reply");
    write()
        .kind(OperationKind::Write)
        .await
        .map(drop)
        .expect("a reply");
    assert_eq!(warnings(&capture), [""; 0]);
    for _ in 0..2 {
        write().await.map(drop).expect("a reply");
        let warnings = warnings(&capture);
        assert!(
            warnings.len() == 1 && warnings[0].contains("`insert`"),
            "{warnings:?}"
        );
        assert!(warnings[0].contains("wTimeoutMS"), "{warnings:?}");
    }
    pools.close().await;
}

async fn raw_commands_alone_are_warned_of_once<B: Backend<Config: Default>>() {
    for (options, takes_them, expected) in [
        ("w=majority&readConcernLevel=majority", false, 1),
        ("w=majority&readConcernLevel=majority", true, 0),
        ("appName=app", false, 0),
    ] {
        let capture = Capture::default();
        let _guard = subscriber::set_default(capture.clone());
        let (_set, pools) = pools::<B>(options).await;
        if takes_them {
            assert!(!pools.write_concern().is_default());
        }
        let mut connection = pools.get().await.expect("a connection");
        let ping = connection.run_command("db", &doc! { "ping": 1 }).await;
        ping.map(drop).expect("a reply");
        sleep(Duration::from_secs(60)).await;
        let warnings = warnings(&capture);
        assert_eq!(warnings.len(), expected, "{warnings:?}");
        for warning in warnings {
            assert!(
                warning.contains("wTimeoutMS, readConcernLevel of"),
                "{warning}"
            );
        }
        drop(connection);
        pools.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_without_a_kind_is_warned_of_on_deadpool() {
    a_write_without_a_kind_is_warned_of_once::<mongo_deadpool::Pool>().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_without_a_kind_is_warned_of_on_bb8() {
    a_write_without_a_kind_is_warned_of_once::<mongo_bb8::Pool>().await;
}

#[tokio::test(start_paused = true)]
async fn raw_commands_alone_are_warned_of_on_deadpool() {
    raw_commands_alone_are_warned_of_once::<mongo_deadpool::Pool>().await;
}

#[tokio::test(start_paused = true)]
async fn raw_commands_alone_are_warned_of_on_bb8() {
    raw_commands_alone_are_warned_of_once::<mongo_bb8::Pool>().await;
}
