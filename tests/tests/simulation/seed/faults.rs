//! The faults of a run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{DateTime, doc};
use mongo_core::bson;
use mongo_testkit::{
    Action, ConfigEntry, Cut, Deployment, ErrorReply, Matcher, MemberKind, ReplicaSetState, Rule,
    SimNetwork, Standing, payload,
};
use tokio::time::Instant;

use super::chance::Chance;
use super::log::Log;
use super::observer::Versions;

/// The longest delay of a server and the longest latency.
pub(super) const SLOWEST: Duration = Duration::from_secs(2);

/// The start of the deployment's wall clock.
const EPOCH: i64 = 1_767_225_600_000;

/// The current faults of a member.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    pub(super) is_down: bool,
    pub(super) is_cut: bool,
    pub(super) is_frozen: bool,
    is_isolated: bool,
    is_recovering: bool,
    is_slow: bool,
}

pub(super) struct Faults {
    pub(super) set: Arc<Deployment>,
    network: SimNetwork,
    pub(super) log: Log,
    versions: Versions,
    /// Members without data and users. They can't change their kind.
    arbiters: Vec<bool>,
    troubles: Mutex<Vec<Trouble>>,
    start: Instant,
}

impl Faults {
    pub(super) fn new(
        set: Arc<Deployment>,
        network: SimNetwork,
        log: Log,
        versions: Versions,
    ) -> Self {
        let troubles = vec![Trouble::default(); set.len()];
        let arbiters = set.look_at_set(|state| {
            let entry = |member| state.config(member).entry(member);
            let kinds = (0..state.len()).map(|member| entry(member).map(|own| own.kind));
            kinds
                .map(|kind| kind == Some(MemberKind::Arbiter))
                .collect()
        });
        Self {
            set,
            arbiters,
            network,
            log,
            versions,
            troubles: Mutex::new(troubles),
            start: Instant::now(),
        }
    }

    pub(super) fn trouble(&self, member: usize) -> Trouble {
        self.lock()[member]
    }

    /// Injects one fault. Returns whether that was possible.
    pub(super) async fn inject(&self, chance: &mut Chance) -> bool {
        let member = chance.pick(&(0..self.set.len()).collect::<Vec<_>>());
        let kind = chance.below(24);
        let done = match kind {
            0 | 1 => self.toggle_cut(member).await,
            2 => self.toggle_freeze(member),
            3 | 4 => self.toggle_process(member).await,
            5 => self.toggle_isolation(member),
            6..=8 => self.elect(chance).is_some(),
            9 => self.step_down(),
            10 | 11 => self.split(chance),
            12 => self.toggle_membership(member),
            13 => self.rename(member, chance),
            14 => self.reconfigure(member, chance),
            15 => self.toggle_recovery(member),
            16 => self.slow(member, chance),
            17 => self.upgrade(member, chance),
            18 => self.write(member, chance),
            _ => self.misanswer(member, chance),
        };
        if done {
            self.log.write(format_args!("fault {kind} at m{member}"));
        }
        done
    }

    async fn toggle_cut(&self, member: usize) -> bool {
        let is_cut = self.toggle(member, |trouble| &mut trouble.is_cut);
        match is_cut {
            true => self.set.server(member).partition().await,
            false => self.set.server(member).heal().await,
        }
        true
    }

    fn toggle_freeze(&self, member: usize) -> bool {
        match self.toggle(member, |trouble| &mut trouble.is_frozen) {
            true => self.set.server(member).freeze(),
            false => self.set.server(member).thaw(),
        }
        true
    }

    async fn toggle_process(&self, member: usize) -> bool {
        match self.toggle(member, |trouble| &mut trouble.is_down) {
            true => self.set.kill(member).await,
            false => self.set.restart(member).await,
        }
        true
    }

    fn toggle_isolation(&self, member: usize) -> bool {
        let is_isolated = self.toggle(member, |trouble| &mut trouble.is_isolated);
        self.set.change_set(|set| match is_isolated {
            true => set.isolate(member),
            false => set.rejoin(member),
        });
        true
    }

    fn toggle_recovery(&self, member: usize) -> bool {
        let recovers = self.toggle(member, |trouble| &mut trouble.is_recovering);
        self.set
            .change_set(|set| set.set_recovering(member, recovers));
        true
    }

    /// Elects a connected member that is not primary.
    pub(super) fn elect(&self, chance: &mut Chance) -> Option<usize> {
        let troubles = self.lock().clone();
        let may = |&member: &usize| {
            let trouble = troubles[member];
            !trouble.is_down
                && !trouble.is_isolated
                && self.set.look_at_set(|set| {
                    let entry = set.config(member).entry(member);
                    entry.is_some_and(|entry| entry.kind == MemberKind::Electable)
                        && set.standing(member) == Standing::Secondary
                })
        };
        let candidates: Vec<_> = (0..self.set.len()).filter(may).collect();
        let elected = (!candidates.is_empty()).then(|| chance.pick(&candidates))?;
        self.set.elect(elected);
        self.log.write(format_args!("m{elected} is elected"));
        Some(elected)
    }

    fn step_down(&self) -> bool {
        let primary = self.set.primary();
        if let Some(primary) = primary {
            self.set.step_down(primary);
        }
        primary.is_some()
    }

    /// Isolates a primary, which does not learn of its successor.
    fn split(&self, chance: &mut Chance) -> bool {
        let Some(primary) = self.set.primary() else {
            return false;
        };
        self.lock()[primary].is_isolated = true;
        self.set.change_set(|set| set.isolate(primary));
        self.elect(chance);
        true
    }

    /// The current configuration.
    fn config(&self) -> Vec<ConfigEntry> {
        let troubles = self.lock().clone();
        self.set.look_at_set(|set: &ReplicaSetState| {
            let hears = |member: usize| !troubles[member].is_down && !troubles[member].is_isolated;
            let newest =
                (0..set.len()).max_by_key(|&member| (hears(member), set.config(member).version));
            newest.map_or_else(Vec::new, |member| set.config(member).entries.clone())
        })
    }

    /// The first member stays, under its name. Otherwise a client may lose all members.
    fn toggle_membership(&self, member: usize) -> bool {
        let config = self.config();
        let is_in = config.iter().any(|entry| entry.member == member);
        if member == 0 || is_in && config.len() <= 3 {
            return false;
        }
        if is_in {
            self.set.remove(member);
            return true;
        }
        let kind = match self.arbiters[member] {
            true => MemberKind::Arbiter,
            false => MemberKind::Electable,
        };
        self.set.change_set(|set| {
            let process = set.process(member).clone();
            let entry = ConfigEntry {
                member,
                address: format!("m{member}.test:27017"),
                kind,
                tags: doc! {"rack": "a"},
            };
            set.add(entry, process);
        });
        true
    }

    fn rename(&self, member: usize, chance: &mut Chance) -> bool {
        let is_in = self.config().iter().any(|entry| entry.member == member);
        if member == 0 || !is_in {
            return false;
        }
        let name = format!("x{}-m{member}.test:27017", chance.below(3));
        self.set.rename(member, &name);
        true
    }

    fn reconfigure(&self, member: usize, chance: &mut Chance) -> bool {
        let is_in = self.config().iter().any(|entry| entry.member == member);
        let rack = chance.pick(&["a", "b", "c"]);
        self.set.change_set(|set| match is_in {
            true => set.set_tags(member, doc! {"rack": rack}),
            false => set.reconfigure(|_| {}),
        });
        true
    }

    fn slow(&self, member: usize, chance: &mut Chance) -> bool {
        if chance.once_in(3) {
            let most = chance.pick(&[2, 30, 500, 2000]);
            self.network
                .set_latency(Duration::from_micros(100), Duration::from_millis(most));
            return true;
        }
        let is_slow = self.toggle(member, |trouble| &mut trouble.is_slow);
        let delay = if is_slow {
            chance.millis(5, 2000)
        } else {
            Duration::ZERO
        };
        self.set.server(member).slow(delay);
        true
    }

    fn upgrade(&self, member: usize, chance: &mut Chance) -> bool {
        let versions = match self.versions {
            Versions::SetVersionFirst => &[13, 14][..],
            Versions::ElectionIdFirst => &[17, 21, 25],
            Versions::Mixed => &[9, 13, 17, 25],
        };
        self.set.upgrade(member, 0, chance.pick(versions));
        true
    }

    /// A write, and a member that lags behind.
    fn write(&self, member: usize, chance: &mut Chance) -> bool {
        let now = self.now();
        self.set.set_lag(member, chance.millis(0, 200_000));
        let primary = self.set.primary();
        self.set.change_set(|set| {
            if let Some(primary) = primary {
                set.wrote(primary, now);
            }
        });
        true
    }

    fn now(&self) -> DateTime {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(0);
        DateTime::from_millis(EPOCH + elapsed)
    }

    /// Makes the next hello replies of a member lost, duplicated, late, invalid or false.
    fn misanswer(&self, member: usize, chance: &mut Chance) -> bool {
        let hello = Matcher::hello().times(1 + chance.below(2));
        let rule = match chance.below(10) {
            0 => hello.then(Action::NoReply),
            1 => hello.then(Action::Copies(2)),
            2 => hello.then(Action::Delay(chance.millis(1, 2000))),
            3 => hello.then(Action::Hang),
            4 => hello.drop_connection(),
            5 => hello.then(Action::Reset),
            // An arbiter was never primary.
            6 | 7 if !self.arbiters[member] => self.lie(hello, chance),
            8 => self.skew(hello, chance),
            _ => garbage(hello, chance),
        };
        self.set.server(member).script().add(rule);
        true
    }

    /// A hello of a former primary that does not know its successor.
    fn lie(&self, hello: Matcher, chance: &mut Chance) -> Rule {
        let newest = (0..self.set.len()).filter_map(|member| {
            let hello = self.set.hello(member);
            hello.get_object_id("electionId").ok()
        });
        let mut past = newest
            .max()
            .unwrap_or_else(|| ReplicaSetState::election_id(1));
        let mut bytes = past.bytes();
        bytes[11] = bytes[11].saturating_sub(1 + chance.pick(&[0, 1, 5]));
        past = bson::oid::ObjectId::from_bytes(bytes);
        let lie = doc! {"isWritablePrimary": true, "secondary": false, "electionId": past};
        let rule = hello.then(Action::Merge(lie));
        match chance.below(4) {
            0 => rule.then(Action::Remove("electionId".to_owned())),
            1 => rule.then(Action::Merge(doc! {"setVersion": 1})),
            2 => rule.then(Action::Remove("setVersion".to_owned())),
            _ => rule,
        }
    }

    /// A hello from a clock that is days off.
    fn skew(&self, hello: Matcher, chance: &mut Chance) -> Rule {
        let days = i64::try_from(chance.below(7)).unwrap_or(0) - 3;
        let date = DateTime::from_millis(self.now().timestamp_millis() + days * 86_400_000);
        hello.then(Action::Merge(doc! {"lastWrite": {"lastWriteDate": date}}))
    }

    /// Ends all faults. Hello replies that are already lost stay lost. Elects a primary and returns
    /// it.
    pub(super) async fn heal(&self, chance: &mut Chance) -> usize {
        self.network
            .set_latency(Duration::from_micros(100), Duration::from_millis(2));
        for member in 0..self.set.len() {
            let server = self.set.server(member);
            server.script().clear();
            self.set.fail_commands(member, "off", doc! {});
            server.slow(Duration::ZERO);
            server.thaw();
            server.heal().await;
            if self.trouble(member).is_down {
                self.set.restart(member).await;
            }
            self.set.change_set(|set| {
                set.rejoin(member);
                set.set_recovering(member, false);
            });
            self.lock()[member] = Trouble::default();
        }
        if self.versions == Versions::Mixed {
            (0..self.set.len()).for_each(|member| self.set.upgrade(member, 0, 25));
        }
        self.log.write(format_args!("healed"));
        self.elect(chance)
            .expect("the first member, or a non-primary, can be elected")
    }

    fn toggle(&self, member: usize, what: impl Fn(&mut Trouble) -> &mut bool) -> bool {
        let mut troubles = self.lock();
        let own = what(&mut troubles[member]);
        *own = !*own;
        *own
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn garbage(hello: Matcher, chance: &mut Chance) -> Rule {
    let size = usize::try_from(chance.below(80)).unwrap_or(0);
    let bytes = payload::random_bytes(chance.next(), size);
    hello.then(match chance.below(9) {
        0 => Action::Body(bytes),
        1 => Action::Raw(bytes),
        2 => Action::Length(i32::MAX),
        3 => Action::Length(-1),
        4 => Action::Keep(Cut::Half),
        5 => Action::ResponseTo(7),
        6 => Action::Reply(doc! {}),
        7 => Action::Merge(doc! {"setVersion": "one", "hosts": 7}),
        _ => Action::Error(ErrorReply::new(91, "ShutdownInProgress", "going down")),
    })
}
