//! The suite of the average round trip time.

use std::time::Duration;

use mongo_core::sdam::RoundTripTime;
use serde_json::Value;

use crate::{Outcome, equal, known_keys};

/// Runs one case.
pub(crate) fn run(case: &Value) -> Outcome {
    let known = ["description", "avg_rtt_ms", "new_rtt_ms", "new_avg_rtt"];
    known_keys("case", case, &known)?;
    let mut time = RoundTripTime::new();
    if case["avg_rtt_ms"] != "NULL" {
        time.record(milliseconds(case, "avg_rtt_ms")?);
    }
    time.record(milliseconds(case, "new_rtt_ms")?);
    let found = time.average().ok_or("there is no average")?;
    let expected = milliseconds(case, "new_avg_rtt")?;
    // Rounding to whole nanoseconds.
    let close = found.abs_diff(expected) <= Duration::from_nanos(1);
    equal(&format!("{found:?} is {expected:?}"), close, true)
}

fn milliseconds(case: &Value, key: &str) -> Result<Duration, String> {
    let number = case[key]
        .as_f64()
        .ok_or_else(|| format!("{key} is no number"))?;
    Ok(Duration::from_secs_f64(number / 1000.0))
}
