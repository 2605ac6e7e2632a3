use bson::{Document, doc};
use mongo_core::operation::OperationKind;
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

/// The notes, a hundred at most.
///
/// # Errors
/// Those of [`Connection::command`], and an error if a document is not a note.
pub async fn notes(connection: &mut Connection) -> Result<Vec<Note>> {
    let find = doc! { "find": "notes", "limit": 100 };
    let find = connection.command(DATABASE, &find);
    let mut found = find.kind(OperationKind::Read).cursor().await?;
    let mut notes = Vec::new();
    while let Some(note) = found.next().await? {
        notes.push(note);
    }
    Ok(notes)
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
