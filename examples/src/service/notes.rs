use bson::{Document, doc};
use mongo_core::{Connection, Result};
use serde::{Deserialize, Serialize};

/// The database of the notes.
const DATABASE: &str = "service";

/// A note, as it is sent and stored.
#[derive(Deserialize, Serialize)]
pub struct Note {
    /// The text of the note.
    pub text: String,
}

/// The reply to a `find`, with only the fields that are used here.
#[derive(Deserialize)]
struct Found {
    cursor: Cursor,
}

#[derive(Deserialize)]
struct Cursor {
    #[serde(rename = "firstBatch")]
    first_batch: Vec<Note>,
}

/// The notes, a hundred at most.
///
/// # Errors
/// Those of [`Connection::run_command`], and an error if a document is not a note.
pub async fn notes(connection: &mut Connection) -> Result<Vec<Note>> {
    let find = doc! { "find": "notes", "batchSize": 100, "singleBatch": true };
    let reply = connection.run_command(DATABASE, &find).await?;
    let found: Found = reply.deserialize()?;
    Ok(found.cursor.first_batch)
}

/// Stores a note under the id that the client has chosen. It is idempotent, so it can be retried
/// after any failure.
///
/// # Errors
/// As [`Connection::run_command`]; or the server refuses the note.
pub async fn put_note(connection: &mut Connection, id: String, note: Note) -> Result<()> {
    let upsert: [Document; 1] = [doc! {
        "q": { "_id": id }, "u": { "$set": { "text": note.text } }, "upsert": true
    }];
    let update = doc! { "update": "notes", "updates": &upsert[..] };
    connection
        .run_command(DATABASE, &update)
        .await?
        .check_write()
}
