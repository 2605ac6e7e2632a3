//! Runs the commands of an operation on the product.

use bson::{Bson, Document, doc};
use mongo_core::pools::Backend;
use mongo_core::select::Criterion;
use mongo_core::{Connection, Error};

use super::client::Client;
use super::crud::{Finish, Kind, Step, Translated};
use super::entities::Options;
use super::results::{Answer, Found, bulk, result};

/// The failure of an operation.
#[derive(Debug)]
pub(super) enum Failure {
    /// The product's error, with the result so far of a bulk of writes.
    Product {
        error: Error,
        result: Option<Document>,
    },
    /// The runner can't run the operation.
    Runner(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Runner(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::Runner(text.to_owned())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Product {
            error,
            result: None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Product { error, .. } => write!(f, "{error} ({error:?})"),
            Self::Runner(text) => f.write_str(text),
        }
    }
}

/// Runs all commands of an operation.
pub(super) async fn run<B: Backend>(
    client: &Client<B>,
    translated: &Translated,
    options: &Options,
) -> Result<Found, Failure> {
    let mut answers = Vec::new();
    for step in &translated.steps {
        match run_step(client, step, translated, options).await {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                let is_bulk = matches!(translated.finish, Finish::Bulk);
                let result = is_bulk.then(|| bulk(&answers));
                return Err(Failure::Product { error, result });
            }
        }
    }
    result(&translated.finish, &answers).map_err(Failure::Runner)
}

async fn run_step<B: Backend>(
    client: &Client<B>,
    step: &Step,
    translated: &Translated,
    options: &Options,
) -> Result<Answer, Error> {
    let mut command = step.command.clone();
    let criterion = match (step.kind, &options.preference) {
        (Kind::Write { .. }, _) | (_, None) => Criterion::write(),
        (_, Some(preference)) => Criterion::read(preference.clone())
            .map_err(|error| Error::configuration(error.to_string()))?,
    };
    if let (Kind::Read, Some(concern)) = (step.kind, &options.read_concern) {
        command.insert("readConcern", concern.to_document());
    }
    if let (Kind::Write { .. }, Some(concern)) = (step.kind, &options.write_concern) {
        command.insert("writeConcern", concern.to_document());
    }
    let mut connection = client.pools.get_with(&criterion).await?;
    let reply = connection.run_command(&step.database, &command).await?;
    reply.check_write()?;
    let reply = reply.to_document()?;
    let documents = exhaust(&mut connection, step, translated, &reply).await?;
    Ok(Answer {
        command,
        reply,
        documents,
    })
}

async fn exhaust(
    connection: &mut Connection,
    step: &Step,
    translated: &Translated,
    reply: &Document,
) -> Result<Vec<Bson>, Error> {
    let Ok(cursor) = reply.get_document("cursor") else {
        return Ok(Vec::new());
    };
    let mut all = cursor.get_array("firstBatch").cloned().unwrap_or_default();
    let mut id = cursor.get_i64("id").unwrap_or(0);
    let namespace = cursor.get_str("ns").unwrap_or_default();
    let collection = namespace.split_once('.').map_or("", |(_, name)| name);
    while id != 0 {
        let mut more = doc! { "getMore": id, "collection": collection };
        if let Some(size) = translated.batch_size {
            more.insert("batchSize", size);
        }
        let reply = connection.run_command(&step.database, &more).await?;
        let reply = reply.to_document()?;
        let Ok(cursor) = reply.get_document("cursor") else {
            break;
        };
        all.extend(cursor.get_array("nextBatch").cloned().unwrap_or_default());
        id = cursor.get_i64("id").unwrap_or(0);
    }
    Ok(all)
}
