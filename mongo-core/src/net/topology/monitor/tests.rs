use std::time::Duration;

use super::link::{Link, Progress};
use super::*;
use crate::ServerAddress;
use crate::error::Wait;
use crate::net::TransportBuilder;
use crate::net::connection::establish::tests::{Manner, server};
use crate::net::transport::connector::Untried;

const PLAIN: &str = "mongodb://db.example";

/// How the first check of a host ends whose addresses have servers of these manners, and what was
/// waited for after each step before.
async fn checked(uri: &str, manners: &[Manner]) -> (Progress, Vec<Option<Wait>>) {
    let mut addresses = Vec::new();
    for manner in manners {
        addresses.push(server(*manner).await);
    }
    let options = ClientOptions::parse(uri).expect("a connection string");
    let transport = TransportBuilder::default().build(&options).expect("TCP");
    let metadata = Metadata::of(&options).expect("short");
    let monitoring = Monitoring::new(&options, transport, metadata, &crate::net::PROCESS);
    let host = ServerAddress::tcp("db.example", 27017);
    let mut link = Link::default();
    link.connect(&monitoring, &host, Untried::of(addresses));
    let mut waits = vec![link.opening];
    loop {
        let stepped = tokio::time::timeout(Duration::from_secs(20), link.stepped());
        let stepped = stepped.await.expect("in time");
        match link.advance(&monitoring, &host, stepped) {
            Progress::Opening | Progress::Connected => waits.push(link.opening),
            end => return (end, waits),
        }
    }
}

#[tokio::test]
async fn an_address_that_ends_connections_before_an_answer_does_not_hide_a_good_one() {
    use Manner::{Answers, BreaksOff, HangsUp, Resets};
    for manners in [&[HangsUp, Answers][..], &[Resets, HangsUp, Answers]] {
        let (end, waits) = checked(PLAIN, manners).await;
        assert!(matches!(end, Progress::Replied), "{manners:?}");
        // Nothing but the hello is waited for where a connection is open.
        let expected = [Some(Wait::Connect), None].repeat(manners.len());
        assert_eq!(waits, expected, "{manners:?}");
    }
    for manners in [&[HangsUp][..], &[BreaksOff, Answers]] {
        let (end, _) = checked(PLAIN, manners).await;
        assert!(matches!(end, Progress::Failed(_)), "{manners:?}");
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn an_address_that_ends_connections_before_tls_does_not_hide_another() {
    let uri = format!("{PLAIN}/?tls=true&tlsInsecure=true");
    let (end, waits) = checked(&uri, &[Manner::HangsUp; 3]).await;
    assert!(matches!(end, Progress::Failed(_)));
    let expected = [Some(Wait::Connect), Some(Wait::Tls)].repeat(3);
    assert_eq!(waits, expected);
}
