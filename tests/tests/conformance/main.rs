//! The JSON tests of the MongoDB driver specifications, each case a test of its own.
//!
//! They are read from `MONGODB_SPECIFICATIONS`, by default `../shared/specifications` from the
//! workspace root, in the layout of upstream's `source/`. If that folder is missing, all cases are
//! skipped, and a message says so at the end. `MONGODB_SPECIFICATIONS_REQUIRED=1` makes that a
//! failure.

mod cmap;
mod concern;
mod credential;
mod inapplicable;
mod options;
#[path = "../common/over_sim.rs"]
mod over_sim;
mod round_trip_time;
mod sdam;
mod sdam_events;
mod selection;
mod srv;
mod suites;
mod unified;
mod uri;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use mongo_core::ClientOptions;
use mongo_testkit::RealServer;
use serde_json::Value;
use suites::{SUITES, Suite};

/// The result of a case, with the message of a failure.
type Outcome = Result<(), String>;

/// A case and its name, `suite/subfolder/file/description`.
struct Case {
    name: String,
    content: Value,
    run: fn(&Value) -> Outcome,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    unified::install();
    let root = specifications();
    if !root.is_dir() {
        let _nothing_ran = libtest_mimic::run(&arguments, Vec::new());
        return left_out(&root);
    }
    libtest_mimic::run(&arguments, trials(&root)).exit_code()
}

fn specifications() -> PathBuf {
    match env::var_os("MONGODB_SPECIFICATIONS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/specifications"),
    }
}

fn left_out(root: &Path) -> ExitCode {
    let required = env::var("MONGODB_SPECIFICATIONS_REQUIRED").is_ok_and(|value| value == "1");
    let cases: usize = SUITES.iter().map(|suite| suite.cases).sum();
    eprintln!(
        "\n*** CONFORMANCE WAS SKIPPED: {cases} cases of the MongoDB specifications did not run.\n\
         *** The folder {} does not exist.\n\
         *** Set MONGODB_SPECIFICATIONS to the folder source/ of a checkout of\n\
         *** https://github.com/mongodb/specifications\n",
        root.display()
    );
    match required {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn trials(root: &Path) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut cases = Vec::new();
    for suite in SUITES {
        let read = read_suite(suite, root).and_then(|read| match read.len() == suite.cases {
            true => Ok(read),
            false => Err(format!("{} cases, expected {}", read.len(), suite.cases)),
        });
        match read {
            Ok(read) => cases.extend(read),
            Err(message) => trials.push(Trial::test(
                format!("{}/its files are all there", suite.name),
                move || Err(Failed::from(message)),
            )),
        }
    }
    let listed = inapplicable::list().and_then(|mut list| {
        list.extend(inapplicable::gaps()?);
        Ok(list)
    });
    let list = match listed {
        Ok(list) => list,
        Err(message) => {
            trials.push(Trial::test("inapplicable.txt", || Err(message.into())));
            Vec::new()
        }
    };
    for entry in &list {
        if !cases.iter().any(|case| entry.names(&case.name)) {
            let name = format!("inapplicable.txt/{}", entry.name);
            trials.push(Trial::test(name, || Err("no case has this name".into())));
        }
    }
    match RealServer::is_chosen() {
        false => trials.extend(cases.into_iter().map(|case| trial(case, &list))),
        true => {
            let lacks = env::var("MONGO_TESTKIT_LACKS").unwrap_or_default();
            let on_it = cases
                .into_iter()
                .filter_map(|case| on_the_real_server(case, &list, &lacks));
            trials.extend(on_it);
        }
    }
    trials
}

/// A case that uses the real server. It is ignored if the server lacks what it needs: `lacks` has a
/// line for each need, with the reason after a tab.
fn on_the_real_server(case: Case, list: &[inapplicable::Entry], lacks: &str) -> Option<Trial> {
    let needs = unified::needs(&case.content)?;
    let lack = lacks.lines().find_map(|line| {
        let (need, reason) = line.split_once('\t')?;
        needs.contains(&need).then(|| reason.to_owned())
    });
    Some(match lack {
        None => trial(case, list),
        Some(reason) => Trial::ignorable_test(case.name, move || {
            Ok(Completion::ignored_with(reason.as_str()))
        }),
    })
}

/// A case that the list names, or that the specification skips, is ignored. One that the list names
/// and that passes is a failure: its entry has to be removed.
fn trial(case: Case, list: &[inapplicable::Entry]) -> Trial {
    let reason = list
        .iter()
        .find(|entry| entry.names(&case.name))
        .map(|entry| entry.reason.clone());
    let Case { name, content, run } = case;
    let skipped = content["skipReason"].as_str().map(str::to_owned);
    Trial::ignorable_test(name, move || match (reason, skipped) {
        (None, Some(reason)) => Ok(Completion::ignored_with(reason)),
        (Some(reason), _) => match run(&content) {
            Ok(()) => Err("it is listed as one that can't pass, but it passes".into()),
            Err(_) => Ok(Completion::ignored_with(reason)),
        },
        (None, None) => run(&content)
            .map(|()| Completion::Completed)
            .map_err(Failed::from),
    })
}

fn read_suite(suite: &Suite, root: &Path) -> Result<Vec<Case>, String> {
    let folder = root.join(suite.folder);
    let shown = |error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    find_json(&folder, &mut files).map_err(shown)?;
    files.sort();
    let mut cases = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(shown)?;
        let file: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let stem = path
            .strip_prefix(&folder)
            .unwrap_or(&path)
            .with_extension("");
        let stem = stem.display();
        let contents = match file.get("tests") {
            Some(Value::Array(tests)) if file.get("schemaVersion").is_some() => {
                let tests = tests.iter();
                tests.map(|test| unified::of_file(&file, test)).collect()
            }
            Some(Value::Array(tests)) => tests.clone(),
            Some(_) => return Err(format!("{}: tests is no array", path.display())),
            None => vec![file],
        };
        cases.extend(contents.into_iter().map(|content| Case {
            name: match content["description"].as_str() {
                Some(description) => format!("{}/{stem}/{description}", suite.name),
                None => format!("{}/{stem}", suite.name),
            },
            content,
            run: suite.run,
        }));
    }
    Ok(cases)
}

fn find_json(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_json(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Fails unless two things are equal.
/// The options of a case's connection string, or none if it is refused as the case expects.
fn parsed(case: &Value) -> Result<Option<ClientOptions>, String> {
    let parsed = ClientOptions::parse(text(case, "uri")?);
    let valid = case["valid"].as_bool().ok_or("valid is no truth value")?;
    match (parsed, valid) {
        (Ok(found), true) => Ok(Some(found)),
        (Err(_), false) => Ok(None),
        (Ok(_), false) => Err("was taken".to_owned()),
        (Err(error), true) => Err(format!("was refused: {error}")),
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: found {found:?}, expected {expected:?}")),
    }
}

/// Fails on an unknown key, so that nothing is left unchecked.
fn known_keys(what: &str, value: &Value, known: &[&str]) -> Outcome {
    let unknown = value
        .as_object()
        .into_iter()
        .flat_map(|object| object.keys())
        .find(|key| !known.contains(&key.as_str()));
    match unknown {
        None => Ok(()),
        Some(key) => Err(format!("{what}: the runner does not know the key {key:?}")),
    }
}

/// The string under a key.
fn text<'a>(case: &'a Value, key: &str) -> Result<&'a str, String> {
    case[key]
        .as_str()
        .ok_or_else(|| format!("{key} is no text"))
}
