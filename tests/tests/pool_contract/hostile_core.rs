//! Long replies with command handlers, and the metadata of builds that fail.

use std::cell::Cell;
use std::time::Duration;

use bson::doc;
use mongo_core::event::{CommandEvent, EventHandlers};
use mongo_core::handshake::DriverInfo;
use mongo_core::net::Topology;
use mongo_core::pools::{ConnectionFactory, Pools};
use mongo_core::{ClientOptions, Deadline};
use mongo_testkit::{Action, Matcher, ScriptedServer};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

/// The CPU time of this thread.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("of Linux");
    let nanos = stat.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

/// For how long another task waits at most while a reply of 47 MB is read, and with a
/// handler of command events or without.
fn longest_wait(has_handler: bool) -> Duration {
    let world = Runtime::new().expect("a runtime");
    let server = world.block_on(ScriptedServer::start());
    let text = "x".repeat(46_900_000);
    let long = Matcher::command("find").then(Action::Merge(doc! { "text": text }));
    server.script().add(long);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut handlers = EventHandlers::new();
        if has_handler {
            handlers = handlers.on_command(|event| {
                if let CommandEvent::Succeeded(event) = event {
                    assert!(!event.command_name.is_empty());
                }
            });
        }
        let options = ClientOptions::parse(&server.uri()).expect("a connection string");
        let factory = ConnectionFactory::builder(options).event_handlers(handlers);
        let factory = factory.build().expect("a factory");
        let mut connection = factory
            .establish(Deadline::after(Duration::from_secs(20)))
            .await
            .expect("a connection");
        let longest = Cell::new(Duration::ZERO);
        let watch = async {
            loop {
                let before = cpu();
                yield_now().await;
                longest.set(longest.get().max(cpu() - before));
            }
        };
        let find = doc! { "find": "c" };
        let reading = async {
            let reply = connection.run_command("db", &find).await.expect("a reply");
            assert!(reply.raw().as_bytes().len() > 46_000_000);
            // The watcher sees the last step too.
            yield_now().await;
        };
        tokio::select! {
            biased;
            () = reading => {}
            () = watch => unreachable!("it has no end"),
        }
        longest.get()
    })
}

#[test]
fn a_command_handler_does_not_delay_others_over_a_long_reply() {
    let (without, with) = (longest_wait(false), longest_wait(true));
    assert!(
        with < Duration::from_millis(20),
        "{with:?}, without a handler {without:?}"
    );
}

/// What a build that failed would have said is not said by others.
#[tokio::test]
async fn a_build_that_fails_appends_nothing_to_the_metadata_of_its_topology() {
    let server = ScriptedServer::start().await;
    let options = || ClientOptions::parse(&server.uri()).expect("a connection string");
    let topology = Topology::builder(options()).build().expect("a topology");
    let built = Pools::<mongo_deadpool::Pool>::builder(options())
        .topology(topology.clone())
        .driver_info(DriverInfo::new("refused"))
        .driver_info(DriverInfo::new("a|b"))
        .build();
    built.map(drop).expect_err("a delimiter");
    let is_new = topology.append_metadata(DriverInfo::new("refused"));
    assert!(is_new.expect("short"), "it was there already");
}
