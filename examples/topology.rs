//! A live view of a deployment: a table that shows elections, failures and recoveries.
//!
//! Needs no server: the test kit's embedded replica set is started unless `MONGODB_URI` is set. It
//! goes through a failover: a step-down, an election, a kill, a restart. Then the program ends;
//! with a URI it runs until it is stopped. If the output is not a terminal, each event is printed,
//! and a table at each change.
//!
//! ```sh
//! cargo run --example topology
//! cargo run --example topology | less
//! MONGODB_URI='mongodb://localhost/?replicaSet=rs0' cargo run --example topology
//! ```

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use mongo_core::ClientOptions;
use mongo_core::event::SdamEvent;
use mongo_core::net::Topology;
use mongo_core::sdam::{ServerDescription, ServerType, TopologyDescription};
use mongo_examples::Fatal;
use mongo_testkit::{Deployment, MemberKind, MemberSpec};
use tokio::sync::mpsc;

/// How many events the table shows.
const RECENT: usize = 8;
/// The capacity of the channel; events beyond it are not shown.
const EVENTS: usize = 1024;
/// How often ages and round trip times are redrawn.
const REDRAW: Duration = Duration::from_millis(500);
/// The pause between the steps of the scripted failover, so that they can be seen.
const PAUSE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    let embedded = match std::env::var("MONGODB_URI") {
        Ok(_) => None,
        Err(_) => Some(start_embedded().await),
    };
    let uri = match &embedded {
        Some(set) => format!("{}&heartbeatFrequencyMS=1000", set.uri()),
        None => std::env::var("MONGODB_URI")?,
    };
    let (sender, mut events) = mpsc::channel(EVENTS);
    let topology = Topology::builder(ClientOptions::parse(&uri)?)
        // Called in order, and must not block.
        .event_handler(move |event| drop(sender.try_send(event.clone())))
        .build()?;
    topology.connect()?;

    let mut view = View::new();
    let script = async {
        match &embedded {
            Some(set) => fail_over(set, &topology).await,
            // Runs until it is stopped.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = script => ended?,
        () = view.follow(&topology, &mut events) => {}
    }
    topology.close().await;
    // All events have been sent.
    while let Ok(event) = events.try_recv() {
        view.show(&event)?;
    }
    if let Some(set) = embedded {
        set.shutdown().await;
    }
    Ok(())
}

async fn start_embedded() -> Deployment {
    let mut set = Deployment::replica_set("embedded");
    for dc in ["ny", "sf", "la"] {
        set = set.member(MemberSpec::default().tag("dc", dc));
    }
    set.member(MemberSpec::new(MemberKind::Arbiter))
        .start()
        .await
}

/// A step-down, an election, a kill of the primary, an election, a restart.
async fn fail_over(set: &Deployment, topology: &Topology) -> Result<(), Fatal> {
    let is = |known: &TopologyDescription, member: usize, wanted: ServerType| {
        let mut servers = known.servers().iter();
        servers.any(|server| {
            server.address.to_string() == set.address(member) && server.server_type == wanted
        })
    };
    let all_known = |known: &TopologyDescription| {
        let mut servers = known.servers().iter();
        servers.all(|server| server.server_type != ServerType::Unknown)
    };
    wait_for(topology, |known| {
        known.servers().len() == 4 && all_known(known)
    })
    .await?;
    set.step_down(0);
    wait_for(topology, |known| is(known, 0, ServerType::RsSecondary)).await?;
    set.elect(1);
    wait_for(topology, |known| is(known, 1, ServerType::RsPrimary)).await?;
    set.kill(1).await;
    wait_for(topology, |known| is(known, 1, ServerType::Unknown)).await?;
    set.elect(2);
    wait_for(topology, |known| is(known, 2, ServerType::RsPrimary)).await?;
    set.restart(1).await;
    wait_for(topology, |known| is(known, 1, ServerType::RsSecondary)).await
}

async fn wait_for(
    topology: &Topology,
    is_it: impl Fn(&TopologyDescription) -> bool,
) -> Result<(), Fatal> {
    let mut changes = topology.subscribe();
    changes.wait_for(|known| is_it(known)).await?;
    if std::io::stdout().is_terminal() {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The state of the screen.
struct View {
    is_terminal: bool,
    start: Instant,
    recent: VecDeque<String>,
    /// Whether an event was shown since the last table.
    has_news: bool,
}

impl View {
    fn new() -> Self {
        Self {
            is_terminal: std::io::stdout().is_terminal(),
            start: Instant::now(),
            recent: VecDeque::new(),
            has_news: false,
        }
    }

    /// Shows events until the output is closed.
    async fn follow(&mut self, topology: &Topology, events: &mut mpsc::Receiver<SdamEvent>) {
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            // Both are cancel safe: an event that was not received stays in the channel.
            let shown = tokio::select! {
                Some(event) = events.recv() => self.show(&event),
                _ = redraw.tick(), if self.is_terminal => self.draw(&topology.description()),
            };
            if shown.is_err() {
                return;
            }
        }
    }

    fn show(&mut self, event: &SdamEvent) -> std::io::Result<()> {
        if let Some(line) = tell(event) {
            let at = self.start.elapsed().as_secs_f64();
            let line = format!("{at:>8.3} s  {line}");
            if !self.is_terminal {
                writeln!(std::io::stdout(), "{line}")?;
            }
            self.recent.push_back(line);
            self.has_news = true;
            while self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        match event {
            SdamEvent::TopologyDescriptionChanged(event) if self.has_news => {
                self.draw(&event.new_description)
            }
            _ => Ok(()),
        }
    }

    fn draw(&mut self, known: &TopologyDescription) -> std::io::Result<()> {
        // The topology is closed: the last table stays.
        if known.servers().is_empty() {
            return Ok(());
        }
        self.has_news = false;
        let mut text = table(known);
        let mut out = std::io::stdout().lock();
        if self.is_terminal {
            text.push_str("\nrecent events\n");
            text.extend(self.recent.iter().flat_map(|line| [line.as_str(), "\n"]));
            // Moves the cursor home, and erases the rest of each line and all lines below.
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
        } else {
            writeln!(out, "\n{text}")?;
        }
        out.flush()
    }
}

fn table(known: &TopologyDescription) -> String {
    let name = known.set_name().map_or("no replica set", |name| name);
    let mut text = format!("{}, {name}\n\n", known.topology_type());
    let heading = ["ADDRESS", "TYPE", "RTT", "TAGS", "UPDATED", "ERROR"].map(str::to_owned);
    let rows: Vec<_> = [heading]
        .into_iter()
        .chain(known.servers().iter().map(|server| row(server)))
        .collect();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max();
            let _ = write!(text, "{cell:<width$}  ", width = width.unwrap_or(0));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn row(server: &ServerDescription) -> [String; 6] {
    let tags: Vec<_> = server
        .tags
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let round_trip_time = server
        .round_trip_time
        .map(|time| format!("{:.2} ms", time.as_secs_f64() * 1e3));
    let updated = server
        .last_update_time
        .map(|at| format!("{:.1} s ago", at.elapsed().as_secs_f64()));
    [
        server.address.to_string(),
        server.server_type.to_string(),
        round_trip_time.unwrap_or_default(),
        tags.join(" "),
        updated.unwrap_or_default(),
        server
            .error
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    ]
}

/// An event as a line; `None` for frequent ones.
fn tell(event: &SdamEvent) -> Option<String> {
    Some(match event {
        SdamEvent::TopologyOpening(_) => "topology opened".to_owned(),
        SdamEvent::TopologyClosed(_) => "topology closed".to_owned(),
        SdamEvent::TopologyDescriptionChanged(event) => {
            let types = [&event.previous_description, &event.new_description];
            let [before, now] = types.map(|known| known.topology_type());
            if before == now {
                return None;
            }
            format!("topology {before} -> {now}")
        }
        SdamEvent::ServerOpening(event) => format!("server {} added", event.address),
        SdamEvent::ServerClosed(event) => format!("server {} removed", event.address),
        SdamEvent::ServerDescriptionChanged(event) => {
            let before = event.previous_description.server_type;
            let now = event.new_description.server_type;
            if before == now {
                return None;
            }
            format!("server {} {before} -> {now}", event.address)
        }
        SdamEvent::ServerHeartbeatFailed(event) => {
            format!("server {} check failed: {}", event.address, event.failure)
        }
        _ => return None,
    })
}
