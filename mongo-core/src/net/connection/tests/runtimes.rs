//! Connections whose socket belongs to another runtime than the command.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A connection over a socket wrapped by `wrap`, and the server's end.
async fn over_tcp(wrap: impl Fn(tokio::net::TcpStream) -> Stream) -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let stream = tokio::net::TcpStream::connect(address).await;
    let (server, _) = listener.accept().expect("a client");
    (super::over(wrap(stream.expect("connected"))), server)
}

/// Answers one request at once.
fn answer(mut server: TcpStream) -> JoinHandle<TcpStream> {
    std::thread::spawn(move || {
        let mut request = [0; 256];
        let read = server.read(&mut request).expect("a request");
        assert!(read > 16, "all of it");
        server.write_all(&reply(1, "here")).expect("written");
        server
    })
}

#[test]
fn a_runtime_that_has_shut_down_is_no_failure_of_the_network() {
    for wrap in [Stream::Tcp, Stream::custom] {
        let opened = runtime();
        let (mut connection, _server) = opened.block_on(over_tcp(wrap));
        drop(opened);
        let ping = rawdoc! { "ping": 1 };
        let other = runtime();
        let error = other.block_on(async {
            let ran = connection.run_command_by(BOUND, "admin", &ping).await;
            ran.map(drop).expect_err("its runtime has gone")
        });
        assert!(is_closed_for(&error, ClosedReason::RuntimeEnded), "{error}");
        assert!(!crate::sdam::ApplicationError::is_telling(&error));
        assert!(error.to_string().contains("its runtime has shut down"));
        assert!(connection.is_closed());
        let again = other.block_on(async {
            let ran = connection.run_command_by(BOUND, "admin", &ping).await;
            ran.map(drop).expect_err("closed")
        });
        assert!(is_closed_for(&again, ClosedReason::RuntimeEnded), "{again}");
    }
}

/// A timer of a live runtime proves nothing about another runtime.
#[test]
fn an_idle_connection_shows_that_its_own_runtime_has_shut_down() {
    let other = runtime();
    for is_used_elsewhere in [false, true] {
        let opened = runtime();
        let (mut connection, server) = opened.block_on(over_tcp(Stream::Tcp));
        let answered = answer(server);
        let ping = rawdoc! { "ping": 1 };
        let run = async {
            let ran = connection.run_command_by(BOUND, "admin", &ping).await;
            ran.map(drop)
        };
        match is_used_elsewhere {
            // Driven by the other thread.
            true => std::thread::scope(|scope| {
                let (ran, end) = tokio::sync::oneshot::channel::<()>();
                let opened = &opened;
                scope.spawn(move || opened.block_on(async { drop(end.await) }));
                other.block_on(run).expect("a reply");
                drop(ran);
            }),
            false => opened.block_on(run).expect("a reply"),
        }
        let _server = answered.join().expect("no panic");
        assert!(connection.check_in());
        assert_eq!(connection.check_idle(), Ok(()));
        drop(opened);
        let checked = other.block_on(async { connection.check_idle() });
        assert_eq!(checked, Err(ClosedReason::RuntimeEnded));
    }
}

#[test]
fn a_time_out_names_an_undriven_runtime() {
    let opened = runtime();
    let ping = rawdoc! { "ping": 1 };
    let bound = Duration::from_millis(50);
    for is_answered in [true, false] {
        let (mut connection, server) = opened.block_on(over_tcp(Stream::Tcp));
        let answered = is_answered.then(|| answer(server.try_clone().expect("a clone")));
        let error = runtime().block_on(async {
            let ran = connection.run_command_by(bound, "admin", &ping).await;
            ran.map(drop).expect_err("the reactor does not turn")
        });
        assert!(error.is_timeout(), "{error}");
        let text = error.to_string();
        assert_eq!(text.contains("nothing drives"), is_answered, "{text}");
        drop(answered.map(|answered| answered.join().expect("no panic")));
        // A drain fails in the same way.
        let drained = runtime().block_on(connection.drain(Deadline::never()));
        let text = drained.expect_err("the same").to_string();
        assert_eq!(text.contains("nothing drives"), is_answered, "{text}");
    }
    // If the runtime is driven, it works.
    let (mut connection, server) = opened.block_on(over_tcp(Stream::Tcp));
    let answered = answer(server);
    let ran = opened.block_on(async {
        let ran = connection.run_command_by(BOUND, "admin", &ping).await;
        ran.map(drop)
    });
    ran.expect("a reply");
    answered.join().expect("no panic");
}
