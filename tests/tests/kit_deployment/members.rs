//! Runs the same tests on both kinds of members.

use mongo_testkit::{Deployment, DeploymentBuilder, RealServer};

/// The kind of servers of a deployment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Members {
    /// The kit's own servers, with documents in memory.
    Scripted,
    /// Proxies in front of the deployment's own real server.
    Proxies,
}

impl Members {
    pub(crate) async fn start(self, deployment: DeploymentBuilder) -> Deployment {
        match self {
            Self::Scripted => deployment.start().await,
            Self::Proxies => deployment.backed_by(RealServer::start()).start().await,
        }
    }
}

/// Makes two tests of each function.
macro_rules! over_both {
    ($($check:ident),* $(,)?) => {
        mod scripted {
            $(
                #[tokio::test]
                async fn $check() {
                    super::$check(crate::members::Members::Scripted).await;
                }
            )*
        }

        mod proxies {
            $(
                #[tokio::test]
                async fn $check() {
                    super::$check(crate::members::Members::Proxies).await;
                }
            )*
        }
    };
}
pub(crate) use over_both;
