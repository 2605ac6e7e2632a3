//! What is done over and over.

/// One task's share of a load.
pub(crate) trait Worker: Send + 'static {
    fn operate(&mut self) -> impl Future<Output = ()> + Send;
}
