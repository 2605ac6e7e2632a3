//! A load balancer: one address in front of several servers.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;

use crate::listener::{Listener, Place};
use crate::server::ScriptedServer;

/// The servers that accept connections, in round-robin order.
type Backends = Arc<Mutex<Vec<Backend>>>;

#[derive(Debug)]
struct Backend {
    server: Arc<ScriptedServer>,
    is_up: bool,
}

#[derive(Debug)]
pub(super) struct Balancer {
    address: String,
    backends: Backends,
    task: JoinHandle<()>,
    /// Keeps the port.
    _place: Place,
}

impl Balancer {
    pub(super) fn start(place: Place, servers: Vec<Arc<ScriptedServer>>) -> Self {
        let backend = |server| Backend {
            server,
            is_up: true,
        };
        let backends: Backends = Arc::new(Mutex::new(servers.into_iter().map(backend).collect()));
        let listener = place.listen().expect("listen on loopback");
        let listener = listener.expect("a balancer has a place");
        Self {
            address: place.address(),
            task: tokio::spawn(run(listener, Arc::clone(&backends))),
            backends,
            _place: place,
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sets whether a server gets connections from now on.
    pub(super) fn set_up(&self, server: usize, is_up: bool) {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends[server].is_up = is_up;
    }

    pub(super) async fn end(&mut self) {
        self.task.abort();
        // The task was aborted: its error is expected.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut listener: Listener, backends: Backends) {
    let mut turn = 0;
    loop {
        let Ok(socket) = listener.accept().await else {
            continue;
        };
        let next = {
            let backends = backends.lock().unwrap_or_else(PoisonError::into_inner);
            let up = |backend: &&Backend| backend.is_up;
            let count = backends.iter().filter(up).count();
            turn += 1;
            let next = (turn as usize).checked_rem(count);
            next.and_then(|next| backends.iter().filter(up).nth(next))
                .map(|backend| Arc::clone(&backend.server))
        };
        // If no server is up, the connection just ends.
        if let Some(server) = next {
            server.hand_over(socket).await;
        }
    }
}
