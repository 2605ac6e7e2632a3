//! The crates that an application gets, and the cost of building them from nothing, for packages of
//! their own outside of the workspace, with its versions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::figures::{Figures, Measure};
use crate::subject::{BB8_MONGODB, MONGO_BB8, MONGO_DEADPOOL, OFFICIAL};

pub(crate) fn measure(figures: &mut Figures) {
    let workspace = workspace();
    let path = |name: &str| format!("path = {:?}", workspace.join(name));
    let (bb8, deadpool) = (path("mongo-bb8"), path("mongo-deadpool"));
    let with_tls = "features = [\"dns\", \"tls\"]";
    for (subject, dependency, has_tls) in [
        (BB8_MONGODB, "version = \"1.4.1\"".to_owned(), true),
        (OFFICIAL, "version = \"3\"".to_owned(), true),
        (
            OFFICIAL,
            "version = \"3\", default-features = false, features = [\"compat-3-0-0\", \"bson-2\"]"
                .to_owned(),
            false,
        ),
        (MONGO_BB8, format!("{bb8}, {with_tls}"), true),
        (MONGO_BB8, bb8, false),
        (MONGO_DEADPOOL, format!("{deadpool}, {with_tls}"), true),
        (MONGO_DEADPOOL, deadpool, false),
    ] {
        let package = Package::new(&format!("{subject} = {{ {dependency} }}"));
        match has_tls {
            true => {
                figures.set(subject, Measure::CratesWithTls, package.crates() as f64);
                figures.set(subject, Measure::Build, package.build());
            }
            false => figures.set(subject, Measure::Crates, package.crates() as f64),
        }
    }
}

fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .ancestors()
        .nth(2)
        .expect("the workspace")
        .to_owned()
}

/// An empty package with one dependency, which is removed with this value.
struct Package(PathBuf);

impl Package {
    fn new(dependency: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("side-by-side-{}", std::process::id()));
        let package = Self(directory);
        std::fs::create_dir_all(package.0.join("src")).expect("a temporary directory");
        let manifest = format!(
            "[package]\nname = \"side-by-side\"\nedition = \"2024\"\n\
             [workspace]\n[dependencies]\n{dependency}\n"
        );
        for (file, text) in [
            ("Cargo.toml", &*manifest),
            ("src/main.rs", "fn main() {}\n"),
        ] {
            std::fs::write(package.0.join(file), text).expect("a temporary directory");
        }
        // The versions of the workspace. Cargo removes what is not needed.
        let lock = package.0.join("Cargo.lock");
        std::fs::copy(workspace().join("Cargo.lock"), lock).expect("a lock file");
        package
    }

    /// Runs a command in the shell, and returns its output.
    fn run(&self, command: &str) -> String {
        let mut shell = Command::new("sh");
        // What cargo sets for this bench would count as another configuration.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO")) {
            if name != "CARGO_HOME" {
                shell.env_remove(name);
            }
        }
        let output = shell
            .args(["-ec", command])
            .env("CARGO_INCREMENTAL", "0")
            .current_dir(&self.0)
            .output()
            .expect("a shell");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// All crates that are built for it, without itself.
    fn crates(&self) -> usize {
        let tree = self.run("cargo tree --edges normal,build --prefix none --format '{p}'");
        let crates: BTreeSet<_> = tree
            .lines()
            .filter_map(|line| line.split(" (").next())
            .collect();
        crates.len() - 1
    }

    /// The seconds of CPU of a debug build from nothing, with the compiler and all build scripts.
    fn build(&self) -> f64 {
        self.run("cargo fetch");
        let times = self.run("cargo build --offline --quiet; times");
        // The last line is of the shell's children: `1m23.45s 0m6.7s`.
        let children = times.lines().last().unwrap_or_default();
        let seconds = children.split_whitespace().map(|time| {
            let (minutes, seconds) = time.trim_end_matches('s').split_once('m')?;
            Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
        });
        seconds.sum::<Option<f64>>().expect("two times")
    }
}

impl Drop for Package {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
