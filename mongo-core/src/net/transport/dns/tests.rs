use std::time::Duration;

use super::*;
use crate::ErrorKind;
use crate::pools::ConnectionFactory;

/// Answers lookups after a delay.
struct Stub {
    srv: Answer<SrvRecord>,
    txt: Answer<TxtRecord>,
}

struct Answer<T> {
    after: Duration,
    outcome: Result<Vec<T>, io::ErrorKind>,
}

impl<T: Clone> Answer<T> {
    fn now(outcome: Result<Vec<T>, io::ErrorKind>) -> Self {
        Self {
            after: Duration::ZERO,
            outcome,
        }
    }

    async fn give(&self) -> io::Result<Vec<T>> {
        tokio::time::sleep(self.after).await;
        self.outcome.clone().map_err(io::Error::from)
    }
}

#[async_trait]
impl DnsResolver for Stub {
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>> {
        assert_eq!(name, "_mongodb._tcp.c.example.com");
        self.srv.give().await
    }

    async fn txt_lookup(&self, name: &str) -> io::Result<Vec<TxtRecord>> {
        assert_eq!(name, "c.example.com");
        self.txt.give().await
    }
}

fn good() -> Stub {
    let record = |port| SrvRecord {
        target: "a.example.com.".to_owned(),
        port,
        priority: 0,
        weight: 0,
        ttl: Duration::from_secs(90),
    };
    Stub {
        srv: Answer::now(Ok(vec![record(1), record(2)])),
        txt: Answer::now(Ok(vec![TxtRecord {
            strings: vec![b"replicaSet=rs".to_vec()],
        }])),
    }
}

async fn run(uri: &str, stub: &Stub, deadline: Deadline) -> Result<ClientOptions> {
    resolve(ClientOptions::parse(uri)?, stub, system_random, deadline).await
}

const URI: &str = "mongodb+srv://c.example.com.";

#[tokio::test(start_paused = true)]
async fn both_lookups_run_side_by_side() {
    let mut stub = good();
    stub.srv.after = Duration::from_secs(3);
    stub.txt.after = Duration::from_secs(2);
    let deadline = Deadline::after(Duration::from_secs(4));
    let options = run(URI, &stub, deadline).await.expect("options");
    assert_eq!(deadline.elapsed(), Duration::from_secs(3));
    let hosts: Vec<_> = options.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a.example.com:1", "a.example.com:2"]);
    assert_eq!(options.replica_set.as_deref(), Some("rs"));
}

#[tokio::test(start_paused = true)]
async fn options_with_hosts_need_no_dns() {
    let mut stub = good();
    stub.srv.after = Duration::MAX;
    let options = run("mongodb://b", &stub, Deadline::never()).await;
    assert_eq!(options.expect("options").hosts[0].host(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_deadline_and_connect_timeout_ends_it() {
    let mut stub = good();
    stub.txt.after = Duration::from_secs(3600);
    let quick = "mongodb+srv://c.example.com/?connectTimeoutMS=2000";
    for (uri, bound, wanted) in [(URI, None, 10), (URI, Some(4), 4), (quick, Some(4), 2)] {
        let (srv, txt) = (
            "SRV records of _mongodb._tcp.c.example.com",
            "TXT records of c.example.com",
        );
        for (after, name) in [(3600, srv), (0, txt)] {
            stub.srv.after = Duration::from_secs(after);
            a_silence_names_its_record(uri, &stub, bound, wanted, name).await;
        }
    }
}

async fn a_silence_names_its_record(
    uri: &str,
    stub: &Stub,
    bound: Option<u64>,
    wanted: u64,
    name: &str,
) {
    let deadline = Deadline::never().within(bound.map(Duration::from_secs));
    let error = run(uri, stub, deadline).await.expect_err("too slow");
    assert_eq!(deadline.elapsed(), Duration::from_secs(wanted));
    assert!(error.is_timeout());
    let text = error.to_string();
    assert!(text.contains("looking up hosts in DNS"), "{text}");
    assert!(text.contains(name), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_names_the_record_and_does_not_wait_for_the_other_lookup() {
    let mut stub = good();
    stub.srv = Answer::now(Err(io::ErrorKind::ConnectionRefused));
    stub.txt.after = Duration::from_secs(3600);
    let error = run(URI, &stub, Deadline::never())
        .await
        .expect_err("refused");
    assert!(matches!(
        error.kind(),
        ErrorKind::Srv(SrvError::Lookup { record_type: RecordType::Srv, error, .. })
            if error.kind() == io::ErrorKind::ConnectionRefused
    ));
    let text = error.to_string();
    assert!(
        text.contains("SRV records of _mongodb._tcp.c.example.com"),
        "{text}"
    );
    let mut stub = good();
    stub.txt = Answer::now(Err(io::ErrorKind::TimedOut));
    let error = run(URI, &stub, Deadline::never())
        .await
        .expect_err("no TXT");
    assert!(
        error.to_string().contains("TXT records of c.example.com"),
        "{error}"
    );
}

#[tokio::test]
async fn an_impossible_name_is_not_asked_for() {
    let label = "l".repeat(64);
    let error = run(
        &format!("mongodb+srv://{label}.example.com"),
        &good(),
        Deadline::never(),
    )
    .await
    .expect_err("too long");
    assert!(matches!(error.kind(), ErrorKind::Srv(SrvError::Name(_))));
}

#[tokio::test]
async fn a_factory_takes_resolved_options_and_refuses_others() {
    let uri = "mongodb+srv://c.example.com/?tls=false";
    let options = run(uri, &good(), Deadline::never()).await.expect("options");
    let factory = ConnectionFactory::builder(options).build().expect("hosts");
    let shown = format!("{factory:?}");
    assert!(shown.contains("a.example.com"), "{shown}");
    let unresolved = ClientOptions::parse(uri).expect("options");
    let error = ConnectionFactory::builder(unresolved).build();
    let error = error.expect_err("no hosts").to_string();
    assert!(error.contains("mongo_core::net::resolve"), "{error}");
    assert!(error.contains("use `Pools`"), "{error}");
}

#[cfg(not(feature = "dns"))]
#[test]
fn without_a_resolver_the_error_names_the_feature() {
    use crate::net::{SingleClient, Topology};
    let options = || ClientOptions::parse("mongodb+srv://c.example.com/?tls=false");
    let refusals = [
        Topology::new(options().expect("options")).map(drop),
        SingleClient::new(options().expect("options")).map(drop),
    ];
    for refusal in refusals {
        let text = refusal.expect_err("no resolver").to_string();
        assert!(text.contains("the feature `dns`"), "{text}");
    }
}

#[test]
fn randomness_is_not_the_same_twice() {
    assert_ne!(system_random(), system_random());
}
