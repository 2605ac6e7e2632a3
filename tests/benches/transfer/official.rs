//! The official `mongodb` crate.

use futures_util::FutureExt;
use mongodb::bson::{Document, doc};
use mongodb::error::{Result, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::{Client, ClientSession};

use crate::books::{DATABASE, Transfer};
use crate::{Bank, Outcome, Teller};

pub(crate) struct Official(Client);

pub(crate) struct OfficialTeller {
    client: Client,
    session: ClientSession,
}

impl Bank for Official {
    type Teller = OfficialTeller;

    async fn connect(uri: &str) -> Self {
        Self(Client::with_uri_str(uri).await.expect("a client"))
    }

    async fn teller(&self) -> OfficialTeller {
        OfficialTeller {
            client: self.0.clone(),
            session: self.0.start_session().await.expect("a session"),
        }
    }

    async fn close(self) {
        self.0.shutdown().await;
    }
}

impl Teller for OfficialTeller {
    async fn make(&mut self, transfer: &Transfer, runs: &mut usize) -> Outcome {
        let context = (&self.client, transfer, runs);
        let transaction = self.session.start_transaction();
        let made = transaction.and_run(context, |session, (client, transfer, runs)| {
            **runs += 1;
            make(client, session, transfer).boxed()
        });
        Outcome::of(made.await, |error| {
            error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)
        })
    }
}

async fn make(client: &Client, session: &mut ClientSession, transfer: &Transfer) -> Result<bool> {
    let &Transfer {
        id,
        from,
        to,
        cents,
    } = transfer;
    let database = client.database(DATABASE);
    let accounts = database.collection::<Document>("accounts");
    let has_enough = doc! { "_id": from, "cents": { "$gte": cents } };
    let debit = accounts.update_one(has_enough, doc! { "$inc": { "cents": -cents } });
    if debit.session(&mut *session).await?.matched_count == 0 {
        session.abort_transaction().await?;
        return Ok(false);
    }
    let credit = accounts.update_one(doc! { "_id": to }, doc! { "$inc": { "cents": cents } });
    credit.session(&mut *session).await?;
    let entries = database.collection::<Document>(&transfer.book());
    let entry = doc! { "transfer": id, "from": from, "to": to, "cents": cents };
    let insert = entries.insert_one(entry);
    insert.session(&mut *session).await?;
    Ok(true)
}
