//! Retryable reads 1 and retryable writes 2: "PoolClearedError Retryability Test", on a real
//! server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mongo_core::Error;
use mongo_core::bson::{Document, doc};
use mongo_core::event::{CheckOutFailedReason, CmapEvent, CommandEvent};
use mongo_core::operation::OperationKind;
use mongo_core::pools::{Backend, Pools};
use mongo_testkit::{Deployment, RealServer};
use tokio::time::timeout;

use crate::support::{Kept, LIMIT, builder};

on_both! {
    reads_1_pool_cleared_error_retryability,
    writes_2_pool_cleared_error_retryability,
}

async fn run<B: Backend>(pools: &Pools<B>, command: &Document) -> Result<(), Error> {
    let kind = match command.contains_key("find") {
        true => OperationKind::Read,
        false => OperationKind::Write,
    };
    let reply = pools.command("db", command).kind(kind).await?;
    reply.check_write()
}

async fn check<B: Backend<Config: Default>>(command: Document) {
    let set = Deployment::replica_set("rs").members(1);
    let set = set.backed_by(RealServer::start()).start().await;
    let name = command.keys().next().expect("a command").clone();
    let (kept, started) = (Kept::default(), Arc::new(AtomicU32::new(0)));
    let counted = (name.clone(), started.clone());
    let handlers = kept.handlers().on_command(move |event| match event {
        CommandEvent::Started(event) if *event.command_name == *counted.0 => {
            counted.1.fetch_add(1, Ordering::SeqCst);
        }
        _ => {}
    });
    let uri = format!("{}&maxPoolSize=1&heartbeatFrequencyMS=500", set.uri());
    let pools: Pools<B> = builder(&uri)
        .event_handlers(handlers)
        .build()
        .expect("pools");
    let data = doc! {
        "failCommands": [&name],
        "errorCode": 91,
        "errorLabels": ["RetryableWriteError"],
        "blockConnection": true,
        "blockTimeMS": 1000,
    };
    set.fail_commands(0, doc! {"times": 1}, data);
    let both = async { tokio::join!(run(&pools, &command), run(&pools, &command)) };
    let (first, second) = timeout(LIMIT, both).await.expect("in time");
    first.expect("the first task's");
    second.expect("the second task's");

    let story: Vec<_> = kept
        .events()
        .into_iter()
        .filter_map(|event| match event {
            CmapEvent::ConnectionCheckedOut(_) => Some("checked out".to_owned()),
            CmapEvent::PoolCleared(_) => Some("cleared".to_owned()),
            CmapEvent::ConnectionCheckOutFailed(event) => {
                assert_eq!(event.reason, CheckOutFailedReason::ConnectionError);
                Some("failed".to_owned())
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        story[..3],
        ["checked out", "cleared", "failed"],
        "{story:?}"
    );
    assert_eq!(started.load(Ordering::SeqCst), 3);
    pools.close().await;
    set.shutdown().await;
}

async fn reads_1_pool_cleared_error_retryability<B: Backend<Config: Default>>() {
    check::<B>(doc! {"find": "c", "limit": 1}).await;
}

async fn writes_2_pool_cleared_error_retryability<B: Backend<Config: Default>>() {
    check::<B>(doc! {"insert": "c", "documents": [{"x": 1}]}).await;
}
