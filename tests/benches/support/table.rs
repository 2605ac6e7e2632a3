//! A small table of figures, each with its goal beside it.

/// What a figure has to be.
#[derive(Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) at_most: f64,
    /// Noise does not touch the figure, and missing it fails the run. Others are told only.
    pub(crate) is_kept: bool,
}

/// Prints figures as they come, and remembers whether a goal that counts was missed.
#[derive(Default)]
pub(crate) struct Table {
    missed: bool,
}

impl Table {
    pub(crate) fn heading(&self, title: &str) {
        println!("\n{title:<62} {:>10}  {:>10}", "figure", "goal");
    }

    /// A figure without a goal is told for comparison.
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
