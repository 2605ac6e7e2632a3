//! Scripts: rules for unusual replies to requests, connections and conversations.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::Document;

use crate::action::{Action, Plan};

/// The moment at which a rule may apply.
#[derive(Clone, Debug)]
pub(crate) enum Event<'a> {
    /// A connection was accepted. No byte is read yet.
    Accept,
    /// The client has sent data. No byte is read yet.
    Readable,
    /// A command was read.
    Command(&'a str, &'a Document),
    /// A SCRAM conversation begins, by `saslStart` or speculatively in a hello.
    Scram,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum When {
    Accept,
    Readable,
    AnyCommand,
    Command(String),
    Hello,
    Scram,
}

type Condition = Arc<dyn Fn(&Document) -> bool + Send + Sync>;

/// Selects the events that a rule applies to. Create one with [`command`](Self::command) or its
/// siblings, narrow it down, and add actions with [`then`](Self::then).
#[derive(Clone)]
#[must_use]
pub struct Matcher {
    when: When,
    connection: Option<u64>,
    skip: u64,
    times: u64,
    condition: Option<Condition>,
}

impl Matcher {
    fn new(when: When) -> Self {
        Self {
            when,
            connection: None,
            skip: 0,
            times: u64::MAX,
            condition: None,
        }
    }

    /// Matches commands of this name, ignoring ASCII case.
    pub fn command(name: &str) -> Self {
        Self::new(When::Command(name.to_owned()))
    }

    /// Matches every command, including hello.
    pub fn any_command() -> Self {
        Self::new(When::AnyCommand)
    }

    /// Matches `hello` and its legacy names. Each reply of a streaming hello counts as one event.
    /// The rule is chosen before the server waits for a change, so a rule added during that wait
    /// applies to the reply after the next.
    pub fn hello() -> Self {
        Self::new(When::Hello)
    }

    /// Matches a connection that was just accepted. `Delay`, `WaitFor`, `Raw`, `Keep`, `Chunks`,
    /// `Close`, `Reset` and `Hang` have a meaning here.
    pub fn accept() -> Self {
        Self::new(When::Accept)
    }

    /// Matches a client that has sent data, before a byte of it is read. The same actions as for
    /// [`accept`](Self::accept) have a meaning here. Counts once for each message.
    pub fn before_read() -> Self {
        Self::new(When::Readable)
    }

    /// Matches the start of a SCRAM conversation, for [`Action::Scram`].
    pub fn scram() -> Self {
        Self::new(When::Scram)
    }

    /// Restricts the rule to the connection of this number. The first connection that the server
    /// accepts is 1.
    pub fn on_connection(mut self, number: u64) -> Self {
        self.connection = Some(number);
        self
    }

    /// Skips the first `count` matching events.
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Limits the rule to `count` events. The default is no limit.
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Limits the rule to one event.
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Restricts the rule to commands for which the condition holds. It never holds for other
    /// events.
    pub fn when(mut self, condition: impl Fn(&Document) -> bool + Send + Sync + 'static) -> Self {
        self.condition = Some(Arc::new(condition));
        self
    }

    /// Creates a rule that applies this action to matching events.
    pub fn then(self, action: Action) -> Rule {
        Rule {
            matcher: self,
            actions: vec![action],
        }
    }

    /// Creates a rule that closes the connection without executing or answering the command.
    pub fn drop_connection(self) -> Rule {
        self.then(Action::Reply(Document::new()))
            .then(Action::NoReply)
            .then(Action::Close)
    }

    /// Creates a rule that never answers and reads nothing more.
    pub fn never_answer(self) -> Rule {
        self.then(Action::Reply(Document::new()))
            .then(Action::NoReply)
            .then(Action::Hang)
    }

    fn matches(&self, connection: u64, event: &Event<'_>) -> bool {
        if self.connection.is_some_and(|wanted| wanted != connection) {
            return false;
        }
        let (fits, document) = match (&self.when, event) {
            (When::Accept, Event::Accept)
            | (When::Readable, Event::Readable)
            | (When::Scram, Event::Scram) => (true, None),
            (When::AnyCommand, Event::Command(_, command)) => (true, Some(*command)),
            (When::Command(wanted), Event::Command(name, command)) => {
                (wanted.eq_ignore_ascii_case(name), Some(*command))
            }
            (When::Hello, Event::Command(name, command)) => (is_hello(name), Some(*command)),
            _ => (false, None),
        };
        let holds = match (&self.condition, document) {
            (None, _) => true,
            (Some(condition), Some(document)) => condition(document),
            (Some(_), None) => false,
        };
        fits && holds
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("when", &self.when)
            .field("connection", &self.connection)
            .field("skip", &self.skip)
            .field("times", &self.times)
            .field("condition", &self.condition.is_some())
            .finish()
    }
}

pub(crate) fn is_hello(name: &str) -> bool {
    name.eq_ignore_ascii_case("hello") || name.eq_ignore_ascii_case("ismaster")
}

/// A matcher with its actions.
#[derive(Clone, Debug)]
#[must_use]
pub struct Rule {
    matcher: Matcher,
    actions: Vec<Action>,
}

impl Rule {
    /// Adds another action.
    pub fn then(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }
}

/// Identifies a rule in its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// A server's rules. Only the first rule, in the order of insertion, that matches and is not used
/// up applies. This is a handle: clones share the rules, which may change while the server runs.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Mutex<Rules>>);

#[derive(Debug, Default)]
struct Rules {
    next_id: u64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: RuleId,
    rule: Rule,
    /// Events that matched, including skipped ones.
    matched: u64,
    applied: u64,
}

impl Script {
    /// Adds a rule at the end.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut rules = self.lock();
        let id = RuleId(rules.next_id);
        rules.next_id += 1;
        rules.entries.push(Entry {
            id,
            rule,
            matched: 0,
            applied: 0,
        });
        id
    }

    /// Removes a rule. Actions in progress continue.
    pub fn remove(&self, id: RuleId) {
        self.lock().entries.retain(|entry| entry.id != id);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.lock().entries.clear();
    }

    /// How often a rule was applied; 0 if it was removed.
    pub fn applied(&self, id: RuleId) -> u64 {
        self.lock()
            .entries
            .iter()
            .find(|entry| entry.id == id)
            .map_or(0, |entry| entry.applied)
    }

    /// Returns the plan of the rule that applies now, and counts the event.
    pub(crate) fn plan(&self, connection: u64, event: &Event<'_>) -> Option<Plan> {
        let mut rules = self.lock();
        for entry in &mut rules.entries {
            let matcher = &entry.rule.matcher;
            if entry.applied >= matcher.times || !matcher.matches(connection, event) {
                continue;
            }
            entry.matched += 1;
            if entry.matched > matcher.skip {
                entry.applied += 1;
                return Some(Plan::of(&entry.rule.actions));
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn applies(script: &Script, connection: u64, name: &str) -> bool {
        script
            .plan(connection, &Event::Command(name, &doc! {name: 1}))
            .is_some()
    }

    #[test]
    fn a_rule_counts_its_events() {
        let script = Script::default();
        let id = script.add(
            Matcher::command("find")
                .after(1)
                .times(2)
                .then(Action::Close),
        );
        let seen: Vec<bool> = (0..5).map(|_| applies(&script, 1, "find")).collect();
        assert_eq!(seen, [false, true, true, false, false]);
        assert!(!applies(&script, 1, "insert"));
        assert_eq!(script.applied(id), 2);
    }

    #[test]
    fn the_first_remaining_rule_applies() {
        let script = Script::default();
        script.add(Matcher::command("find").once().then(Action::Copies(2)));
        script.add(
            Matcher::any_command()
                .on_connection(2)
                .then(Action::Copies(3)),
        );
        let copies = |connection| {
            script
                .plan(connection, &Event::Command("find", &doc! {}))
                .map(|plan| plan.copies)
        };
        assert_eq!(copies(2), Some(2));
        assert_eq!(copies(1), None);
        assert_eq!(copies(2), Some(3));
    }

    #[test]
    fn conditions_see_the_command() {
        let script = Script::default();
        script.add(
            Matcher::any_command()
                .when(|command| command.contains_key("x"))
                .then(Action::Close),
        );
        assert!(
            script
                .plan(1, &Event::Command("a", &doc! {"a": 1, "x": 1}))
                .is_some()
        );
        assert!(
            script
                .plan(1, &Event::Command("a", &doc! {"a": 1}))
                .is_none()
        );
        assert!(script.plan(1, &Event::Accept).is_none());
    }

    #[test]
    fn hello_has_three_names() {
        let script = Script::default();
        script.add(Matcher::hello().then(Action::Close));
        assert!(applies(&script, 1, "hello"));
        assert!(applies(&script, 1, "isMaster"));
        assert!(applies(&script, 1, "ismaster"));
        assert!(!applies(&script, 1, "ping"));
    }
}
