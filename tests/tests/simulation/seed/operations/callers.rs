//! Callers that run operations and transactions, and are cancelled at any moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::error::ErrorKind;
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::{Backend, Pools, Session};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{Error, Result};
use tokio::time::sleep;

use super::super::chance::Chance;
use super::super::pools::cut_short;
use super::journal::{ACCOUNTS, TOTAL};
use super::usage::Held;
use super::{CALM_LIMIT, Phase, World};

/// The largest amount of a transfer, in cents.
const MOST: u64 = 500;

pub(super) struct Caller<B: Backend> {
    pub(super) world: Arc<World>,
    pub(super) pools: Pools<B>,
    pub(super) number: u64,
}

/// A transfer between two accounts.
#[derive(Clone, Copy)]
struct Transfer {
    number: i64,
    accounts: [i32; 2],
    amount: i64,
    /// Whether it reads all balances first.
    reads: bool,
}

/// An explicit session. Its own commands name it in their comments.
struct Own<B: Backend> {
    number: i64,
    /// Dropped first: then the server session may be another one's.
    held: Option<Held>,
    session: Session<B>,
}

impl<B: Backend> Caller<B> {
    /// Runs until the run is over.
    pub(super) async fn run(self, mut chance: Chance) {
        while self.world.phase() != Phase::Over {
            match self.world.phase() {
                Phase::Trouble => self.act(&mut chance).await,
                Phase::Calm => self.act_calmly(&mut chance).await,
                Phase::Pause | Phase::Over => {}
            }
            sleep(chance.pick(&[0, 2, 20, 150].map(Duration::from_millis))).await;
        }
    }

    async fn act(&self, chance: &mut Chance) {
        let (is_cut, polls) = (chance.once_in(4), chance.pick(&[1, 2, 4, 7, 12, u64::MAX]));
        let time = Duration::from_millis(chance.pick(&[0, 3, 40, 400]));
        let action = async {
            match chance.below(12) {
                0..=3 => drop(self.push(None, None, chance).await),
                4 | 5 => self.read(None, chance).await,
                6 => self.use_session(chance).await,
                7..=9 => drop(self.transfer(chance, None).await),
                10 => self.transfer_by_hand(chance).await,
                _ => self.abandon(chance).await,
            }
        };
        if !is_cut {
            return action.await;
        }
        let outcome = cut_short(action, polls, time).await;
        let is_cut = outcome.is_none();
        let log = &self.world.log;
        log.write(format_args!("{} is cut: {is_cut}", self.number));
    }

    /// Without faults, all operations succeed.
    async fn act_calmly(&self, chance: &mut Chance) {
        let outcome = match chance.below(6) {
            0..=2 => self.push(None, Some(CALM_LIMIT), chance).await,
            3 => return self.read(Some(CALM_LIMIT), chance).await,
            4 => self.transfer(chance, Some(CALM_LIMIT)).await,
            _ => return self.abandon(chance).await,
        };
        self.world.log.require(
            outcome.is_ok() || self.world.phase() == Phase::Over,
            format_args!("all is well, but: {outcome:?}"),
        );
    }

    /// Appends a number to the caller's document.
    async fn push(
        &self,
        own: Option<&mut Own<B>>,
        limit: Option<Duration>,
        chance: &mut Chance,
    ) -> Result<()> {
        let world = &self.world;
        let number = world.next_number();
        world.journal.push_begins(self.number as i64, number);
        let filter = doc! {"_id": self.number as i64};
        let push = doc! {"$push": {"pushes": number}};
        let kind = chance.below(5);
        let command = match kind {
            0 | 1 => doc! {"findAndModify": "callers", "query": filter, "update": push},
            kind => doc! {
                "update": "callers", "updates": [{"q": filter, "u": push, "multi": kind == 4}],
            },
        };
        let mut write = self
            .pools
            .command("db", &command)
            .kind(OperationKind::Write)
            .comment(own.as_ref().map_or(number, |own| own.number));
        if kind == 4 {
            write = write.not_retryable();
        }
        if let Some(limit) = limit {
            write = write.timeout(limit);
        }
        if let Some(own) = own {
            write = write.session(&mut own.session);
        }
        let outcome = write.await;
        let outcome = outcome.and_then(|reply| {
            reply.check_write()?;
            let reply = reply.to_document()?;
            let n = reply.get_i32("n").or_else(|_| {
                let last = reply.get_document("lastErrorObject");
                last.and_then(|last| last.get_i32("n"))
            });
            world.log.require(
                n.is_ok_and(|n| n == 1),
                format_args!("push {number} has the reply {reply}"),
            );
            Ok(())
        });
        self.report("push", number, &outcome);
        if outcome.is_ok() {
            world.journal.push_is_done(number, world.is_safe);
        }
        outcome
    }

    /// Reads all accounts, in several batches. Transactions are whole.
    async fn read(&self, limit: Option<Duration>, chance: &mut Chance) {
        let world = &self.world;
        let number = world.next_number();
        let size = chance.pick(&[1, 2, 100]);
        let mut mode = chance.pick(&[ReadPreferenceMode::Primary, ReadPreferenceMode::Nearest]);
        if limit.is_some() {
            mode = ReadPreferenceMode::Primary;
        }
        let mut find = self
            .pools
            .command("db", &doc! {"find": "accounts", "batchSize": size})
            .kind(OperationKind::Read)
            .read_preference(ReadPreference::new(mode))
            .batch_size(chance.pick(&[1, 2, 100]))
            .comment(number);
        if let Some(limit) = limit {
            find = find.timeout(limit);
        }
        let (stops, closes) = (chance.below(8), chance.once_in(2));
        let outcome = async {
            let mut cursor = find.cursor().await?;
            let (mut sum, mut count) = (0, 0);
            while let Some(account) = cursor.next::<Document>().await? {
                sum += account.get_i64("balance").unwrap_or(0);
                count += 1;
                if count == stops {
                    if closes {
                        cursor.close().await;
                    }
                    return Ok(());
                }
            }
            world.log.require(
                sum == TOTAL,
                format_args!("read {number}: the sum of {count} accounts is {sum}"),
            );
            Ok(())
        }
        .await;
        self.report("read", number, &outcome);
        world.log.require(
            limit.is_none() || outcome.is_ok() || world.phase() == Phase::Over,
            format_args!("all is well, but: {outcome:?}"),
        );
    }

    fn start(&self, limit: Option<Duration>) -> Result<Own<B>> {
        let number = self.world.next_number();
        let mut options = SessionOptions::default();
        options.default_timeout = limit;
        let session = self.pools.start_session(options)?;
        Ok(Own {
            number,
            held: Some(self.world.usage.hold(session.id(), number)),
            session,
        })
    }

    /// Several operations with one session.
    async fn use_session(&self, chance: &mut Chance) {
        let Ok(mut own) = self.start(None) else {
            return;
        };
        for _ in 0..1 + chance.below(3) {
            if chance.once_in(3) {
                drop(self.transfer_with(&mut own, chance).await);
            } else {
                drop(self.push(Some(&mut own), None, chance).await);
            }
        }
    }

    /// A transfer by `with_transaction`.
    async fn transfer(&self, chance: &mut Chance, limit: Option<Duration>) -> Result<()> {
        let limit = limit.unwrap_or(Duration::from_millis(chance.pick(&[300, 2000, 6000])));
        let mut own = self.start(Some(limit))?;
        self.transfer_with(&mut own, chance).await
    }

    async fn transfer_with(&self, own: &mut Own<B>, chance: &mut Chance) -> Result<()> {
        let world = &self.world;
        let transfer = self.new_transfer(chance);
        let context = (self.world.clone(), self.pools.clone(), own.number, 0);
        let options = TransactionOptions::default();
        let outcome = own
            .session
            .with_boxed_transaction(options, context, move |session, context| {
                let (world, pools, comment, run) = context;
                *run += 1;
                let run = *run;
                Box::pin(async move {
                    for statement in 0..transfer.statements() {
                        let step = transfer.step(pools, session, statement, run, *comment);
                        check_step(world, step.await)?;
                    }
                    world.journal.transfer_commits(transfer.number);
                    Ok(())
                })
            })
            .await;
        self.report("transfer", transfer.number, &outcome);
        if outcome.is_ok() {
            let number = transfer.number;
            world.journal.transfer_is_done(number, world.is_safe);
        }
        outcome
    }

    /// A transfer that starts, commits or aborts its transaction itself.
    async fn transfer_by_hand(&self, chance: &mut Chance) {
        let Ok(mut own) = self.start(None) else {
            return;
        };
        for _ in 0..1 + chance.below(2) {
            let transfer = self.new_transfer(chance);
            let aborts = chance.once_in(4);
            let outcome = self.run_by_hand(&mut own, transfer, aborts).await;
            self.report("transfer by hand", transfer.number, &outcome);
        }
        if chance.once_in(2) {
            own.held = None;
            own.session.end().await;
        }
    }

    async fn run_by_hand(&self, own: &mut Own<B>, transfer: Transfer, aborts: bool) -> Result<()> {
        let world = &self.world;
        own.session
            .start_transaction(TransactionOptions::default())?;
        for statement in 0..transfer.statements() {
            let step = transfer.step(&self.pools, &mut own.session, statement, 1, own.number);
            if let Err(error) = check_step(world, step.await) {
                own.session.abort_transaction().await?;
                return Err(error);
            }
        }
        if aborts {
            return own.session.abort_transaction().await;
        }
        world.journal.transfer_commits(transfer.number);
        let mut outcome = own.session.commit_transaction().await;
        for _ in 0..3 {
            let is_unknown = |error: &Error| error.has_label("UnknownTransactionCommitResult");
            if !outcome.as_ref().is_err_and(is_unknown) {
                break;
            }
            outcome = own.session.commit_transaction().await;
        }
        if outcome.is_ok() {
            let number = transfer.number;
            world.journal.transfer_is_done(number, world.is_safe);
        }
        outcome
    }

    /// Half a transfer, whose session is dropped or ended.
    async fn abandon(&self, chance: &mut Chance) {
        let Ok(mut own) = self.start(None) else {
            return;
        };
        let transfer = self.new_transfer(chance);
        let begun = own.session.start_transaction(TransactionOptions::default());
        self.world
            .log
            .require(begun.is_ok(), format_args!("{begun:?}"));
        for statement in 0..1 + chance.below(2) {
            let step = transfer.step(&self.pools, &mut own.session, statement, 1, own.number);
            let outcome = check_step(&self.world, step.await);
            self.report("half a transfer", transfer.number, &outcome);
            if outcome.is_err() {
                break;
            }
        }
        if chance.once_in(4) {
            own.held = None;
            own.session.end().await;
        }
    }

    fn new_transfer(&self, chance: &mut Chance) -> Transfer {
        let number = self.world.next_number();
        self.world.journal.transfer_begins(number);
        let accounts = u64::try_from(ACCOUNTS).unwrap_or(1);
        let from = chance.below(accounts);
        let to = (from + 1 + chance.below(accounts - 1)) % accounts;
        Transfer {
            number,
            accounts: [from, to].map(|own| own as i32),
            amount: 1 + chance.below(MOST) as i64,
            reads: chance.once_in(3),
        }
    }

    fn report(&self, what: &str, number: i64, outcome: &Result<()>) {
        let world = &self.world;
        world.done.fetch_add(1, Ordering::Relaxed);
        let shown = outcome.as_ref().err().map(kind);
        let caller = self.number;
        world
            .log
            .write(format_args!("{caller}: {what} {number}: {shown:?}"));
        let Err(error) = outcome else {
            return;
        };
        let holds = match error.kind() {
            ErrorKind::PoolClosed | ErrorKind::TopologyClosed => world.phase() == Phase::Over,
            ErrorKind::Configuration(_) => error.to_string().contains("has left the deployment"),
            // A fault replaces the reply by random bytes, or repeats one. Operations that began then
            // end in the pause.
            ErrorKind::Protocol(_) => matches!(world.phase(), Phase::Trouble | Phase::Pause),
            ErrorKind::Deserialization(_) | ErrorKind::Serialization(_) => false,
            _ => true,
        };
        world
            .log
            .require(holds, format_args!("{what} {number}: {error:?}"));
    }
}

impl Transfer {
    fn statements(&self) -> u64 {
        4 + u64::from(self.reads)
    }

    /// Runs one statement. Returns the sum of all balances if it has read them.
    async fn step<B: Backend>(
        &self,
        pools: &Pools<B>,
        session: &mut Session<B>,
        statement: u64,
        run: i32,
        comment: i64,
    ) -> Result<Option<i64>> {
        let (half, sign) = match statement {
            0 | 1 => (0, -1),
            _ => (1, 1),
        };
        let (account, amount) = (self.accounts[half], sign * self.amount);
        let (number, run) = (self.number, i64::from(run));
        let command = match statement {
            0 | 2 => {
                let update = doc! {"$inc": {"balance": amount}};
                doc! {"update": "accounts", "updates": [{"q": {"_id": account}, "u": update}]}
            }
            1 | 3 => {
                let entry = doc! {
                    "_id": format!("{number}.{run}.{half}"),
                    "transfer": number, "run": run, "account": i64::from(account), "amount": amount,
                };
                doc! {"insert": "ledger", "documents": [entry]}
            }
            _ => {
                let find = doc! {"find": "accounts", "batchSize": 2};
                let find = pools.command("db", &find).kind(OperationKind::Read);
                let find = find.comment(comment).session(session);
                let mut cursor = find.cursor().await?;
                let mut sum = 0;
                while let Some(account) = cursor.next::<Document>().await? {
                    sum += account.get_i64("balance").unwrap_or(0);
                }
                return Ok(Some(sum));
            }
        };
        let write = pools.command("db", &command).kind(OperationKind::Write);
        let reply = write.comment(comment).session(session).await?;
        reply.check_write()?;
        Ok(None)
    }
}

fn check_step(world: &World, step: Result<Option<i64>>) -> Result<()> {
    if let Some(sum) = step? {
        world.log.require(
            sum == TOTAL,
            format_args!("a transaction sees a sum of {sum}"),
        );
    }
    Ok(())
}

/// An error without parts that differ between runs, such as object ids.
fn kind(error: &Error) -> String {
    let shown = format!("{:?}", error.kind());
    let end = shown.find(['(', ' ', '{']).unwrap_or(shown.len());
    format!("{} {:?}", &shown[..end], error.code())
}
