//! The task of a server: accepts connections, and owns the tasks that serve them.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::listener::{Listener, Place};
use crate::server::Shared;
use crate::socket::Socket;

pub(crate) enum Order {
    Serve(Socket),
    CloseListener,
    OpenListener,
    Partition,
    Heal,
    CloseConnections,
    /// Ends all connections and closes the listener, until it is opened again.
    Stop,
    /// Ends all connections, the listener and the task itself.
    End,
}

pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    place: Arc<Place>,
    listener: Option<Listener>,
    is_partitioned: bool,
    is_stopped: bool,
    connections: JoinSet<()>,
}

impl Acceptor {
    pub(crate) fn new(shared: Arc<Shared>, place: Arc<Place>, listener: Option<Listener>) -> Self {
        Self {
            shared,
            place,
            listener,
            is_partitioned: false,
            is_stopped: false,
            connections: JoinSet::new(),
        }
    }

    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>) {
        loop {
            let listener = self.listener.as_mut().filter(|_| !self.is_partitioned);
            // Accepting, joining and receiving are all cancellation safe.
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some((order, done)) = order else { return };
                    let is_end = matches!(order, Order::End);
                    self.obey(order).await;
                    // The waiter may be gone, which is fine.
                    let _ = done.send(());
                    if is_end {
                        return;
                    }
                }
                socket = accept(listener) => {
                    // A socket that ended before it was accepted is not counted.
                    if let Ok(socket) = socket {
                        self.serve(socket);
                    }
                }
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    fn serve(&mut self, socket: Socket) {
        let connection = Connection::serve(Arc::clone(&self.shared), socket);
        self.connections.spawn(connection);
    }

    async fn obey(&mut self, order: Order) {
        match order {
            // A load balancer may not know yet that the server is down.
            Order::Serve(_) if self.is_stopped => {}
            Order::Serve(socket) => self.serve(socket),
            Order::CloseListener => self.listener = None,
            Order::OpenListener => {
                self.is_stopped = false;
                if self.listener.is_none() {
                    let listener = self.place.listen();
                    self.listener = listener.expect("listen at the same address again");
                    let is_partitioned = std::mem::take(&mut self.is_partitioned);
                    self.choke(is_partitioned);
                }
            }
            Order::Partition => self.choke(true),
            Order::Heal => self.choke(false),
            Order::CloseConnections => self.connections.shutdown().await,
            Order::Stop | Order::End => {
                self.is_stopped = true;
                self.listener = None;
                self.connections.shutdown().await;
            }
        }
    }

    fn choke(&mut self, is_partitioned: bool) {
        if let Place::Sim(network, name) = &*self.place {
            if is_partitioned {
                network.cut(name);
            } else {
                network.heal(name);
            }
        }
        if let Some(listener) = &mut self.listener
            && self.is_partitioned != is_partitioned
        {
            let outcome = if is_partitioned {
                listener.choke()
            } else {
                listener.unchoke()
            };
            outcome.expect("a listener changes its queue");
        }
        self.is_partitioned = is_partitioned;
    }
}

async fn accept(listener: Option<&mut Listener>) -> io::Result<Socket> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
