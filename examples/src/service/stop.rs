use std::future::Future;
use std::io;
use std::pin::pin;

use system::{Interrupt, Terminate};

use super::{Health, Settings};

#[cfg(unix)]
mod system {
    use std::io;

    pub(super) use tokio::signal::unix::{Signal as Interrupt, Signal as Terminate};
    use tokio::signal::unix::{SignalKind, signal};

    pub(super) fn interrupt() -> io::Result<Interrupt> {
        signal(SignalKind::interrupt())
    }

    pub(super) fn terminate() -> io::Result<Terminate> {
        signal(SignalKind::terminate())
    }
}

#[cfg(windows)]
mod system {
    pub(super) use tokio::signal::windows::{CtrlC as Interrupt, CtrlShutdown as Terminate};
    pub(super) use tokio::signal::windows::{ctrl_c as interrupt, ctrl_shutdown as terminate};
}

/// What asks the process to stop: SIGTERM, and ctrl-c.
#[derive(Debug)]
pub struct Signals {
    interrupt: Interrupt,
    terminate: Terminate,
}

impl Signals {
    /// Catches them from now on: none ends the process by itself any more.
    ///
    /// # Errors
    /// The system refuses.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: system::interrupt()?,
            terminate: system::terminate()?,
        })
    }

    /// Runs a server until it was asked to stop and has ended, in steps that are bounded each: not
    /// ready any more, it goes on for [`drain`](Settings::drain); then `stop` has it take no more
    /// requests, and those in flight have [`grace`](Settings::grace). What is left is cut off.
    /// Asked once more, the process ends at once.
    ///
    /// # Errors
    /// The server's own.
    pub async fn serve(
        mut self,
        server: impl Future<Output = io::Result<()>>,
        stop: impl FnOnce(),
        health: &Health,
        settings: &Settings,
    ) -> io::Result<()> {
        let mut server = pin!(server);
        let drained = async {
            self.next().await;
            tokio::spawn(async move {
                self.next().await;
                tracing::warn!("asked once more to stop: the end");
                std::process::exit(1);
            });
            health.drain();
            tokio::time::sleep(settings.drain).await;
        };
        tokio::select! {
            ended = &mut server => return ended,
            () = drained => stop(),
        }
        let ended = tokio::time::timeout(settings.grace, server).await;
        ended.unwrap_or_else(|_| {
            tracing::warn!("requests are cut off: their time to end ran out");
            Ok(())
        })
    }

    async fn next(&mut self) {
        // Both are safe to drop: what comes meanwhile is told by the next wait.
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
