//! The same checks over both kinds of members.

use mongo_testkit::{Deployment, DeploymentBuilder, RealServer};

/// What the servers of a deployment are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Members {
    /// The kit's own, with documents in memory.
    Scripted,
    /// Proxies before a real server of this deployment's own.
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
