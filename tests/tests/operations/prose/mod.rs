//! The specifications' prose tests about operations, by specification and number. `prose.md` in
//! `tests/tests` lists all of them, with the tests that cover the others, or the reason why they
//! can't apply.

use mongo_core::bson::{Document, doc};
use mongo_core::operation::OperationKind;
use mongo_core::pools::Backend;
use mongo_core::{OwnedReply, Result};
use mongo_testkit::{Action, ErrorReply, Matcher};

use crate::support::World;

mod causal_consistency;
mod list;
mod retries;
mod sessions;
mod timeouts;
mod transactions;

const OVERLOAD: [&str; 2] = ["RetryableError", "SystemOverloadedError"];

/// An error reply with labels.
fn refusal(code: i32, labels: &[&str]) -> ErrorReply {
    let refusal = ErrorReply::new(code, "Refused", "not now");
    labels.iter().fold(refusal, |own, label| own.label(label))
}

/// The first server fails a command once with the first reply, and from then on with the second.
fn fail_first<B: Backend>(world: &World<B>, name: &str, first: ErrorReply, then: ErrorReply) {
    let script = world.set.server(0).script();
    let once = Matcher::command(name).once();
    script.add(once.then(Action::Error(first)));
    script.add(Matcher::command(name).then(Action::Error(then)));
}

async fn find<B: Backend>(world: &World<B>) -> Result<OwnedReply> {
    let find = world.pools.command("db", &doc! { "find": "c" });
    find.kind(OperationKind::Read).await
}

async fn insert<B: Backend>(world: &World<B>) -> Result<OwnedReply> {
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = world.pools.command("db", &insert);
    write.kind(OperationKind::Write).await
}

/// The ids of the sessions of commands.
fn lsids(commands: &[Document]) -> Vec<Option<Document>> {
    let ids = commands.iter();
    ids.map(|own| own.get_document("lsid").ok().cloned())
        .collect()
}
