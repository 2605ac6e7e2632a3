//! The state machine alone.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document};

use super::*;
use crate::payload;

const NOW: DateTime = DateTime::from_millis(1_000_000);

fn set(kinds: &[MemberKind]) -> ReplicaSetState {
    let members = kinds.iter().enumerate().map(|(member, &kind)| {
        let entry = ConfigEntry {
            member,
            address: format!("m{member}:1"),
            kind,
            tags: Document::new(),
        };
        (entry, Process::new(ObjectId::from_bytes([0; 12])))
    });
    ReplicaSetState::new("rs", members, NOW)
}

fn three() -> ReplicaSetState {
    let mut set = set(&[MemberKind::Electable; 3]);
    set.elect(0);
    set
}

/// Whether a member's hello has this value.
fn is(set: &ReplicaSetState, member: usize, name: &str, value: impl Into<Bson>) -> bool {
    set.hello(member).get(name) == Some(&value.into())
}

fn counters(set: &ReplicaSetState) -> Vec<i64> {
    let counter = |member| set.process(member).counter;
    (0..set.len()).map(counter).collect()
}

#[test]
fn an_election_changes_every_hello_once() {
    let mut set = set(&[MemberKind::Electable; 3]);
    assert_eq!((set.primary(), counters(&set)), (None, vec![0; 3]));
    set.elect(0);
    assert_eq!((set.primary(), counters(&set)), (Some(0), vec![1; 3]));
    let id = |set: &ReplicaSetState, member| set.hello(member).get_object_id("electionId").unwrap();
    let first = id(&set, 0);
    set.elect(2);
    assert_eq!((set.primary(), counters(&set)), (Some(2), vec![2; 3]));
    assert_eq!(set.standing(0), Standing::Secondary);
    assert!(id(&set, 2) > first);
    assert!(!set.hello(0).contains_key("electionId"));
    for member in 0..3 {
        assert!(is(&set, member, "primary", "m2:1"));
    }
    // Nothing that a hello shows.
    set.set_lag(1, std::time::Duration::from_secs(5));
    set.wrote(2, NOW);
    assert_eq!(counters(&set), [2; 3]);
}

#[test]
fn an_isolated_primary_stays_primary_until_it_learns_of_its_successor() {
    let mut set = three();
    set.isolate(0);
    assert_eq!((set.primary(), set.standing(0)), (None, Standing::Primary));
    assert!(!set.hello(1).contains_key("primary"));
    set.elect(1);
    assert_eq!(set.primary(), Some(1));
    assert!(is(&set, 0, "primary", "m0:1"));
    assert_eq!(counters(&set), [1, 3, 3]);
    set.remove(2);
    assert!(is(&set, 0, "setVersion", 1));
    set.rejoin(0);
    assert_eq!(set.standing(0), Standing::Secondary);
    assert!(is(&set, 0, "setVersion", 2));
    assert!(is(&set, 0, "primary", "m1:1"));
}

#[test]
fn an_isolated_primary_without_a_successor_rejoins_as_primary() {
    let mut set = three();
    set.isolate(0);
    set.rejoin(0);
    assert_eq!(set.primary(), Some(0));
}

#[test]
fn a_killed_member_restarts_as_a_new_process() {
    let mut set = three();
    set.kill(0);
    assert_eq!(set.primary(), None);
    assert!(!set.hello(1).contains_key("primary"));
    set.restart(0, ObjectId::from_bytes([1; 12]));
    assert_eq!(
        (set.primary(), set.standing(0)),
        (None, Standing::Secondary)
    );
    assert_eq!(set.process(0).id.bytes(), [1; 12]);
    assert!(set.process(0).counter < 2);
}

#[test]
fn the_configuration_spreads_to_reachable_members() {
    let mut set = three();
    set.kill(2);
    set.rename(1, "other:1");
    set.remove(0);
    assert_eq!(set.standing(0), Standing::Removed);
    assert!(set.hello(0).get_bool("isreplicaset").unwrap());
    assert_eq!(set.primary(), None);
    set.restart(2, ObjectId::from_bytes([1; 12]));
    assert!(is(&set, 2, "hosts", vec!["other:1", "m2:1"]));
    let back = ConfigEntry {
        member: 0,
        address: "m0:1".to_owned(),
        kind: MemberKind::Hidden,
        tags: Document::new(),
    };
    let process = set.process(0).clone();
    set.add(back, process);
    assert_eq!(set.standing(0), Standing::Secondary);
    assert!(set.hello(0).get_bool("hidden").unwrap());
    assert!(is(&set, 2, "setVersion", 4));
}

#[test]
fn hellos_identify_the_server_type() {
    use MemberKind::{Arbiter, Electable, Hidden, Passive};
    let mut set = set(&[Electable, Passive, Hidden, Arbiter]);
    set.elect(0);
    for member in 0..4 {
        let hello = set.hello(member);
        for (list, address) in [
            ("hosts", "m0:1"),
            ("passives", "m1:1"),
            ("arbiters", "m3:1"),
        ] {
            assert!(is(&set, member, list, vec![address]));
        }
        assert_eq!(hello.contains_key("passive"), member == 1 || member == 2);
        assert_eq!(hello.contains_key("hidden"), member == 2);
        assert_eq!(hello.contains_key("arbiterOnly"), member == 3);
        assert_eq!(hello.contains_key("lastWrite"), member != 3);
        assert!(is(&set, member, "secondary", member == 1 || member == 2));
    }
}

#[test]
fn lag_shows_on_secondaries_only() {
    let mut set = three();
    for member in 0..3 {
        set.set_lag(member, std::time::Duration::from_secs(7));
    }
    let date = |member| {
        let hello = set.hello(member);
        let write = hello.get_document("lastWrite").unwrap();
        *write.get_datetime("lastWriteDate").unwrap()
    };
    assert_eq!(date(0), NOW);
    assert_eq!(date(1), DateTime::from_millis(993_000));
}

#[test]
fn elections_need_a_majority_and_an_eligible_member() {
    let mut set = set(&[
        MemberKind::Passive,
        MemberKind::Electable,
        MemberKind::Arbiter,
    ]);
    assert_eq!(set.candidate(NOW), Some(1));
    set.freeze_elections(1, Some(DateTime::from_millis(1_000_001)));
    assert_eq!(set.candidate(NOW), None);
    assert_eq!(set.candidate(DateTime::from_millis(1_000_001)), Some(1));
    set.freeze_elections(1, None);
    set.kill(0);
    assert_eq!(set.candidate(NOW), Some(1));
    set.kill(2);
    assert_eq!(set.candidate(NOW), None);
}

#[test]
#[should_panic(expected = "member 0 can't be elected")]
fn an_arbiter_is_never_elected() {
    set(&[MemberKind::Arbiter]).elect(0);
}

/// After any sequence of changes, connected members agree on one primary, which agrees too.
#[test]
fn no_sequence_of_changes_makes_two_connected_primaries() {
    for seed in 0..200 {
        let mut set = set(&[MemberKind::Electable; 5]);
        for step in payload::random_bytes(seed, 60) {
            let member = usize::from(step % 5);
            match step / 5 % 8 {
                0 | 1 if set.is_running(member) => {
                    set.set_recovering(member, false);
                    set.elect(member);
                }
                2 => set.step_down(member),
                3 => set.kill(member),
                4 => set.restart(member, ObjectId::from_bytes([step; 12])),
                5 => set.isolate(member),
                6 => set.rejoin(member),
                _ => set.set_recovering(member, step % 2 == 0),
            }
            let Some(primary) = set.primary() else {
                continue;
            };
            let address = format!("m{primary}:1");
            assert!(is(&set, primary, "isWritablePrimary", true), "{seed}");
            let agree = |&other: &usize| is(&set, other, "primary", address.as_str());
            let rivals = (0..set.len())
                .filter(agree)
                .filter(|&other| set.standing(other) == Standing::Primary);
            assert!(rivals.eq([primary]), "{seed}");
        }
    }
}
