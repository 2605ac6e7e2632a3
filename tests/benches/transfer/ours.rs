//! The pools of this workspace.

use mongo_core::Result;
use mongo_core::bson::{Document, doc};
use mongo_core::operation::{
    OperationKind, SessionOptions, TransactionOptions, UNKNOWN_COMMIT_RESULT,
};
use mongo_core::pools::{Backend, Pools, Session};

use crate::books::{DATABASE, Transfer};
use crate::{Bank, Outcome, Teller};

pub(crate) struct Ours<B: Backend>(Pools<B>);

pub(crate) struct OurTeller<B: Backend> {
    pools: Pools<B>,
    session: Session<B>,
}

impl<B: Backend<Config: Default>> Bank for Ours<B> {
    type Teller = OurTeller<B>;

    async fn connect(uri: &str) -> Self {
        Self(Pools::new(uri).expect("pools"))
    }

    async fn teller(&self) -> OurTeller<B> {
        let session = self.0.start_session(SessionOptions::default());
        OurTeller {
            pools: self.0.clone(),
            session: session.expect("a session"),
        }
    }

    async fn close(self) {
        self.0.close().await;
    }
}

impl<B: Backend> Teller for OurTeller<B> {
    async fn make(&mut self, transfer: &Transfer, runs: &mut usize) -> Outcome {
        let context = (&self.pools, transfer, runs);
        let made = self.session.with_boxed_transaction(
            TransactionOptions::default(),
            context,
            |session, (pools, transfer, runs)| {
                **runs += 1;
                Box::pin(make(pools, session, transfer))
            },
        );
        Outcome::of(made.await, |error| error.has_label(UNKNOWN_COMMIT_RESULT))
    }
}

async fn make<B: Backend>(
    pools: &Pools<B>,
    session: &mut Session<B>,
    transfer: &Transfer,
) -> Result<bool> {
    let &Transfer {
        id,
        from,
        to,
        cents,
    } = transfer;
    let update = |query: Document, cents: i64| {
        let add = doc! { "$inc": { "cents": cents } };
        doc! { "update": "accounts", "updates": [{ "q": query, "u": add }] }
    };
    let debit = update(doc! { "_id": from, "cents": { "$gte": cents } }, -cents);
    if !write(pools, session, &debit).await? {
        session.abort_transaction().await?;
        return Ok(false);
    }
    let credit = update(doc! { "_id": to }, cents);
    write(pools, session, &credit).await?;
    let entry = doc! { "transfer": id, "from": from, "to": to, "cents": cents };
    let insert = doc! { "insert": transfer.book(), "documents": [entry] };
    write(pools, session, &insert).await?;
    Ok(true)
}

/// Returns whether it has changed or added something.
async fn write<B: Backend>(
    pools: &Pools<B>,
    session: &mut Session<B>,
    command: &Document,
) -> Result<bool> {
    let write = pools.command(DATABASE, command).kind(OperationKind::Write);
    let reply = write.session(session).await?;
    reply.check_write()?;
    Ok(reply.get_i32("n").is_ok_and(|count| count > 0))
}
