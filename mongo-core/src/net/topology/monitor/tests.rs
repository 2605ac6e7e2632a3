use super::*;
use crate::net::TransportBuilder;
use crate::net::connection::establish::tests::{Manner, server};

/// The result of the first check of a host whose addresses have servers that behave as given.
async fn checked(manners: &[Manner]) -> Progress {
    let mut addresses = Vec::new();
    for manner in manners {
        addresses.push(server(*manner).await);
    }
    let options = ClientOptions::parse("mongodb://db.example").expect("a connection string");
    let transport = TransportBuilder::default().build(&options).expect("TCP");
    let metadata = Metadata::of(&options).expect("short");
    let monitoring = Monitoring::new(&options, transport, metadata, &crate::net::PROCESS);
    let host = ServerAddress::tcp("db.example", 27017);
    let mut link = Link::default();
    link.connect(&monitoring, &host, Untried::of(addresses));
    loop {
        let stepped = tokio::time::timeout(Duration::from_secs(20), link.stepped());
        let stepped = stepped.await.expect("in time");
        match link.advance(&monitoring, &host, stepped) {
            Progress::Opening | Progress::Connected => {}
            end => return end,
        }
    }
}

#[tokio::test]
async fn an_address_that_ends_connections_before_an_answer_does_not_hide_a_good_one() {
    use Manner::{Answers, BreaksOff, HangsUp, Resets};
    for manners in [&[HangsUp, Answers][..], &[Resets, HangsUp, Answers]] {
        let end = checked(manners).await;
        assert!(matches!(end, Progress::Replied), "{manners:?}");
    }
    for manners in [&[HangsUp][..], &[BreaksOff, Answers]] {
        let end = checked(manners).await;
        assert!(matches!(end, Progress::Failed(_)), "{manners:?}");
    }
}
