//! `configureFailPoint`, which drivers' tests use to make a server fail: `failCommand` and
//! `onPrimaryTransactionalWrite`.

#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::action::{Action, ErrorReply, error_label};
use crate::commands::Outcome;
use crate::statement::{max_time, missing, size};

/// The parameter with the `baseBackoffMS` of overload errors. 0 omits it.
const BASE_BACKOFF: &str = "externalClientBaseBackoffMS";

/// A server's fail points.
#[derive(Debug, Default)]
pub(crate) struct FailPoint(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `failCommand`.
    commands: Option<(Mode, Setting)>,
    /// How often `failCommand` was configured.
    version: u64,
    /// How often `failCommand` was hit since the server started.
    hits: i32,
    /// `onPrimaryTransactionalWrite`.
    writes: Option<(Mode, Spoil)>,
    write_hits: i32,
    base_backoff: i32,
}

/// How often a fail point has an effect.
#[derive(Clone, Copy, Debug)]
struct Mode {
    /// Remaining hits without effect.
    skip: usize,
    /// Remaining hits with effect.
    times: usize,
}

#[derive(Debug)]
struct Setting {
    commands: Vec<String>,
    app_name: Option<String>,
    namespace: Option<String>,
    actions: Vec<Action>,
    /// The code of its error, if no labels are configured.
    unlabelled: i32,
    /// Whether its error is one of an overloaded server.
    is_overload: bool,
}

/// A command that `failCommand` may hit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) command: &'a Document,
    pub(crate) database: &'a str,
    pub(crate) app_name: Option<&'a str>,
    /// Whether the server adds labels to errors.
    pub(crate) has_labels: bool,
}

/// What `onPrimaryTransactionalWrite` does to a retryable write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spoil {
    /// The error with which the write fails before its commit. `None`: it is committed.
    pub(crate) code: Option<i32>,
    /// Whether the connection is closed without a reply.
    pub(crate) closes: bool,
}

impl FailPoint {
    /// Executes `configureFailPoint`.
    pub(crate) fn configure(&self, command: &Document, is_mongos: bool) -> Outcome {
        let name = command.get_str("configureFailPoint").unwrap_or_default();
        match name {
            "failCommand" => {
                let setting = Mode::read(command)?.map(|mode| Ok((mode, Setting::read(command)?)));
                let setting = setting.transpose()?;
                let mut state = self.lock();
                state.commands = setting;
                state.version += 1;
                Ok(doc! {"count": state.hits})
            }
            "onPrimaryTransactionalWrite" if !is_mongos => {
                let setting = Mode::read(command)?.map(|mode| (mode, Spoil::read(command)));
                let mut state = self.lock();
                state.writes = setting;
                Ok(doc! {"count": state.write_hits})
            }
            _ => {
                let message = format!("there is no fail point '{name}'");
                Err(ErrorReply::new(249, "FailPointSetFailed", &message))
            }
        }
    }

    /// Executes a `setParameter` of the kit's own parameter; `None` for others.
    pub(crate) fn set_parameter(&self, command: &Document) -> Option<Outcome> {
        let millis = i32::try_from(size(command, BASE_BACKOFF)?).unwrap_or(i32::MAX);
        let was = std::mem::replace(&mut self.lock().base_backoff, millis);
        Some(Ok(doc! {"was": was}))
    }

    /// Whether the next retryable writes may be spoiled.
    pub(crate) fn spoils_writes(&self) -> bool {
        self.lock().writes.is_some_and(|(mode, _)| mode.times > 0)
    }

    /// Returns what happens to a retryable write that is about to be committed, and counts it. A
    /// command counts once, regardless of its statements.
    pub(crate) fn hit_write(&self) -> Option<Spoil> {
        let mut state = self.lock();
        let (mode, spoil) = state.writes.as_mut()?;
        let spoil = mode.hit().then_some(*spoil)?;
        state.write_hits = state.write_hits.saturating_add(1);
        Some(spoil)
    }

    /// Changes each time the fail point is configured.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Returns its actions on a command, and counts the hit.
    pub(crate) fn hit(&self, target: &Target<'_>) -> Option<Vec<Action>> {
        let command = target.command;
        let name = command.keys().next()?;
        let mut state = self.lock();
        let base_backoff = state.base_backoff;
        let (mode, setting) = state.commands.as_mut()?;
        if !setting.is_meant(name, target) || !mode.hit() {
            return None;
        }
        let mut actions = setting.actions.clone();
        if target.has_labels
            && let Some(label) = error_label(setting.unlabelled, command)
        {
            let labels = vec![Bson::from(label)];
            actions.push(Action::Merge(doc! {"errorLabels": labels}));
        }
        if setting.is_overload && base_backoff > 0 {
            actions.push(Action::Merge(doc! {"baseBackoffMS": base_backoff}));
        }
        // The maxTimeMS of a getMore is how long it awaits data.
        let limit = max_time(command).filter(|_| !name.eq_ignore_ascii_case("getMore"));
        if let (Some(limit), Some(Action::Delay(time))) = (limit, actions.first())
            && limit <= *time
        {
            actions = vec![Action::Delay(limit), Action::Error(exceeded_time())];
        }
        state.hits = state.hits.saturating_add(1);
        Some(actions)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mode {
    /// `None` for mode `off`.
    fn read(command: &Document) -> Result<Option<Self>, ErrorReply> {
        let mode = command.get("mode").ok_or_else(|| missing("mode"))?;
        let (skip, times) = match mode {
            Bson::String(mode) if mode == "off" => return Ok(None),
            Bson::String(mode) if mode == "alwaysOn" => (0, usize::MAX),
            Bson::Document(mode) => match (size(mode, "times"), size(mode, "skip")) {
                (Some(times), None) => (0, times),
                (None, Some(skip)) => (skip, usize::MAX),
                _ => return Err(missing("mode")),
            },
            _ => return Err(missing("mode")),
        };
        Ok(Some(Self { skip, times }))
    }

    /// Counts a hit, and returns whether it has an effect.
    fn hit(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let has_effect = self.times > 0;
        self.times = self.times.saturating_sub(1);
        has_effect
    }
}

impl Spoil {
    fn read(command: &Document) -> Self {
        let none = Document::new();
        let data = command.get_document("data").unwrap_or(&none);
        let code = size(data, "failBeforeCommitExceptionCode");
        Self {
            code: code.map(|code| i32::try_from(code).unwrap_or(i32::MAX)),
            closes: data.get_bool("closeConnection").unwrap_or(true),
        }
    }
}

impl Setting {
    fn read(command: &Document) -> Result<Self, ErrorReply> {
        let data = command.get_document("data").map_err(|_| missing("data"))?;
        let commands = data
            .get_array("failCommands")
            .map_err(|_| missing("failCommands"))?;
        let labels = data.get_array("errorLabels").into_iter().flatten();
        let text = |name| data.get_str(name).ok().map(str::to_owned);
        Ok(Self {
            commands: commands
                .iter()
                .filter_map(Bson::as_str)
                .filter(|name| !name.eq_ignore_ascii_case("configureFailPoint"))
                .map(str::to_owned)
                .collect(),
            app_name: text("appName"),
            namespace: text("namespace"),
            actions: actions(data),
            unlabelled: unlabelled_code(data),
            is_overload: labels
                .filter_map(Bson::as_str)
                .any(|label| label == "SystemOverloadedError"),
        })
    }

    fn is_meant(&self, name: &str, target: &Target<'_>) -> bool {
        let mut commands = self.commands.iter();
        let is_namespace = |wanted: &String| {
            let field = if name.eq_ignore_ascii_case("getMore") {
                "collection"
            } else {
                name
            };
            let collection = target.command.get_str(field).unwrap_or_default();
            *wanted == format!("{}.{collection}", target.database)
        };
        commands.any(|one| one.eq_ignore_ascii_case(name))
            && (self.app_name.is_none() || self.app_name.as_deref() == target.app_name)
            && self.namespace.as_ref().is_none_or(is_namespace)
    }
}

/// The error of a command that takes longer than its `maxTimeMS`.
pub(crate) fn exceeded_time() -> ErrorReply {
    ErrorReply::new(50, "MaxTimeMSExpired", "operation exceeded time limit")
}

fn actions(data: &Document) -> Vec<Action> {
    let is_set = |name| data.get_bool(name).unwrap_or(false);
    let mut actions = Vec::new();
    if is_set("blockConnection") {
        let time = u64::try_from(size(data, "blockTimeMS").unwrap_or(0)).unwrap_or(u64::MAX);
        actions.push(Action::Delay(Duration::from_millis(time)));
    }
    let labels = data.get_array("errorLabels").ok();
    if is_set("closeConnection") {
        actions.push(Action::Reply(Document::new()));
        actions.push(Action::NoReply);
        actions.push(Action::Close);
    } else if let Some(code) = size(data, "errorCode") {
        let code = i32::try_from(code).unwrap_or(i32::MAX);
        let message = "Failing command via 'failCommand' failpoint";
        let mut error = ErrorReply::new(code, code_name(code), message);
        if let Some(labels) = labels {
            error = error.field("errorLabels", labels.clone());
        }
        actions.push(Action::Error(error));
    } else if let Ok(concern) = data.get_document("writeConcernError") {
        let mut fields = doc! {"writeConcernError": concern.clone()};
        if let Some(labels) = labels {
            fields.insert("errorLabels", labels.clone());
        }
        actions.push(Action::Merge(fields));
    }
    actions
}

/// The code of the error or write concern error; 0 if labels are configured.
fn unlabelled_code(data: &Document) -> i32 {
    let is_closing = data.get_bool("closeConnection").unwrap_or(false);
    if is_closing || data.contains_key("errorLabels") {
        return 0;
    }
    let concern = data.get_document("writeConcernError").ok();
    let code = size(data, "errorCode").or_else(|| size(concern?, "code"));
    code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0)
}

/// The names of the codes that drivers' tests use.
pub(crate) fn code_name(code: i32) -> &'static str {
    match code {
        6 => "HostUnreachable",
        7 => "HostNotFound",
        11 => "UserNotFound",
        18 => "AuthenticationFailed",
        50 => "MaxTimeMSExpired",
        64 => "WriteConcernFailed",
        89 => "NetworkTimeout",
        91 => "ShutdownInProgress",
        112 => "WriteConflict",
        134 => "ReadConcernMajorityNotAvailableYet",
        189 => "PrimarySteppedDown",
        251 => "NoSuchTransaction",
        262 => "ExceededTimeLimit",
        391 => "ReauthenticationRequired",
        462 => "IngressRequestRateLimitExceeded",
        9001 => "SocketException",
        10107 => "NotWritablePrimary",
        11600 => "InterruptedAtShutdown",
        11601 => "Interrupted",
        11602 => "InterruptedDueToReplStateChange",
        13435 => "NotPrimaryNoSecondaryOk",
        13436 => "NotPrimaryOrSecondary",
        _ => "FailPointError",
    }
}
