//! `configureFailPoint: "failCommand"`, which drivers' tests use to make a server fail.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::action::{Action, ErrorReply, error_label};
use crate::commands::Outcome;
use crate::statement::{missing, size};

/// A server's one fail point.
#[derive(Debug, Default)]
pub(crate) struct FailPoint(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    setting: Option<Setting>,
    /// How often it was configured.
    version: u64,
    /// How often it was hit since the server started.
    hits: i32,
}

#[derive(Debug)]
struct Setting {
    /// Remaining hits without effect.
    skip: usize,
    /// Remaining hits with effect.
    times: usize,
    commands: Vec<String>,
    app_name: Option<String>,
    actions: Vec<Action>,
    /// The code of its error, if no labels are configured.
    unlabelled: i32,
}

impl FailPoint {
    /// Executes `configureFailPoint`.
    pub(crate) fn configure(&self, command: &Document) -> Outcome {
        let name = command.get_str("configureFailPoint").unwrap_or_default();
        if name != "failCommand" {
            let message = format!("there is no fail point '{name}'");
            return Err(ErrorReply::new(249, "FailPointSetFailed", &message));
        }
        let setting = Setting::read(command)?;
        let mut state = self.lock();
        state.setting = setting;
        state.version += 1;
        Ok(doc! {"count": state.hits})
    }

    /// Changes each time the fail point is configured.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Returns its actions on a command, and counts the hit.
    pub(crate) fn hit(&self, command: &Document, app_name: Option<&str>) -> Option<Vec<Action>> {
        let name = command.keys().next()?;
        let mut state = self.lock();
        let setting = state.setting.as_mut()?;
        let is_meant = setting
            .commands
            .iter()
            .any(|one| one.eq_ignore_ascii_case(name))
            && (setting.app_name.is_none() || setting.app_name.as_deref() == app_name);
        if !is_meant || setting.times == 0 {
            return None;
        }
        if setting.skip > 0 {
            setting.skip -= 1;
            return None;
        }
        setting.times = setting.times.saturating_sub(1);
        let mut actions = setting.actions.clone();
        if let Some(label) = error_label(setting.unlabelled, command) {
            let labels = vec![Bson::from(label)];
            actions.push(Action::Merge(doc! {"errorLabels": labels}));
        }
        state.hits = state.hits.saturating_add(1);
        Some(actions)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Setting {
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
        let data = command.get_document("data").map_err(|_| missing("data"))?;
        let commands = data
            .get_array("failCommands")
            .map_err(|_| missing("failCommands"))?;
        Ok(Some(Self {
            skip,
            times,
            commands: commands
                .iter()
                .filter_map(Bson::as_str)
                .filter(|name| !name.eq_ignore_ascii_case("configureFailPoint"))
                .map(str::to_owned)
                .collect(),
            app_name: data.get_str("appName").ok().map(str::to_owned),
            actions: actions(data),
            unlabelled: unlabelled_code(data),
        }))
    }
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
fn code_name(code: i32) -> &'static str {
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
        11602 => "InterruptedDueToReplStateChange",
        13435 => "NotPrimaryNoSecondaryOk",
        13436 => "NotPrimaryOrSecondary",
        _ => "FailPointError",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(mode: impl Into<Bson>) -> FailPoint {
        let point = FailPoint::default();
        let command = doc! {
            "configureFailPoint": "failCommand",
            "mode": mode.into(),
            "data": {"failCommands": ["find", "configureFailPoint"], "appName": "a", "errorCode": 91},
        };
        point.configure(&command).unwrap();
        point
    }

    fn hits(point: &FailPoint) -> Vec<bool> {
        let hit = |_| point.hit(&doc! {"find": 1}, Some("a")).is_some();
        (0..5).map(hit).collect()
    }

    #[test]
    fn each_mode_hits_the_right_commands() {
        assert_eq!(hits(&with("alwaysOn")), [true; 5]);
        assert_eq!(hits(&with("off")), [false; 5]);
        let times = [true, true, false, false, false];
        assert_eq!(hits(&with(doc! {"times": 2})), times);
        let skip = [false, false, true, true, true];
        assert_eq!(hits(&with(doc! {"skip": 2.0})), skip);
    }

    #[test]
    fn only_the_configured_commands_are_hit() {
        let point = with(doc! {"times": 1});
        assert!(point.hit(&doc! {"insert": 1}, Some("a")).is_none());
        assert!(point.hit(&doc! {"find": 1}, Some("b")).is_none());
        assert!(point.hit(&doc! {"find": 1}, None).is_none());
        assert!(
            point
                .hit(&doc! {"configureFailPoint": 1}, Some("a"))
                .is_none()
        );
        assert!(point.hit(&doc! {"FIND": 1}, Some("a")).is_some());
        let again = doc! {"configureFailPoint": "failCommand", "mode": "off"};
        assert_eq!(point.configure(&again).unwrap(), doc! {"count": 1});
    }

    #[test]
    fn an_error_is_labelled_unless_labels_are_set() {
        let labels = |data: Document, command: Document| {
            let mut whole = doc! {"failCommands": ["insert"]};
            whole.extend(data);
            let point = FailPoint::default();
            let command_of_it = doc! {
                "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": whole,
            };
            point.configure(&command_of_it).unwrap();
            let actions = point.hit(&command, None).unwrap();
            let is_label = |action: &Action| matches!(action, Action::Merge(fields) if fields.contains_key("errorLabels"));
            actions.iter().any(is_label)
        };
        let (write, plain) = (doc! {"insert": 1, "txnNumber": 1_i64}, doc! {"insert": 1});
        let concern = doc! {"writeConcernError": {"code": 91}};
        assert!(labels(doc! {"errorCode": 91}, write.clone()));
        assert!(labels(concern.clone(), write.clone()));
        assert!(!labels(concern, plain));
        assert!(!labels(doc! {"errorCode": 2}, write.clone()));
        assert!(!labels(
            doc! {"errorCode": 91, "errorLabels": []},
            write.clone()
        ));
        assert!(!labels(doc! {"closeConnection": true}, write));
    }

    #[test]
    fn the_label_depends_on_whether_a_transaction_is_open() {
        let (write, transient) = ("RetryableWriteError", "TransientTransactionError");
        let of = |code, name: &str| {
            error_label(
                code,
                &doc! {name: 1, "txnNumber": 1_i64, "autocommit": false},
            )
        };
        assert_eq!(of(10107, "insert"), Some(transient));
        assert_eq!(of(112, "insert"), Some(transient));
        assert_eq!(of(10107, "commitTransaction"), Some(write));
        assert_eq!(of(112, "commitTransaction"), None);
        assert_eq!(of(2, "insert"), None);
        assert_eq!(error_label(112, &doc! {"insert": 1, "txnNumber": 1}), None);
    }

    #[test]
    fn invalid_fail_points_are_refused() {
        let point = FailPoint::default();
        for command in [
            doc! {"configureFailPoint": "other", "mode": "off"},
            doc! {"configureFailPoint": "failCommand"},
            doc! {"configureFailPoint": "failCommand", "mode": {"activationProbability": 0.5}},
            doc! {"configureFailPoint": "failCommand", "mode": "alwaysOn"},
            doc! {"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": {}},
        ] {
            assert!(point.configure(&command).is_err(), "{command}");
        }
    }
}
