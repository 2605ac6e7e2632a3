//! Compares errors with a test's expectations.

use bson::{Bson, Document};
use mongo_core::auth::AuthError;
use mongo_core::{Error, ErrorKind};

use super::case::Fields;
use super::execute::Failure;
use super::matching::{Lookup, matches_root};
use crate::Outcome;

pub(super) fn check_error(expected: &Document, failure: &Failure, lookup: &dyn Lookup) -> Outcome {
    let known = [
        "isError",
        "isClientError",
        "isTimeoutError",
        "errorContains",
        "errorCode",
        "errorCodeName",
        "errorLabelsContain",
        "errorLabelsOmit",
        "errorResponse",
        "expectResult",
    ];
    let fields = Fields::new(expected, "expectError", &known)?;
    let (error, result) = match failure {
        Failure::Product { error, result } => (error, result),
        Failure::Runner(text) => return Err(text.clone()),
    };
    let response = response(error);
    let code = code_of(error);
    for (key, value) in fields.iter() {
        let is_so = match (key.as_str(), value) {
            ("isError", Bson::Boolean(true)) => true,
            ("isClientError", Bson::Boolean(client)) => *client == code.is_none(),
            ("isTimeoutError", Bson::Boolean(timeout)) => *timeout == error.is_timeout(),
            ("errorContains", Bson::String(text)) => {
                let shown = format!("{error} {response:?}").to_lowercase();
                shown.contains(&text.to_lowercase())
            }
            ("errorCode", Bson::Int32(expected)) => code == Some(*expected),
            ("errorCodeName", Bson::String(name)) => {
                let own = error.command().map(|error| error.code_name.to_lowercase());
                own.as_deref() == Some(&name.to_lowercase())
            }
            ("errorLabelsContain", Bson::Array(labels)) => {
                let has = |label: &Bson| label.as_str().is_some_and(|one| error.has_label(one));
                labels.iter().all(has)
            }
            ("errorLabelsOmit", Bson::Array(labels)) => {
                let has = |label: &Bson| label.as_str().is_none_or(|one| error.has_label(one));
                !labels.iter().any(has)
            }
            ("errorResponse", expected) => {
                let response = response.clone().map(Bson::Document);
                matches_root(expected, response.as_ref(), "errorResponse", lookup)?;
                true
            }
            ("expectResult", expected) => {
                let result = result.clone().map(Bson::Document);
                matches_root(expected, result.as_ref(), "the error's result", lookup)?;
                true
            }
            (key, value) => return Err(format!("the runner does not know {key}: {value}")),
        };
        if !is_so {
            return Err(format!("{error} ({error:?}) is not as {key}: {value} says"));
        }
    }
    match fields.iter().next() {
        Some(_) => Ok(()),
        None => Err("expectError expects nothing".to_owned()),
    }
}

/// The server's reply.
fn response(error: &Error) -> Option<Document> {
    let reply = &error.command()?.reply;
    Document::try_from(&**reply).ok()
}

/// The server's error code, also if it refused the credential.
fn code_of(error: &Error) -> Option<i32> {
    match error.kind() {
        ErrorKind::Authentication(AuthError::Refused { code, .. }) => Some(*code),
        _ => error.code(),
    }
}
