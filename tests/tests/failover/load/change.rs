//! Changes of roles.

use std::time::Duration;

use mongo_testkit::Deployment;
use tokio::time::{Instant, sleep};

use super::{Course, Cut, MEMBERS, Round, View};

/// The duration of a short partition.
pub(super) const SHORT: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Another member is elected.
    Elect,
    /// The primary steps down; another one is elected once the client knows.
    StepDown,
    /// The primary's process ends, and another member is elected.
    KillPrimary,
    /// A secondary's process ends.
    KillSecondary,
    /// For a short time no byte passes between the primary and its clients. Another member is
    /// elected.
    Partition,
    /// The same, until all waiting callers have timed out.
    BlackHole,
}

impl Change {
    pub(super) async fn carry_out(self, set: &Deployment, view: &View, course: &Course) -> Round {
        let down = set.primary().expect("there is one between changes");
        let (up, other) = ((down + 1) % MEMBERS, (down + 2) % MEMBERS);
        let (was, is) = (set.address(down), set.address(up));
        let begun = Instant::now();
        match self {
            Self::Elect => set.elect(up),
            Self::StepDown => {
                set.step_down(down);
                let is_down = "the primary stepped down";
                view.wait_for(is_down, |known| known.primary.as_ref() != Some(&was))
                    .await;
                set.elect(up);
            }
            Self::KillPrimary => {
                set.kill(down).await;
                set.elect(up);
            }
            Self::KillSecondary => set.kill(other).await,
            Self::Partition | Self::BlackHole => {
                set.server(down).partition().await;
                set.elect(up);
            }
        }
        let since = match self {
            Self::KillSecondary => begun,
            _ => {
                view.wait_for("another primary", |known| {
                    known.primary.as_ref() == Some(&is)
                })
                .await
            }
        };
        let heal = async || {
            let member = was.clone();
            // Before the first byte passes.
            let healed = Instant::now();
            set.server(down).heal().await;
            Some(Cut { member, healed })
        };
        let mut cut = None;
        if self == Self::Partition {
            sleep(SHORT).await;
            cut = heal().await;
        }
        course.all_acknowledged_since(since).await;
        match self {
            Self::KillPrimary => set.restart(down).await,
            Self::KillSecondary => set.restart(other).await,
            Self::BlackHole => cut = heal().await,
            Self::Elect | Self::StepDown | Self::Partition => {}
        }
        let all = |known: &super::view::Known| known.members() == MEMBERS;
        view.wait_for("all members are back", all).await;
        Round {
            since,
            primary: (self != Self::KillSecondary).then_some(is),
            cut,
        }
    }
}
