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

/// The signals that stop the process: SIGTERM and ctrl-c.
#[derive(Debug)]
pub struct Signals {
    interrupt: Interrupt,
    terminate: Terminate,
}

impl Signals {
    /// Installs the signal handlers. From then on the signals no longer end the process by
    /// themselves.
    ///
    /// # Errors
    /// The system refuses.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: system::interrupt()?,
            terminate: system::terminate()?,
        })
    }

    /// Runs a server until a stop signal, then shuts it down in steps with time limits. First it is
    /// not ready and still serves for [`drain`](Settings::drain). Then `stop` makes it refuse new
    /// requests, and requests in flight have [`grace`](Settings::grace) to end. The rest are cut
    /// off. A second signal ends the process at once.
    ///
    /// # Errors
    /// The server's errors.
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
                tracing::warn!("second stop signal: exiting at once");
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
            tracing::warn!("requests are cut off: the grace period is over");
            Ok(())
        })
    }

    async fn next(&mut self) {
        // Both are cancel safe: the next wait reports a signal that arrived in between.
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
