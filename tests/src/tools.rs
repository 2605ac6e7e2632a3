//! Finds the external programs that the kit runs.

use std::env;
use std::path::{Path, PathBuf};

/// How to install a missing program.
const ADVICE: &str = "Run `tests/run` in the workspace, which installs it, or see the README.";

/// A program that a test needs was not found.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what} was not found; searched {looked}. {ADVICE}")]
pub struct MissingTool {
    what: &'static str,
    looked: String,
}

/// The real server, `secantusd-rs`: the file that `MONGO_TESTKIT_SECANTUSD` names if it is set;
/// else `bin/secantusd-rs` under `$MONGO_TESTKIT_TOOLS`, `<workspace>/target/tools` or
/// `~/.cache/mongo-testkit`; else the one in `PATH`.
///
/// # Errors
/// [`MissingTool`] with the places that were searched.
pub fn secantusd() -> Result<PathBuf, MissingTool> {
    let mut places = Vec::new();
    match env::var_os("MONGO_TESTKIT_SECANTUSD") {
        Some(path) => places.push(PathBuf::from(path)),
        None => {
            places.extend(roots().map(|root| root.join("bin/secantusd-rs")));
            places.extend(in_path("secantusd-rs"));
        }
    }
    first("the real server secantusd-rs", places)
}

/// A `mongod` of the user's, which runs in place of [`secantusd`]: `MONGO_TESTKIT_MONGOD`.
pub(crate) fn mongod() -> Option<PathBuf> {
    let program = env::var_os("MONGO_TESTKIT_MONGOD").filter(|program| !program.is_empty());
    program.map(PathBuf::from)
}

/// A Python that has PyMongo: the file that `MONGO_TESTKIT_PYTHON` names if it is set; else
/// `pymongo/bin/python` under the same three folders as for [`secantusd`].
///
/// # Errors
/// [`MissingTool`] with the places that were searched.
pub fn pymongo_python() -> Result<PathBuf, MissingTool> {
    let places = match env::var_os("MONGO_TESTKIT_PYTHON") {
        Some(path) => vec![PathBuf::from(path)],
        None => roots()
            .map(|root| root.join("pymongo/bin/python"))
            .collect(),
    };
    first("a Python with PyMongo", places)
}

/// A Chromium for tests of pages: the program that `MONGO_TESTKIT_CHROMIUM` names if it is set;
/// else the first of `chromium-headless-shell`, `chromium` and `google-chrome` in `PATH`.
///
/// # Errors
/// [`MissingTool`] with the places that were searched.
pub fn chromium() -> Result<PathBuf, MissingTool> {
    let places = match env::var_os("MONGO_TESTKIT_CHROMIUM") {
        Some(path) => vec![PathBuf::from(path)],
        None => ["chromium-headless-shell", "chromium", "google-chrome"]
            .into_iter()
            .flat_map(in_path)
            .collect(),
    };
    first("a Chromium", places)
}

fn in_path(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path);
    folders.map(|folder| folder.join(name)).collect()
}

fn roots() -> impl Iterator<Item = PathBuf> {
    let given = env::var_os("MONGO_TESTKIT_TOOLS").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cache/mongo-testkit"));
    given.into_iter().chain([workspace]).chain(home)
}

fn first(what: &'static str, places: Vec<PathBuf>) -> Result<PathBuf, MissingTool> {
    places
        .iter()
        .find(|place| place.is_file())
        .cloned()
        .ok_or_else(|| {
            let looked: Vec<String> = places
                .iter()
                .map(|place| place.display().to_string())
                .collect();
            MissingTool {
                what,
                looked: looked.join(", "),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_the_way_to_get_it() {
        let error = first("a thing", vec!["/nonexistent/thing".into()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("a thing") && error.contains("/nonexistent/thing"),
            "{error}"
        );
        assert!(error.contains("tests/run"), "{error}");
    }
}
