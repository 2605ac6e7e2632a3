//! Repeated operations.

/// One task's share of a load.
pub(crate) trait Worker: Send + 'static {
    fn operate(&mut self) -> impl Future<Output = ()> + Send;
}

/// Runs `operations` by each worker, each in its own task.
pub(crate) async fn run_all<W: Worker>(workers: Vec<W>, operations: usize) -> Vec<W> {
    let tasks: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            tokio::spawn(async move {
                for _ in 0..operations {
                    worker.operate().await;
                }
                worker
            })
        })
        .collect();
    let mut returned = Vec::with_capacity(tasks.len());
    for task in tasks {
        returned.push(task.await.expect("a worker that does not panic"));
    }
    returned
}
