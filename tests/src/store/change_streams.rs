//! Change streams that tell of inserts. Other changes have no events.

use bson::{Document, doc};

use super::Call;

/// Which inserts a change stream tells of.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    /// The namespace of the cursor.
    pub(super) namespace: String,
    /// The start of the namespaces: a collection's whole name, a database's with its dot, or
    /// nothing for all.
    scope: String,
    /// The number of the next event, of a resumed stream.
    pub(super) next: Option<usize>,
}

impl Watch {
    /// The change stream that an aggregation opens, if any.
    pub(super) fn of(call: &Call<'_>) -> Option<Self> {
        let stages = call.command.get_array("pipeline").ok()?;
        let first = stages.first()?.as_document()?;
        let options = first.get_document("$changeStream").ok()?;
        let is_all = options.get_bool("allChangesForCluster").unwrap_or(false);
        let (namespace, scope) = match call.command.get_str("aggregate") {
            Ok(name) => (
                format!("{}.{name}", call.database),
                format!("{}.{name}", call.database),
            ),
            Err(_) if is_all => ("admin.$cmd.aggregate".to_owned(), String::new()),
            Err(_) => (
                format!("{}.$cmd.aggregate", call.database),
                format!("{}.", call.database),
            ),
        };
        let mut tokens = ["resumeAfter", "startAfter"].into_iter();
        let token = tokens.find_map(|name| options.get_document(name).ok());
        let next = token.and_then(|token| token.get_str("_data").ok()?.parse().ok());
        Some(Self {
            namespace,
            scope,
            next,
        })
    }

    fn tells_of(&self, namespace: &str) -> bool {
        match self.scope.is_empty() || self.scope.ends_with('.') {
            true => namespace.starts_with(&self.scope),
            false => namespace == self.scope,
        }
    }

    /// The events from a number on.
    pub(super) fn events(&self, log: &[(String, Document)], next: usize) -> Vec<Document> {
        let new = log.iter().enumerate().skip(next);
        new.filter(|(_, (namespace, _))| self.tells_of(namespace))
            .map(|(number, (namespace, document))| {
                let (database, collection) = namespace.split_once('.').unwrap_or_default();
                doc! {
                    "_id": token(number + 1),
                    "operationType": "insert",
                    "ns": {"db": database, "coll": collection},
                    "documentKey": {"_id": document.get("_id").cloned()},
                    "fullDocument": document.clone(),
                }
            })
            .collect()
    }
}

/// The resume token before the event of this number.
pub(super) fn token(next: usize) -> Document {
    doc! {"_data": format!("{next:024}")}
}
