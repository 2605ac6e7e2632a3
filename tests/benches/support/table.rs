//! A small table of figures and their goals.

/// The goal of a figure.
#[derive(Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) at_most: f64,
    /// Whether missing the goal fails the run, for figures without noise. Others are only reported.
    pub(crate) is_kept: bool,
}

/// Prints figures as they come, and records whether a goal that counts was missed.
#[derive(Default)]
pub(crate) struct Table {
    missed: bool,
}

impl Table {
    pub(crate) fn heading(&self, title: &str) {
        println!("\n{title:<62} {:>10}  {:>10}", "figure", "goal");
    }

    /// Prints a figure. One without a goal is for comparison.
    pub(crate) fn row(&mut self, what: &str, figure: f64, goal: Option<Goal>) {
        let shown = match figure {
            large if large >= 100.0 => format!("{large:.0}"),
            small => format!("{small:.2}"),
        };
        let (goal, verdict) = match goal {
            None => (String::new(), ""),
            Some(Goal { at_most, is_kept }) => {
                let is_met = figure <= at_most;
                self.missed |= is_kept && !is_met;
                (
                    format!("<= {at_most}"),
                    if is_met { "met" } else { "MISSED" },
                )
            }
        };
        println!("  {what:<60} {shown:>10}  {goal:>10}  {verdict}");
    }

    /// The exit status of the run.
    pub(crate) fn status(&self) -> std::process::ExitCode {
        match self.missed {
            true => std::process::ExitCode::FAILURE,
            false => std::process::ExitCode::SUCCESS,
        }
    }
}
