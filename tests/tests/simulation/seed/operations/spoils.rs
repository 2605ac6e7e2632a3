//! Faults of commands, and faults of deployments other than replica sets.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_testkit::{Action, Cut, Deployment, Matcher};

use super::super::chance::Chance;
use super::super::faults::Faults;
use super::super::log::Log;
use super::plan::Shape;

const COMMANDS: [&str; 6] = [
    "update",
    "findAndModify",
    "insert",
    "find",
    "getMore",
    "commitTransaction",
];

/// The faults of a run.
pub(super) struct Spoils {
    pub(super) set: Arc<Deployment>,
    shape: Shape,
    log: Log,
    /// Of a replica set.
    faults: Option<Faults>,
    routers: Mutex<Vec<Trouble>>,
}

/// The current faults of a mongos.
#[derive(Clone, Copy, Default)]
struct Trouble {
    is_down: bool,
    is_cut: bool,
    is_frozen: bool,
    is_slow: bool,
}

impl Spoils {
    pub(super) fn new(
        set: Arc<Deployment>,
        shape: Shape,
        log: Log,
        faults: Option<Faults>,
    ) -> Self {
        Self {
            routers: Mutex::new(vec![Trouble::default(); set.len()]),
            set,
            shape,
            log,
            faults,
        }
    }

    /// Injects one fault. Returns whether that was possible.
    pub(super) async fn inject(&self, chance: &mut Chance) -> bool {
        if chance.once_in(2) {
            return self.spoil(chance).await;
        }
        match &self.faults {
            Some(faults) => faults.inject(chance).await,
            None => self.trouble_router(chance).await,
        }
    }

    /// Ends all faults and all transactions.
    pub(super) async fn heal(&self, chance: &mut Chance) {
        if let Some(faults) = &self.faults {
            for member in 0..self.set.len() {
                self.set.configure_fail_point(
                    member,
                    &doc! {"configureFailPoint": "onPrimaryTransactionalWrite", "mode": "off"},
                );
            }
            faults.heal(chance).await;
            return;
        }
        for router in 0..self.set.len() {
            let server = self.set.server(router);
            server.script().clear();
            self.set.fail_commands(router, "off", doc! {});
            server.slow(Duration::ZERO);
            server.thaw();
            server.heal().await;
            let trouble = std::mem::take(&mut self.lock()[router]);
            if !trouble.is_down {
                self.set.kill(router).await;
            }
            self.set.restart(router).await;
        }
        self.log.write(format_args!("healed"));
    }

    async fn trouble_router(&self, chance: &mut Chance) -> bool {
        let router = chance.pick(&(0..self.set.len()).collect::<Vec<_>>());
        let server = self.set.server(router);
        let kind = chance.below(6);
        let mut trouble = self.lock()[router];
        match kind {
            0 | 1 => {
                trouble.is_down = !trouble.is_down;
                match trouble.is_down {
                    true => self.set.kill(router).await,
                    false => self.set.restart(router).await,
                }
            }
            2 => {
                trouble.is_frozen = !trouble.is_frozen;
                match trouble.is_frozen {
                    true => server.freeze(),
                    false => server.thaw(),
                }
            }
            // Behind a balancer it has no address of its own.
            3 if self.shape == Shape::Sharded => {
                trouble.is_cut = !trouble.is_cut;
                match trouble.is_cut {
                    true => server.partition().await,
                    false => server.heal().await,
                }
            }
            4 => {
                trouble.is_slow = !trouble.is_slow;
                server.slow(match trouble.is_slow {
                    true => chance.millis(5, 2000),
                    false => Duration::ZERO,
                });
            }
            _ => return false,
        }
        self.lock()[router] = trouble;
        self.log
            .write(format_args!("fault {kind} at mongos {router}"));
        true
    }

    /// Injects a fault of commands.
    async fn spoil(&self, chance: &mut Chance) -> bool {
        let member = match self.faults.as_ref().and_then(|_| self.set.primary()) {
            Some(primary) if !chance.once_in(4) => primary,
            _ => chance.pick(&(0..self.set.len()).collect::<Vec<_>>()),
        };
        let kind = chance.below(12);
        let command = chance.pick(&COMMANDS);
        let times = 1 + chance.below(3);
        match kind {
            0 => self.set.server(member).close_connections().await,
            1..=5 => self.fail(member, command, times, chance),
            6 if self.faults.is_some() => self.fail_writes(member, times, chance),
            _ => {
                let rule = Matcher::command(command).times(times);
                let rule = match kind {
                    // It is executed, and the reply is lost.
                    6..=8 => rule.then(Action::NoReply).then(Action::Close),
                    9 => rule.then(Action::NoReply),
                    10 => rule.then(Action::Keep(Cut::Half)).then(Action::Reset),
                    _ => rule.then(Action::Delay(chance.millis(1, 2500))),
                };
                self.set.server(member).script().add(rule);
            }
        }
        self.log.write(format_args!(
            "m{member}: spoil {kind} of {command}, {times}"
        ));
        true
    }

    fn fail(&self, member: usize, command: &str, times: u64, chance: &mut Chance) {
        let block = i64::try_from(chance.millis(1, 2000).as_millis()).unwrap_or_default();
        let mut data = match chance.below(6) {
            0 => doc! {"closeConnection": true},
            1 => doc! {"blockConnection": true, "blockTimeMS": block},
            2 => doc! {
                "errorCode": 462, "errorLabels": ["SystemOverloadedError", "RetryableError"],
            },
            3 => doc! {
                "writeConcernError": {"code": 91, "errmsg": "shutting down"},
                "errorLabels": ["RetryableWriteError"],
            },
            _ => {
                let codes = [10107, 13435, 11600, 11602, 91, 189, 6, 262, 112, 251];
                // The last two would say of a repeated commit that it had no effect.
                let end = codes.len() - 2 * usize::from(command == "commitTransaction");
                doc! {"errorCode": chance.pick(&codes[..end])}
            }
        };
        data.insert("failCommands", vec![command, "abortTransaction"]);
        let times = i32::try_from(times).unwrap_or(1);
        self.set.fail_commands(member, doc! {"times": times}, data);
    }

    /// Fails retryable writes after or before their execution.
    fn fail_writes(&self, member: usize, times: u64, chance: &mut Chance) {
        let times = i32::try_from(times).unwrap_or(1);
        let mut command = doc! {
            "configureFailPoint": "onPrimaryTransactionalWrite", "mode": {"times": times},
        };
        if chance.once_in(2) {
            let code = chance.pick(&[10107, 91, 112]);
            let data = doc! {
                "failBeforeCommitExceptionCode": code, "closeConnection": chance.once_in(2),
            };
            command.insert("data", data);
        }
        self.set.configure_fail_point(member, &command);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Trouble>> {
        self.routers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
