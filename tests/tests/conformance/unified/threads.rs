//! Threads of a case: each runs its operations in order, beside the others.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Outcome;

/// The most operations that wait on a thread.
const MOST: usize = 64;

/// How long `waitForThread` waits.
const LIMIT: Duration = Duration::from_secs(10);

/// An operation to run.
pub(super) type Work = Pin<Box<dyn Future<Output = Outcome>>>;

/// A thread.
pub(super) struct Thread(RefCell<Option<Running>>);

struct Running {
    work: mpsc::Sender<Work>,
    task: JoinHandle<Outcome>,
}

impl Thread {
    pub(super) fn start() -> Self {
        let (sender, mut receiver) = mpsc::channel::<Work>(MOST);
        let task = tokio::task::spawn_local(async move {
            while let Some(work) = receiver.recv().await {
                work.await?;
            }
            Ok(())
        });
        Self(RefCell::new(Some(Running { work: sender, task })))
    }

    pub(super) fn run(&self, work: Work) -> Outcome {
        let running = self.0.borrow();
        let running = running.as_ref().ok_or("the thread has ended")?;
        let sent = running.work.try_send(work);
        sent.map_err(|_| "the thread takes no more operations".to_owned())
    }

    /// Waits until all operations have ended.
    pub(super) async fn join(&self) -> Outcome {
        let running = self.0.take();
        let Running { work, task } = running.ok_or("the thread has ended")?;
        drop(work);
        match timeout(LIMIT, task).await {
            Ok(ended) => ended.map_err(|error| error.to_string())?,
            Err(_) => Err(format!("the thread runs for more than {LIMIT:?}")),
        }
    }
}
