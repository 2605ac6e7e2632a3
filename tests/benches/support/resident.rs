//! The resident memory of 1,000 idle connections, each kind in a process of its own: what other
//! kinds have freed would be used again.

use std::process::Command;

use bson::doc;
use mongo_core::pools::{Backend, Pools};
use tokio::task::JoinSet;

use crate::Cost;
use crate::operations::{Operation, RawSocket};
use crate::setting::{BB8_POOLS, DEADPOOL_POOLS, RAW};
use crate::table::{Goal, Table};
use crate::worker::Worker;

/// With this argument, followed by the kind and the server's port, the bench's own binary measures.
const ARGUMENT: &str = "--resident";
const CONNECTIONS: usize = 1000;
const GOAL: Goal = Goal {
    at_most: 5.0,
    is_kept: false,
};

/// Measures, if this process was started for it.
pub(crate) fn measure_if_asked() -> bool {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    let (Some(kind), Some(port)) = (arguments.nth(1), arguments.next()) else {
        return false;
    };
    let port = port.parse().expect("a port");
    let url =
        format!("mongodb://127.0.0.1:{port}/?directConnection=true&maxPoolSize={CONNECTIONS}");
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    let cost = runtime.block_on(async {
        match &*kind {
            DEADPOOL_POOLS => through_pools::<mongo_deadpool::Pool>(&url).await,
            BB8_POOLS => through_pools::<mongo_bb8::Pool>(&url).await,
            _ => {
                let (cost, sockets) = Cost::of(CONNECTIONS, raw(port)).await;
                drop(sockets);
                cost
            }
        }
    });
    println!("{} {}", cost.heap, cost.resident);
    true
}

async fn raw(port: u16) -> Vec<RawSocket> {
    all_at_once(|| async move {
        let mut socket = RawSocket::connect(port, Operation::Ping).await;
        socket.as_mut().expect("a socket").operate().await;
        socket
    })
    .await
    .into_iter()
    .flatten()
    .collect()
}

async fn through_pools<B: Backend<Config: Default>>(url: &str) -> Cost {
    let pools = Pools::<B>::new(url).expect("pools");
    drop(pools.get().await);
    let (cost, ()) = Cost::of(CONNECTIONS, async {
        let all = all_at_once(|| {
            let pools = pools.clone();
            async move {
                let mut connection = pools.get().await.expect("a connection");
                let ping = doc! { "ping": 1 };
                connection.run_command("admin", &ping).await.expect("ok");
                connection
            }
        });
        drop(all.await);
    })
    .await;
    assert_eq!(pools.status()[0].idle, CONNECTIONS);
    cost
}

/// The results of as many tasks.
async fn all_at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    make: impl Fn() -> F,
) -> Vec<T> {
    let tasks: JoinSet<T> = (0..CONNECTIONS).map(|_| make()).collect();
    tasks.join_all().await
}

pub(crate) fn compare_all(port: u16, table: &mut Table) {
    table.heading(&format!(
        "{CONNECTIONS} idle connections made at once, memory of each"
    ));
    for kind in [RAW, DEADPOOL_POOLS, BB8_POOLS] {
        let output = Command::new(std::env::current_exe().expect("this binary"))
            .args([ARGUMENT, kind, &port.to_string()])
            .output()
            .expect("a process");
        let output = String::from_utf8_lossy(&output.stdout);
        let mut figures = output.split_whitespace().flat_map(str::parse);
        let (heap, resident) = (figures.next(), figures.next());
        let goal = (kind != RAW).then_some(GOAL);
        table.row(
            &format!("{kind}: KiB of heap"),
            heap.expect("a figure"),
            None,
        );
        table.row(
            &format!("{kind}: KiB resident"),
            resident.expect("a figure"),
            goal,
        );
    }
}
