//! Callers that check out connections, use them, and are cancelled at any moment.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::pools::{Backend, PinReason, PooledConnection};
use mongo_core::{Connection, Deadline, Error, ServerAddress};
use tokio::time::{Instant, sleep};

use super::super::chance::Chance;
use super::super::rules::Want;
use super::seats::Sitting;
use super::shocks::hold;
use super::{CALM_LIMIT, Phase, World};

/// The granularity of timers is a millisecond.
const TICK: Duration = Duration::from_millis(2);

/// Drops a future that is still pending after a number of polls, or at a time.
pub(in super::super) async fn cut_short<F: Future>(
    future: F,
    polls: u64,
    time: Duration,
) -> Option<F::Output> {
    let (mut future, mut time) = (pin!(future), pin!(sleep(time)));
    let mut left = polls;
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        left = left.saturating_sub(1);
        match left == 0 || time.as_mut().poll(context).is_ready() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    })
    .await
}

pub(super) struct Caller<B: Backend> {
    pub(super) world: Arc<World<B>>,
}

/// One check-out.
struct Asked<B: Backend> {
    sitting: Sitting<B>,
    seat: usize,
    want: Want,
    /// The server, if requested by its address.
    server: Option<ServerAddress>,
    limit: Duration,
}

impl<B: Backend> Caller<B> {
    /// Runs until the run is over.
    pub(super) async fn run(&self, mut chance: Chance) {
        while self.world.phase() != Phase::Over {
            match self.world.phase() == Phase::Calm {
                true => self.call_calmly(&mut chance).await,
                false => self.call(&mut chance).await,
            }
        }
    }

    async fn call(&self, chance: &mut Chance) {
        let known = self.world.known_servers();
        let seat = chance.pick(&[0, 0, 1, 1, 2, 2, 3]);
        let server = (!known.is_empty() && chance.once_in(8))
            .then(|| known[chance.below(known.len() as u64) as usize].clone());
        let asked = Asked {
            sitting: self.world.seats[seat].look(),
            seat,
            want: match chance.once_in(2) {
                true => Want::write(),
                false => Want::any(chance, &known),
            },
            server,
            limit: Duration::from_millis(chance.pick(&[1, 20, 400, 3000, 10_000])),
        };
        let polls = chance.below(12);
        if polls > 8 {
            let (polls, time) = (polls - 8, chance.millis(1, 3000));
            self.world.log.write(format_args!("a check-out is held"));
            return hold(&self.world.shocks, self.check_out(&asked), polls, time).await;
        }
        let got = match polls < 4 {
            true => {
                let time = chance.pick(&[0, 3, 50, 1000]);
                let polls = chance.pick(&[1, 2, 3, 5, 9, u64::MAX]);
                cut_short(self.check_out(&asked), polls, Duration::from_millis(time)).await
            }
            false => Some(self.check_out(&asked).await),
        };
        match got {
            Some(Some(connection)) => self.use_up(connection, &asked, chance).await,
            Some(None) => {}
            None => self
                .world
                .log
                .write(format_args!("a check-out was cancelled")),
        }
        sleep(chance.pick(&[0, 1, 5, 40, 300].map(Duration::from_millis))).await;
    }

    /// Without faults, all callers are served.
    async fn call_calmly(&self, chance: &mut Chance) {
        let seat = chance.pick(&[0, 1, 2]);
        let asked = Asked {
            sitting: self.world.seats[seat].look(),
            seat,
            want: Want::write(),
            server: None,
            limit: CALM_LIMIT,
        };
        let connection = self.check_out(&asked).await;
        self.world.log.require(
            connection.is_some() || asked.sitting.is_out() || self.world.phase() == Phase::Over,
            format_args!("all is well, and {} got no connection", asked.sitting.user),
        );
        if let Some(mut connection) = connection {
            self.echo(&mut connection, CALM_LIMIT).await;
            sleep(chance.millis(0, 20)).await;
        }
        sleep(chance.millis(1, 30)).await;
    }

    async fn check_out(&self, asked: &Asked<B>) -> Option<PooledConnection<B>> {
        let world = &self.world;
        let start = Instant::now();
        let deadline = Deadline::after(asked.limit);
        let pools = &asked.sitting.pools;
        let outcome = match &asked.server {
            Some(address) => match pools.for_server(address) {
                Ok(pool) => pool.get(deadline).await,
                Err(error) => Err(error),
            },
            None => {
                let criterion = asked.want.criterion();
                pools
                    .get_by(deadline, &criterion, &asked.want.deprioritized)
                    .await
            }
        };
        let (took, limit) = (start.elapsed(), asked.limit);
        world.asked.fetch_add(1, Ordering::Relaxed);
        world.log.require(
            took <= limit + TICK,
            format_args!("a check-out took {took:?} of {limit:?}"),
        );
        match outcome {
            Ok(connection) => {
                let (server, user, id) = (connection.server(), connection.user(), connection.id());
                world
                    .log
                    .write(format_args!("got {server} {user:?} {id} in {took:?}"));
                self.check(asked, &connection);
                Some(connection)
            }
            Err(error) => {
                world
                    .log
                    .write(format_args!("got none in {took:?}: {}", kind(&error)));
                self.check_error(asked, &error);
                None
            }
        }
    }

    /// No other task has run since: the outcome is from this snapshot.
    fn check(&self, asked: &Asked<B>, connection: &Connection) {
        let world = &self.world;
        let known = world.topology.description();
        let suitable = match &asked.server {
            Some(address) => vec![address],
            None => {
                let suitable = asked.want.all_suitable(&known, world.heartbeat_frequency);
                suitable.into_iter().map(|one| &one.address).collect()
            }
        };
        let server = connection.server();
        world.log.require(
            suitable.contains(&server),
            format_args!(
                "{server} was handed out, not of {suitable:?}: {:?}",
                asked.want
            ),
        );
        // After a rotation during the check-out, either user is right.
        let now = world.seats[asked.seat].look().user;
        let user = connection.user();
        world.log.require(
            user == Some(asked.sitting.user) || user == Some(now),
            format_args!("{user:?} was handed out, for {}", asked.sitting.user),
        );
        world.log.require(
            asked.sitting.is_known(),
            format_args!("{user:?} is an unknown user, but has a connection"),
        );
        world.log.require(
            !connection.is_stale() && !connection.is_closed(),
            format_args!("{connection:?} was handed out"),
        );
    }

    fn check_error(&self, asked: &Asked<B>, error: &Error) {
        let world = &self.world;
        let holds = match error.kind() {
            ErrorKind::PoolClosed => {
                let turns = world.seats[asked.seat].look().turns;
                asked.server.is_some()
                    || asked.sitting.is_out()
                    || asked.sitting.turns != turns
                    || world.phase() == Phase::Over
            }
            // A caller of a server pool does not reselect.
            ErrorKind::PoolCleared => true,
            ErrorKind::Configuration(_) => asked.server.is_some(),
            ErrorKind::ServerSelection(_) => {
                let known = world.topology.description();
                let suitable = asked.want.all_suitable(&known, world.heartbeat_frequency);
                suitable.is_empty()
            }
            ErrorKind::TopologyClosed => world.phase() == Phase::Over,
            ErrorKind::Pool(_)
            | ErrorKind::Cancelled
            | ErrorKind::NotWritable
            | ErrorKind::ConnectionClosed(_) => false,
            _ => true,
        };
        world.log.require(
            holds,
            format_args!("{:?} for {}: {error:?}", asked.want, asked.sitting.user),
        );
    }

    /// Runs some commands, and returns the connection in one of several ways.
    async fn use_up(
        &self,
        mut connection: PooledConnection<B>,
        asked: &Asked<B>,
        chance: &mut Chance,
    ) {
        let writes = asked.server.is_none() && asked.want.is_write();
        for _ in 0..chance.below(4) {
            let limit = Duration::from_millis(chance.pick(&[1, 5, 100, 1500]));
            match chance.below(8) {
                0..=2 => self.echo(&mut connection, limit).await,
                3 => self.ask_who(&mut connection, limit).await,
                4 => {
                    let polls = chance.pick(&[1, 2, 3, u64::MAX]);
                    let time = chance.pick(&[0, 1, 4]);
                    let echo = self.echo(&mut connection, limit);
                    cut_short(echo, polls, Duration::from_millis(time)).await;
                }
                5 => {
                    connection.pin(chance.pick(&[PinReason::Cursor, PinReason::Transaction]));
                    sleep(chance.millis(0, 1500)).await;
                }
                _ if writes => self.write(&mut connection, limit).await,
                _ => sleep(chance.millis(0, 100)).await,
            }
        }
        if chance.once_in(10) {
            let mut connection = PooledConnection::detach(connection);
            self.world.detached(&connection);
            self.echo(&mut connection, Duration::from_millis(100)).await;
            sleep(chance.millis(0, 500)).await;
        }
    }

    /// Checks that the reply belongs to the request.
    async fn echo(&self, connection: &mut Connection, limit: Duration) {
        let number = self.world.next_number();
        let echo = doc! {"echo": number};
        let start = Instant::now();
        let reply = connection.run_command_by(limit, "db", &echo).await;
        let answer = reply.map(|reply| reply.get_i64("echo").ok());
        let took = start.elapsed();
        self.world.log.require(
            took <= limit + TICK,
            format_args!("a command took {took:?} of {limit:?}"),
        );
        match answer {
            Ok(answer) => self.world.log.require(
                answer == Some(number),
                format_args!("the reply to {number} is {answer:?}"),
            ),
            Err(error) => self
                .world
                .log
                .write(format_args!("no echo: {}", kind(&error))),
        }
    }

    /// Checks that the server knows the connection's user.
    async fn ask_who(&self, connection: &mut Connection, limit: Duration) {
        let user = connection.user().map(str::to_owned);
        let status = doc! {"connectionStatus": 1};
        let reply = connection.run_command_by(limit, "admin", &status).await;
        if let Ok(Ok(reply)) = reply.map(|reply| reply.to_document()) {
            let told = reply.get_document("authInfo").ok();
            let users = told.and_then(|told| told.get_array("authenticatedUsers").ok());
            let first = users.and_then(|users| users.first()?.as_document()?.get_str("user").ok());
            self.world.log.require(
                first == user.as_deref(),
                format_args!("{user:?} is {first:?} to the server"),
            );
        }
    }

    /// Checks that no write is sent to a server that is known not to be primary.
    async fn write(&self, connection: &mut Connection, limit: Duration) {
        let world = &self.world;
        let number = world.next_number();
        let server = connection.server().clone();
        let may_be_primary = world.may_take_writes(&server);
        let insert = doc! {"insert": "c", "documents": [{"_id": number}]};
        let outcome = connection.run_command_by(limit, "db", &insert).await;
        let error = outcome.map(drop).err();
        let is_refused = error.as_ref().is_some_and(|error| {
            matches!(
                error.kind(),
                ErrorKind::NotWritable
                    | ErrorKind::ConnectionClosed(_)
                    | ErrorKind::Timeout { .. }
                    | ErrorKind::Network(_)
            )
        });
        if !may_be_primary {
            world.forbid(number);
            world.log.require(
                is_refused,
                format_args!("{server} is not primary, but was written to: {error:?}"),
            );
        }
    }
}

/// An error without parts that differ between runs, such as object ids.
fn kind(error: &Error) -> String {
    let shown = format!("{:?}", error.kind());
    let end = shown.find(['(', ' ', '{']).unwrap_or(shown.len());
    shown[..end].to_owned()
}
