//! Runs commands whose replies have excessively many or long elements. Checks the command's
//! outcome, that it needs no more memory than the reply itself, and that other tasks run while it
//! is read.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;

use bson::{doc, rawdoc};
use mongo_core::pools::ManagerConfig;
use tokio::task::{LocalSet, yield_now};

use crate::ALLOCATOR;
use crate::floods::{End, Flood};
use crate::sources::Source;

/// The size of a reply in bytes.
const SIZE: usize = 4 * 1024 * 1024;
/// The memory allowed besides the reply itself.
const MEMORY: usize = 1024 * 1024;
/// The most elements that one step of the walk covers.
const STEP: usize = 32 * 1024;

pub(crate) fn run<S: Source>(flood: &Flood) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, suffer::<S>(flood));
}

async fn suffer<S: Source>(flood: &Flood) {
    let reply = (flood.reply)(SIZE);
    let length = reply.len();
    let uri = serve(reply);
    let mut config = ManagerConfig::default();
    config.command_timeout = None;
    let source = S::build(&uri, config);
    let mut connection = source.get().await.expect("a decent connection");
    let turns = Rc::new(Cell::new(0_usize));
    let counted = turns.clone();
    let ticker = tokio::task::spawn_local(async move {
        loop {
            counted.set(counted.get() + 1);
            yield_now().await;
        }
    });
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let ping = doc! { "ping": 1 };
    let outcome = connection.run_command("admin", &ping).await;
    let written = match &outcome {
        Ok(reply) => reply.check_write().map_err(|error| error.code()),
        Err(_) => Ok(()),
    };
    let outcome = outcome.map(drop);
    let memory = ALLOCATOR.peak_usage().saturating_sub(before);
    ticker.abort();
    crate::show(format_args!(
        "{}: {memory} bytes, {} turns of others, {outcome:?}",
        flood.name,
        turns.get()
    ));
    let is_malformed = match (flood.end, &outcome) {
        (End::Accepted { write }, Ok(())) => {
            assert_eq!(written.err().flatten(), write);
            false
        }
        (End::Refused(code), Err(error)) => {
            let command = error.command().expect("the server's answer");
            assert_eq!(command.code, code);
            assert!(command.message.len() <= 1024 && error.labels().count() <= 16);
            assert!(command.reply.as_bytes().len() <= MEMORY);
            false
        }
        (End::Malformed(fits), Err(error)) => {
            assert!(fits(error.kind()), "{error:?}");
            true
        }
        _ => panic!("{outcome:?}"),
    };
    // While a buffer grows, the allocator counts it twice, at last from one half of its size. A
    // copy of the reply would double that.
    let most = length + length / 2 + MEMORY;
    assert!(memory <= most, "{memory} bytes for {length}");
    // No element of these is longer than 16 bytes.
    let steps = match flood.has_many_elements {
        true => length / 16 / STEP,
        false => 1,
    };
    assert!(turns.get() >= steps, "{} turns", turns.get());
    if is_malformed {
        assert!(connection.is_closed());
    } else {
        let echo = doc! { "echo": 1 };
        let again = connection.run_command("admin", &echo).await;
        again.expect("the connection is usable").raw();
    }
}

/// Starts a server that answers each `ping` with `reply` without allocating. Returns its connection
/// string.
fn serve(reply: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("mongodb://{}/", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // Ends when the client closes the connection.
            let _ = answer(stream, &reply);
        }
    });
    uri
}

fn answer(mut stream: TcpStream, reply: &[u8]) -> std::io::Result<()> {
    let good = rawdoc! {
        "ok": 1, "isWritablePrimary": true, "helloOk": true, "minWireVersion": 0, "maxWireVersion": 21,
    };
    let mut request = [0; 4096];
    loop {
        stream.read_exact(&mut request[..16])?;
        let length = i32::from_le_bytes([request[0], request[1], request[2], request[3]]) as usize;
        stream.read_exact(&mut request[16..length])?;
        let id = [request[4], request[5], request[6], request[7]];
        // After the flags, the section's kind, the document's length and the first element's type.
        let contents = match request[26..].starts_with(b"ping\0") {
            true => reply,
            false => good.as_bytes(),
        };
        let mut head = [0; 21];
        head[..4].copy_from_slice(&(21 + contents.len() as i32).to_le_bytes());
        head[8..12].copy_from_slice(&id);
        head[12..16].copy_from_slice(&2013_i32.to_le_bytes());
        stream.write_all(&head)?;
        stream.write_all(contents)?;
    }
}
