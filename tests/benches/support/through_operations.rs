//! Operations beside raw commands over the same pools, and beside the official driver.

use tokio::runtime::Runtime;

use crate::callgrind::{Load, instructions};
use crate::load::{Sample, Subject, measure};
use crate::operations::{Official, Operated, Operation};
use crate::server::Server;
use crate::setting::{
    BB8_OPERATIONS, BB8_POOLS, DEADPOOL_OPERATIONS, DEADPOOL_POOLS, OFFICIAL, Setting,
};
use crate::table::{Goal, Table};
use crate::worker::Worker;

const OFFICIAL_CURSOR: &str = "official driver, find";

const ROUNDS: usize = 9;
/// The operations of all tasks in one round of one subject.
const OPERATIONS: usize = 16_000;
const TASKS: usize = 16;

const TO_RAW: Goal = Goal {
    at_most: 1.15,
    is_kept: false,
};
const TO_OFFICIAL: Goal = Goal {
    at_most: 1.0 / 3.0,
    is_kept: false,
};

/// The official driver, with `find` by its cursor of raw documents.
#[derive(Clone)]
struct OfficialCursor(Official);

impl Worker for OfficialCursor {
    async fn operate(&mut self) {
        let things = self
            .0
            .database
            .collection::<mongodb::bson::RawDocumentBuf>("things");
        let find = things.find(mongodb::bson::doc! { "_id": 1 }).limit(1);
        let mut cursor = find.await.expect("a cursor");
        while cursor.advance().await.expect("a batch") {
            std::hint::black_box(cursor.current().to_owned());
        }
    }
}

pub(crate) fn compare_all(runtime: &Runtime, standalone: &Server, table: &mut Table) {
    let set = Server::start(3);
    for operation in [Operation::Ping, Operation::Find] {
        let alone = Setting::alone_with(standalone.ports()[0], TASKS, operation);
        let of_set = Setting {
            set: set.ports().to_vec(),
            ..Setting::alone_with(set.ports()[0], TASKS, operation)
        };
        compare(runtime, &alone, "a standalone", table);
        compare(runtime, &of_set, "a set of three", table);
    }
    table.heading("ping, 1 task, instructions under callgrind");
    for name in [
        DEADPOOL_POOLS,
        DEADPOOL_OPERATIONS,
        BB8_POOLS,
        BB8_OPERATIONS,
        OFFICIAL,
    ] {
        match instructions(name, Load::ALONE) {
            Some(count) => table.row(name, count, None),
            None => return println!("  skipped: valgrind could not run"),
        }
    }
}

async fn subjects(setting: &Setting) -> Vec<Subject> {
    let (deadpool, bb8) = (setting.deadpool_pools(), setting.bb8_pools());
    let official = setting.official().await;
    let mut subjects = vec![
        Subject::new(DEADPOOL_POOLS, vec![deadpool.clone(); TASKS]),
        Subject::new(DEADPOOL_OPERATIONS, vec![Operated(deadpool); TASKS]),
        Subject::new(BB8_POOLS, vec![bb8.clone(); TASKS]),
        Subject::new(BB8_OPERATIONS, vec![Operated(bb8); TASKS]),
    ];
    subjects.push(match setting.operation {
        Operation::Ping => Subject::new(OFFICIAL, vec![official; TASKS]),
        Operation::Find => Subject::new(OFFICIAL_CURSOR, vec![OfficialCursor(official); TASKS]),
    });
    subjects
}

fn compare(runtime: &Runtime, setting: &Setting, servers: &str, table: &mut Table) {
    let mut subjects = runtime.block_on(subjects(setting));
    measure(runtime, &mut subjects, ROUNDS, OPERATIONS / TASKS);
    let operation = match setting.operation {
        Operation::Ping => "ping",
        Operation::Find => "find one, by a cursor",
    };
    table.heading(&format!("{operation}: {TASKS} tasks, {servers}"));
    let cpu = |sample: &Sample| sample.cpu * 1e6;
    let official = &subjects[subjects.len() - 1];
    for (place, subject) in subjects.iter().enumerate() {
        let mut row = |what: &str, figure: f64, goal: Option<Goal>| {
            table.row(&format!("{}: {what}", subject.name), figure, goal);
        };
        row("CPU, µs", subject.median(cpu), None);
        if matches!(subject.name, DEADPOOL_OPERATIONS | BB8_OPERATIONS) {
            let raw = &subjects[place - 1];
            let to_raw = subject.ratio(raw, cpu);
            row("CPU, ratio to run_command", to_raw, Some(TO_RAW));
            let to_official = subject.ratio(official, cpu);
            row(
                "CPU, ratio to the official driver",
                to_official,
                Some(TO_OFFICIAL),
            );
        }
    }
}
