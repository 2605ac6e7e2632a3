//! The figures, which are kept between runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Measure {
    SocketsOfOne,
    SocketsOfTen,
    /// Milliseconds.
    WrongPassword,
    WrongPasswordSockets,
    /// Milliseconds until its error, or until it had a slot.
    Eleventh,
    /// KiB.
    Memory,
    /// Microseconds.
    Ping,
    /// With the least features.
    Crates,
    /// With the features that the official driver has by default.
    CratesWithTls,
    /// Seconds of CPU, with the same features.
    Build,
}

/// A figure, and the text of the error that came with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) error: Option<String>,
}

/// By measure and subject.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures(BTreeMap<String, BTreeMap<Measure, Figure>>);

impl Figures {
    pub(crate) fn load() -> Self {
        let text = std::fs::read_to_string(path()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn save(&self) {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        std::fs::write(path(), text).expect("write the figures");
    }

    pub(crate) fn set(&mut self, subject: &str, measure: Measure, value: f64) {
        self.set_with(subject, measure, value, None);
    }

    pub(crate) fn set_with(
        &mut self,
        subject: &str,
        measure: Measure,
        value: f64,
        error: Option<String>,
    ) {
        println!(
            "{subject}: {measure:?} {value:.1} {}",
            error.as_deref().unwrap_or_default()
        );
        let of_subject = self.0.entry(subject.to_owned()).or_default();
        of_subject.insert(measure, Figure { value, error });
    }

    pub(crate) fn get(&self, subject: &str, measure: Measure) -> Option<&Figure> {
        self.0.get(subject)?.get(&measure)
    }
}

fn path() -> PathBuf {
    let binary = std::env::current_exe().expect("this binary");
    let target = binary.ancestors().nth(3).expect("the target directory");
    target.join("side_by_side.json")
}
