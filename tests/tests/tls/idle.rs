//! TLS messages on an idle stream, and the detection of its end.

use std::sync::Arc;

use mongo_core::pools::{CheckBudget, ConnectionFactory};
use mongo_core::{Connection, Deadline, Error};
use mongo_testkit::{Authority, ScriptedServer, ServerTls};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::support::{connect, factory, ping, server, trusting, uri};

async fn check(factory: &ConnectionFactory, connection: &mut Connection) -> Result<(), Error> {
    let mut budget = CheckBudget::default();
    let checked = factory.recycle(connection, Deadline::never(), &mut budget);
    checked.await
}

#[tokio::test]
async fn a_close_notify_of_the_server_closes_the_idle_connection() {
    let authority = Authority::new();
    let server = server(ServerTls::new(authority.server())).await;
    let uri = uri(&server, "localhost", &trusting(&authority));
    let factory = factory(&uri).expect("a factory");
    let mut connection = factory
        .establish(Deadline::never())
        .await
        .expect("connected");
    ping(&mut connection).await.expect("a reply");
    let checked = check(&factory, &mut connection).await;
    checked.expect("still usable");
    server.close_connections().await;
    let checked = check(&factory, &mut connection).await;
    checked.expect_err("closed");
}

/// The client's runtime does not run between the server's action and the check.
#[tokio::test]
async fn an_idle_check_reads_through_tls_before_the_reactor() {
    let authority = Arc::new(Authority::new());
    let (started, start) = oneshot::channel();
    let (_ends, end) = oneshot::channel::<()>();
    let its_authority = authority.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = ScriptedServer::start().await;
            let started = started.send(front(&its_authority, &server).await);
            assert!(started.is_ok(), "waited for");
            let _ = end.await;
        });
    });
    let (port, orders) = start.await.expect("started");
    let options = trusting(&authority);
    let uri = format!("mongodb://localhost:{port}/?directConnection=true{options}");
    let factory = factory(&uri).expect("a factory");
    let mut connection = factory
        .establish(Deadline::never())
        .await
        .expect("connected");
    let orders_of = [Order::UpdateKeys, Order::UpdateKeys, Order::Close];
    for (order, is_good) in orders_of.into_iter().zip([true, true, false]) {
        ping(&mut connection).await.expect("a reply");
        let (done, is_done) = oneshot::channel();
        assert!(orders.try_send((order, done)).is_ok(), "a front");
        let is_done = std::thread::spawn(move || is_done.blocking_recv());
        let is_done = is_done.join().expect("no panic");
        is_done.expect("carried out");
        let checked = factory
            .recycle_now(&mut connection)
            .expect("it takes no I/O");
        assert_eq!(checked.is_ok(), is_good, "{checked:?}");
    }
}

/// A server can distinguish an orderly close from a broken connection.
#[tokio::test]
async fn closing_sends_close_notify() {
    let authority = Authority::new();
    let server = ScriptedServer::start().await;
    let acceptor = TlsAcceptor::from(ServerTls::new(authority.server()).config());
    for is_closed_first in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let relay = async {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut near = acceptor.accept(stream).await.expect("TLS");
            let mut far = TcpStream::connect(server.address())
                .await
                .expect("a server");
            // An end without close_notify is an error in TLS.
            copy_bidirectional(&mut near, &mut far).await
        };
        let client = async {
            let options = trusting(&authority);
            let uri = format!("mongodb://localhost:{port}/?directConnection=true{options}");
            let mut connection = connect(&uri).await.expect("connected");
            ping(&mut connection).await.expect("a reply");
            if is_closed_first {
                connection.close();
            }
        };
        let (relayed, ()) = tokio::join!(relay, client);
        relayed.expect("an orderly end");
    }
}

/// The next action of a front on its only connection.
enum Order {
    /// Sends a TLS message without application data, like session tickets.
    UpdateKeys,
    /// Sends close_notify.
    Close,
}

/// TLS in front of a server. The sender of an order is notified when it is done.
async fn front(
    authority: &Authority,
    server: &ScriptedServer,
) -> (u16, mpsc::Sender<(Order, oneshot::Sender<()>)>) {
    let identity = authority.server();
    let acceptor = TlsAcceptor::from(ServerTls::new(identity).config());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let back = server.address();
    let (orders, mut received) = mpsc::channel::<(Order, oneshot::Sender<()>)>(1);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut near = acceptor.accept(stream).await.expect("TLS");
        let mut far = TcpStream::connect(back).await.expect("the server");
        loop {
            // No data is in flight when an order comes.
            let order = tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => return,
                order = received.recv() => order,
            };
            let Some((order, done)) = order else { return };
            match order {
                Order::UpdateKeys => {
                    let updated = near.get_mut().1.refresh_traffic_keys();
                    updated.expect("TLS 1.3");
                    near.flush().await.expect("sent");
                }
                Order::Close => near.shutdown().await.expect("sent"),
            }
            done.send(()).expect("waited for");
        }
    });
    (port, orders)
}

#[tokio::test]
async fn tls_messages_do_not_break_an_idle_connection() {
    let authority = Authority::new();
    let server = ScriptedServer::start().await;
    let (port, orders) = front(&authority, &server).await;
    let options = trusting(&authority);
    let uri = format!("mongodb://localhost:{port}/?directConnection=true{options}");
    let factory = factory(&uri).expect("a factory");
    let mut connection = factory
        .establish(Deadline::never())
        .await
        .expect("connected");
    for (order, is_good) in [(Order::UpdateKeys, true), (Order::Close, false)] {
        ping(&mut connection).await.expect("a reply");
        let (done, is_done) = oneshot::channel();
        orders.send((order, done)).await.expect("a front");
        is_done.await.expect("carried out");
        let checked = factory
            .recycle(
                &mut connection,
                Deadline::never(),
                &mut CheckBudget::default(),
            )
            .await;
        assert_eq!(checked.is_ok(), is_good, "{checked:?}");
    }
    assert_eq!(server.look(|seen| seen.count("ping")), 2);
}
