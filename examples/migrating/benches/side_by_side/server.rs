//! The servers, in a process of their own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bson::doc;
use mongo_testkit::{Deployment, User};

/// With this argument the bench's own binary serves.
const ARGUMENT: &str = "--server";
const MEMBERS: usize = 3;
/// How long no new socket may come until all are counted, and the limit of that wait.
const SETTLED: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(30);

/// A running set. It ends with this value.
pub(crate) struct Server {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    /// Starts a set whose members hold each `find` back for this time.
    pub(crate) fn start(hold: Duration) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args([ARGUMENT, &hold.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server process");
        let orders = child.stdin.take().expect("piped");
        let answers = child.stdout.take().expect("piped");
        let mut server = Self {
            child,
            orders,
            answers: BufReader::new(answers),
            address: String::new(),
        };
        server.address = server.line();
        server
    }

    pub(crate) fn uri(&self, password: &str) -> String {
        self.address.replacen("pencil", password, 1)
    }

    /// The sockets that the members have accepted so far.
    pub(crate) fn sockets(&mut self) -> u64 {
        self.orders.write_all(b"sockets\n").expect("a server");
        self.line().parse().expect("a number")
    }

    /// [`sockets`](Self::sockets), once no more have come for a while.
    pub(crate) fn settled_sockets(&mut self) -> u64 {
        let begin = Instant::now();
        let (mut sockets, mut since) = (self.sockets(), Instant::now());
        while since.elapsed() < SETTLED && begin.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.sockets();
            if now != sockets {
                (sockets, since) = (now, Instant::now());
            }
        }
        sockets
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("text");
        line.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves, if this process was started for it, until its parent ends.
pub(crate) fn serve_if_asked() -> bool {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    let Some(hold) = arguments.nth(1) else {
        return false;
    };
    let hold: i64 = hold.parse().expect("milliseconds");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let set = runtime.block_on(async {
        let set = Deployment::replica_set("rs").members(MEMBERS);
        set.user(User::new("app", "pencil")).start().await
    });
    if hold > 0 {
        let block = doc! {
            "failCommands": ["find"], "blockConnection": true, "blockTimeMS": hold
        };
        set.fail_commands(0, "alwaysOn", block);
    }
    println!("{}", set.uri_for("app", "pencil"));
    for _ in std::io::stdin().lines() {
        let accepted = |member| set.server(member).look(|seen| seen.accepted);
        println!("{}", (0..MEMBERS).map(accepted).sum::<u64>());
    }
    true
}
