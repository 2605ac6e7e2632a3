//! Replies of retryable writes: of retries, and of writes that a fail point spoils.

use bson::{Bson, Document, doc};

use super::Call;
use crate::action::{ErrorReply, is_retryable};
use crate::commands::Outcome;
use crate::fail_point::code_name;
use crate::statement::{count_of, is_ordered, write_error};

/// The first attempt's reply, with the statements that this attempt did not execute again.
pub(super) fn retried(call: &Call<'_>, mut reply: Document) -> Document {
    if call.name == "findandmodify" {
        reply.insert("retriedStmtId", 0);
        return reply;
    }
    let errors = reply.get_array("writeErrors").into_iter().flatten();
    let failed: Vec<i32> = errors
        .filter_map(|error| error.as_document()?.get_i32("index").ok())
        .collect();
    let end = match failed.first() {
        Some(first) if is_ordered(call.command) => *first,
        _ => count_of(statements(call.command)),
    };
    let executed: Vec<Bson> = (0..end)
        .filter(|index| !failed.contains(index))
        .map(Bson::from)
        .collect();
    if !executed.is_empty() {
        reply.insert("retriedStmtIds", executed);
    }
    reply
}

/// How many statements a write command has.
fn statements(command: &Document) -> usize {
    let names = ["documents", "updates", "deletes"];
    let array = names.iter().find_map(|name| command.get_array(name).ok());
    array.map_or(1, Vec::len)
}

/// The reply to a write that a fail point fails before its commit.
pub(crate) fn spoiled(name: &str, code: i32) -> Outcome {
    let message = "failing a write via the onPrimaryTransactionalWrite fail point";
    let error = ErrorReply::new(code, code_name(code), message);
    if name == "findandmodify" || is_retryable(code) {
        return Err(error);
    }
    Ok(doc! {"n": 0, "writeErrors": vec![write_error(0, error)]})
}
