use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A socket, and the server's end, which is registered with no runtime.
async fn tcp() -> (Stream, Box<dyn Write + Send>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let stream = TcpStream::connect(address).await.expect("connected");
    let (server, _) = listener.accept().expect("a client");
    (Stream::Tcp(stream), Box::new(server))
}

#[cfg(unix)]
async fn unix() -> (Stream, Box<dyn Write + Send>) {
    let (ours, server) = std::os::unix::net::UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("an option");
    let ours = UnixStream::from_std(ours).expect("registered");
    (Stream::Unix(ours), Box::new(server))
}

async fn sockets() -> Vec<(Stream, Box<dyn Write + Send>)> {
    vec![
        tcp().await,
        #[cfg(unix)]
        unix().await,
    ]
}

/// The runtime does not run between the server's last action and the check.
#[tokio::test]
async fn an_end_or_a_byte_that_the_reactor_has_not_seen_is_seen() {
    for (mut stream, server) in sockets().await {
        for _ in 0..3 {
            assert_eq!(stream.check_idle(false), Ok(()), "{stream:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(server);
        assert_eq!(stream.check_idle(false), Err(ClosedReason::Network));
    }
    for (mut stream, mut server) in sockets().await {
        server.write_all(&[0]).expect("written");
        assert_eq!(stream.check_idle(false), Err(ClosedReason::Network));
        // The check only peeks.
        assert_eq!(stream.check_idle(false), Err(ClosedReason::Network));
    }
}

#[test]
fn a_socket_of_an_ended_runtime_differs_from_a_closed_one() {
    let opened = runtime();
    let sockets = opened.block_on(sockets());
    let other = runtime();
    other.block_on(async {
        for (mut stream, server) in sockets {
            assert_eq!(stream.check_idle(false), Ok(()), "{stream:?}");
            assert!(!stream.has_lost_runtime());
            drop((stream, server));
        }
    });
    let sockets = opened.block_on(self::sockets());
    drop(opened);
    other.block_on(async {
        for (mut stream, _server) in sockets {
            assert_eq!(stream.check_idle(false), Err(ClosedReason::RuntimeEnded));
        }
    });
}

/// If the task has used up its budget, tokio reports that nothing is ready.
#[tokio::test]
async fn a_busy_task_loses_no_connection() {
    for (mut stream, _server) in sockets().await {
        for _ in 0..1000 {
            assert_eq!(stream.check_idle(false), Ok(()), "{stream:?}");
        }
    }
}

#[cfg(all(feature = "tls-rustls", feature = "tls-ring"))]
mod tls;
