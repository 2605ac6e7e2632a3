//! What is added to a command.

use std::sync::Arc;

use bson::raw::{CStr, RawBsonRef, RawDocumentBuf, cstr};
use bson::{Document, Timestamp};

use super::defaults::Defaults;
use super::request::{OperationKind, Request};
use super::session::{ClientSession, ClusterTime, is_later};
use super::transaction::Ending;
use crate::concern::ReadConcern;
use crate::error::{Error, ErrorKind, Result};
use crate::select::{ReadPreference, ReadPreferenceMode};

/// MongoDB 5.0.
const SNAPSHOT_READS: i32 = 13;

/// What the fields depend on: the connection, and the state of the client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whether the application addresses this very server, of whatever type.
    pub(crate) is_direct: bool,
    /// Whether it is a mongos or a load balancer.
    pub(crate) is_router: bool,
    pub(crate) is_standalone: bool,
    pub(crate) max_wire_version: i32,
    /// The client's cluster time.
    pub(crate) cluster_time: Option<Arc<ClusterTime>>,
    /// The command's time on the server, in milliseconds.
    pub(crate) max_time: Option<i64>,
    /// Whether the operation has a time limit, even an unlimited one.
    pub(crate) has_timeout: bool,
}

impl Request {
    /// The read preference by which the server is selected; `None` selects a writable server.
    ///
    /// # Errors
    /// A transaction reads from the primary only.
    pub(crate) fn selection(
        &self,
        session: Option<&ClientSession>,
        defaults: &Defaults,
    ) -> Result<Option<ReadPreference>> {
        let own = self.read_preference.clone();
        if self.ending.is_some() {
            return Ok(None);
        }
        let transaction = session
            .map(|session| &session.transaction)
            .filter(|transaction| transaction.is_active());
        if let Some(transaction) = transaction {
            let preference = match (own, self.kind) {
                (None, OperationKind::Write) => return Ok(None),
                (own, _) => own.or_else(|| transaction.options.read_preference.clone()),
            };
            let preference = preference.unwrap_or_default();
            return match (preference.mode, self.kind) {
                (ReadPreferenceMode::Primary, OperationKind::Write) => Ok(None),
                (ReadPreferenceMode::Primary, _) => Ok(Some(preference)),
                _ => Err(Error::configuration(
                    "read preference in a transaction must be primary",
                )),
            };
        }
        Ok(match self.kind {
            OperationKind::Command => Some(own.unwrap_or_default()),
            OperationKind::Read => Some(own.unwrap_or_else(|| defaults.read_preference.clone())),
            OperationKind::Write => own,
        })
    }

    /// Whether the server sends no reply. The operation then has no session. The concern in a command
    /// itself does not count: the server answers it.
    pub(crate) fn is_unacknowledged(&self, defaults: &Defaults) -> bool {
        if self.is_bare || self.own.write_concern {
            return false;
        }
        let own = self.write_concern.as_ref();
        let concern = match self.kind {
            OperationKind::Read => None,
            OperationKind::Command => own,
            OperationKind::Write => own.or(Some(&defaults.write_concern)),
        };
        concern.is_some_and(|concern| !concern.is_acknowledged())
    }

    /// Adds the fields for one attempt, after removing those of the last one.
    ///
    /// # Errors
    /// The options contradict the session. Its state has not changed then.
    pub(crate) fn prepare(
        &mut self,
        session: Option<&mut ClientSession>,
        facts: &Facts,
        defaults: &Defaults,
    ) -> Result<()> {
        self.reset()?;
        let preference = match self.is_bare {
            true => None,
            false => self.selection(session.as_deref(), defaults)?,
        };
        self.note_usage(defaults);
        if session.is_some() || !self.is_unacknowledged(defaults) {
            self.add_cluster_time(session.as_deref(), facts);
        }
        match session {
            None => self.add_concerns(None, facts, defaults)?,
            Some(session) => {
                let id = RawBsonRef::Document(session.id());
                self.body.append(cstr!("lsid"), id);
                match (self.ending, session.transaction.is_active()) {
                    (Some(ending), _) => self.add_ending(ending, session, facts)?,
                    (None, true) => self.add_transaction(session, facts)?,
                    (None, false) => {
                        self.add_number(session, facts, defaults);
                        self.add_concerns(Some(session), facts, defaults)?;
                    }
                }
            }
        }
        self.add_read_preference(preference, facts)?;
        if let Some(comment) = self.comment.clone().filter(|_| !self.own.comment) {
            self.body.append(cstr!("comment"), comment);
        }
        if let Some(time) = facts.max_time.filter(|_| !self.own.max_time) {
            self.body.append(cstr!("maxTimeMS"), time);
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<()> {
        if self.body.as_bytes().len() == self.own_length {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.body).into_bytes();
        bytes.truncate(self.own_length - 1);
        bytes.push(0);
        let length = i32::try_from(self.own_length).unwrap_or(i32::MAX);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.body = RawDocumentBuf::from_bytes(bytes)
            .map_err(|error| ErrorKind::Serialization(Arc::new(error)))?;
        Ok(())
    }

    fn append(&mut self, name: &CStr, value: RawDocumentBuf) {
        self.body.append(name, value);
    }

    fn append_document(&mut self, name: &CStr, value: &Document) -> Result<()> {
        let raw = RawDocumentBuf::try_from(value)
            .map_err(|error| ErrorKind::Serialization(Arc::new(error)))?;
        self.append(name, raw);
        Ok(())
    }

    /// The number of a retryable write.
    fn add_number(&mut self, session: &mut ClientSession, facts: &Facts, defaults: &Defaults) {
        let is_numbered = self.kind == OperationKind::Write
            && self.is_retryable
            && defaults.retry_writes
            && !facts.is_standalone;
        if is_numbered {
            let number = *self
                .txn_number
                .get_or_insert_with(|| session.server.next_number());
            self.body.append(cstr!("txnNumber"), number);
        }
    }

    fn add_transaction(&mut self, session: &mut ClientSession, facts: &Facts) -> Result<()> {
        for (is_set, concern) in [
            (self.read_concern.is_some(), "read"),
            (self.write_concern.is_some(), "write"),
        ] {
            if is_set {
                let text = format!("Cannot set {concern} concern after starting a transaction");
                return Err(Error::configuration(text));
            }
        }
        self.body.append(cstr!("txnNumber"), session.txn_number());
        self.body.append(cstr!("autocommit"), false);
        if session.transaction.advance(session.txn_number()) {
            self.body.append(cstr!("startTransaction"), true);
            let level = session.transaction.options.read_concern.as_ref();
            let own = self.own_concern.clone();
            let mut concern = own.or_else(|| level.map(ReadConcern::to_document));
            add_after(&mut concern, session, facts);
            return self.add_read_concern(concern);
        }
        // The server says that it is too late.
        self.add_read_concern(self.own_concern.clone())
    }

    fn add_read_concern(&mut self, concern: Option<Document>) -> Result<()> {
        match concern.filter(|own| !own.is_empty() && !self.own.read_concern) {
            Some(concern) => self.append_document(cstr!("readConcern"), &concern),
            None => Ok(()),
        }
    }

    fn add_ending(&mut self, ending: Ending, session: &ClientSession, facts: &Facts) -> Result<()> {
        let number = session.transaction.open.unwrap_or(session.txn_number());
        self.body.append(cstr!("txnNumber"), number);
        self.body.append(cstr!("autocommit"), false);
        if let Some(concern) = session.transaction.write_concern(ending) {
            self.append_document(cstr!("writeConcern"), &concern.to_document())?;
        }
        if let Some(token) = &session.transaction.recovery_token {
            self.append(cstr!("recoveryToken"), token.clone());
        }
        let limit = session.transaction.options.max_commit_time;
        if let Some(limit) = limit.filter(|_| ending == Ending::Commit && !facts.has_timeout) {
            let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
            self.body.append(cstr!("maxTimeMS"), limit);
        }
        Ok(())
    }

    /// The concerns outside of a transaction.
    fn add_concerns(
        &mut self,
        session: Option<&ClientSession>,
        facts: &Facts,
        defaults: &Defaults,
    ) -> Result<()> {
        if self.is_bare {
            return Ok(());
        }
        let mut read = match (&self.own_concern, &self.read_concern, self.kind) {
            (Some(own), _, _) => Some(own.clone()),
            (None, Some(set), _) => Some(set.to_document()),
            (None, None, OperationKind::Read) if !defaults.read_concern.is_default() => {
                Some(defaults.read_concern.to_document())
            }
            (None, None, _) => None,
        };
        match session {
            Some(session) if session.options().snapshot => {
                if facts.max_wire_version < SNAPSHOT_READS {
                    let text = "Snapshot reads require MongoDB 5.0 or later";
                    return Err(Error::configuration(text));
                }
                let own = self.own_concern.as_ref().and_then(|own| own.get("level"));
                if own.is_some_and(|own| own.as_str() != Some("snapshot")) {
                    return Err(Error::configuration(
                        "the command has a `readConcern` other than that of its snapshot session: \
                         remove its `level`",
                    ));
                }
                let read = read.get_or_insert_default();
                read.insert("level", "snapshot");
                if let Some(time) = session.snapshot_time() {
                    read.entry("atClusterTime".to_owned())
                        .or_insert(time.into());
                }
            }
            Some(session) if self.kind != OperationKind::Command => {
                add_after(&mut read, session, facts);
            }
            Some(_) | None => {}
        }
        self.add_read_concern(read)?;
        let write = match (&self.write_concern, self.kind) {
            (Some(own), _) => Some(own),
            (None, OperationKind::Write) => Some(&defaults.write_concern),
            (None, _) => None,
        };
        match write.filter(|concern| !concern.is_default() && !self.own.write_concern) {
            Some(concern) => {
                let concern = concern.to_document();
                self.append_document(cstr!("writeConcern"), &concern)
            }
            None => Ok(()),
        }
    }

    /// The newer of the client's cluster time and the session's.
    fn add_cluster_time(&mut self, session: Option<&ClientSession>, facts: &Facts) {
        let known = facts.cluster_time.as_deref();
        let own = session.and_then(ClientSession::cluster_time).filter(|own| {
            let known = known.map(ClusterTime::timestamp);
            is_later(own.timestamp(), known)
        });
        if let Some(newest) = own.or(known) {
            let newest = RawBsonRef::Document(newest.document());
            self.body.append(cstr!("$clusterTime"), newest);
        }
    }

    /// Specification: server selection, "Passing read preference to mongos and load balancers".
    fn add_read_preference(
        &mut self,
        preference: Option<ReadPreference>,
        facts: &Facts,
    ) -> Result<()> {
        let is_added = !facts.is_standalone && !self.own.read_preference;
        let Some(preference) = preference.filter(|_| is_added) else {
            return Ok(());
        };
        match preference.mode {
            ReadPreferenceMode::Primary if facts.is_direct && !facts.is_router => {
                let any = ReadPreference::new(ReadPreferenceMode::PrimaryPreferred);
                self.append_document(cstr!("$readPreference"), &any.to_document())
            }
            ReadPreferenceMode::Primary => Ok(()),
            _ => self.append_document(cstr!("$readPreference"), &preference.to_document()),
        }
    }
}

/// Adds `afterClusterTime`, with which the operation sees what the session has seen.
fn add_after(concern: &mut Option<Document>, session: &ClientSession, facts: &Facts) {
    let has_cluster_times = facts.cluster_time.is_some() || session.cluster_time().is_some();
    let after: Option<Timestamp> = session.operation_time();
    let is_at = concern
        .as_ref()
        .is_some_and(|own| own.contains_key("atClusterTime"));
    if let Some(after) = after.filter(|_| session.is_causal() && has_cluster_times && !is_at) {
        concern
            .get_or_insert_default()
            .entry("afterClusterTime".to_owned())
            .or_insert(after.into());
    }
}

#[cfg(test)]
mod tests;
