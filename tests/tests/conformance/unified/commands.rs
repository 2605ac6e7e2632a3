//! Translation of operations into commands.

use bson::{Bson, Document, doc};

use super::entities::Session;

/// The object of an operation.
pub(super) enum Context<'a> {
    Runner,
    Client,
    Database(String),
    Collection {
        database: String,
        name: String,
        /// The session in the arguments.
        session: Option<&'a mut Session>,
    },
    Session(&'a mut Session),
}

/// Commands to run in order on one connection.
pub(super) struct Batches {
    pub(super) database: String,
    pub(super) commands: Vec<Document>,
    /// Whether the result is that of a cursor.
    pub(super) is_cursor: bool,
}

pub(super) fn translate(
    name: &str,
    arguments: &Document,
    context: Context<'_>,
) -> Result<Batches, String> {
    let batches = |database: &str, commands| Batches {
        database: database.to_owned(),
        commands,
        is_cursor: matches!(name, "find" | "aggregate"),
    };
    match context {
        Context::Database(database) => {
            let command = match name {
                "runCommand" => arguments.get_document("command").cloned(),
                "aggregate" => arguments.get_array("pipeline").map(
                    |pipeline| doc! { "aggregate": 1, "pipeline": pipeline.clone(), "cursor": {} },
                ),
                _ => return Err(unknown(name)),
            };
            let command = command.map_err(|error| error.to_string())?;
            Ok(batches(&database, vec![command]))
        }
        Context::Collection {
            database,
            name: collection,
            session,
        } => {
            let mut commands = on_collection(name, &collection, arguments)?;
            if let Some(session) = session {
                commands
                    .iter_mut()
                    .for_each(|command| session.join(command));
            }
            Ok(batches(&database, commands))
        }
        Context::Session(session) => match name {
            "commitTransaction" | "abortTransaction" => {
                let mut command = doc! { name: 1 };
                session.join(&mut command);
                Ok(batches("admin", vec![command]))
            }
            _ => Err(unknown(name)),
        },
        Context::Runner | Context::Client => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> String {
    format!("the runner has no operation {name}")
}

fn on_collection(
    name: &str,
    collection: &str,
    arguments: &Document,
) -> Result<Vec<Document>, String> {
    let argument = |key: &str| {
        let found = arguments.get(key);
        found
            .cloned()
            .ok_or_else(|| format!("{name} without {key}"))
    };
    let one = |command| Ok(vec![command]);
    match name {
        "find" => {
            let mut command = doc! { "find": collection };
            let own = arguments.iter().filter(|(key, _)| *key != "session");
            command.extend(own.map(|(key, value)| (key.clone(), value.clone())));
            one(command)
        }
        "aggregate" => {
            let pipeline = argument("pipeline")?;
            one(doc! { "aggregate": collection, "pipeline": pipeline, "cursor": {} })
        }
        "countDocuments" => {
            let group = doc! { "$group": { "_id": 1, "n": { "$sum": 1 } } };
            let pipeline = [doc! { "$match": argument("filter")? }, group];
            one(doc! { "aggregate": collection, "pipeline": pipeline, "cursor": {} })
        }
        "estimatedDocumentCount" => one(doc! { "count": collection }),
        "distinct" => {
            let (key, query) = (argument("fieldName")?, argument("filter")?);
            one(doc! { "distinct": collection, "key": key, "query": query })
        }
        "findOneAndDelete" => {
            let query = argument("filter")?;
            one(doc! { "findAndModify": collection, "query": query, "remove": true })
        }
        "findOneAndReplace" | "findOneAndUpdate" => {
            let update = argument("replacement").or_else(|_| argument("update"))?;
            let query = argument("filter")?;
            one(doc! { "findAndModify": collection, "query": query, "update": update })
        }
        "insertMany" => {
            let documents = argument("documents")?;
            one(doc! { "insert": collection, "documents": documents })
        }
        "bulkWrite" => {
            let requests = arguments.get_array("requests");
            bulk_write(collection, requests.map_err(|error| error.to_string())?)
        }
        _ => {
            let (kind, statement) = write(name, arguments)?;
            one(write_command(collection, kind, vec![statement]))
        }
    }
}

/// A single write: its command and its statement.
fn write(name: &str, arguments: &Document) -> Result<(&'static str, Bson), String> {
    let argument = |key: &str| {
        let found = arguments.get(key);
        found
            .cloned()
            .ok_or_else(|| format!("{name} without {key}"))
    };
    Ok(match name {
        "insertOne" => ("insert", argument("document")?),
        "deleteOne" | "deleteMany" => {
            let limit = i32::from(name == "deleteOne");
            (
                "delete",
                Bson::Document(doc! { "q": argument("filter")?, "limit": limit }),
            )
        }
        "updateOne" | "updateMany" | "replaceOne" => {
            let update = argument("update").or_else(|_| argument("replacement"))?;
            let mut statement = doc! { "q": argument("filter")?, "u": update };
            if name == "updateMany" {
                statement.insert("multi", true);
            }
            if let Some(upsert) = arguments.get("upsert") {
                statement.insert("upsert", upsert.clone());
            }
            ("update", Bson::Document(statement))
        }
        _ => return Err(unknown(name)),
    })
}

fn write_command(collection: &str, kind: &str, statements: Vec<Bson>) -> Document {
    let field = match kind {
        "insert" => "documents",
        "delete" => "deletes",
        _ => "updates",
    };
    doc! { kind: collection, field: statements }
}

/// Writes in order. Adjacent ones of the same kind form one command.
fn bulk_write(collection: &str, requests: &[Bson]) -> Result<Vec<Document>, String> {
    let mut commands = Vec::new();
    let mut pending: Option<(&'static str, Vec<Bson>)> = None;
    for request in requests {
        let request = request.as_document().ok_or("no document")?;
        let (name, arguments) = request.iter().next().ok_or("no request")?;
        let arguments = arguments.as_document().ok_or("no arguments")?;
        let (kind, statement) = write(name, arguments)?;
        match &mut pending {
            Some((same, statements)) if *same == kind => statements.push(statement),
            other => {
                if let Some((kind, statements)) = other.replace((kind, vec![statement])) {
                    commands.push(write_command(collection, kind, statements));
                }
            }
        }
    }
    if let Some((kind, statements)) = pending {
        commands.push(write_command(collection, kind, statements));
    }
    Ok(commands)
}
