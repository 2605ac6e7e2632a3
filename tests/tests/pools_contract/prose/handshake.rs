//! Handshake: "Client Metadata Update Prose Tests" 1 to 9.

use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::handshake::DriverInfo;
use mongo_core::pools::{Backend, ManagerConfig, Pools, ServerPool};
use mongo_core::{Deadline, Error};
use tokio::time::sleep;

use crate::support::{LIMIT, Sim, ping, pool_of};

on_both! {
    on a paused clock:
    updates_of_metadata_are_appended,
    successive_updates_are_appended,
    successive_updates_with_duplicate_data_are_appended_whole,
    metadata_is_not_appended_twice,
    metadata_equal_to_the_initial_one_is_not_appended,
    metadata_equal_to_the_initial_one_is_not_appended_after_other_metadata,
    empty_strings_are_unset_where_metadata_was_appended_before,
    empty_strings_are_unset_where_metadata_is_as_the_initial,
    handshakes_include_backpressure_2,
}

/// Pools of a deployment, or a pool of one server, whose connections are idle for 1 ms at most.
enum Client<B: Backend> {
    Pools(Pools<B>),
    Pool(ServerPool<B>),
}

impl<B: Backend<Config: Default>> Client<B> {
    /// One of each kind; the initial metadata is appended while they are built.
    fn both(sim: &Sim, initial: Option<DriverInfo>) -> [Self; 2] {
        const OPTIONS: &str = "maxIdleTimeMS=1";
        let builder = sim.builder::<B>(OPTIONS);
        let builder = match initial.clone() {
            Some(initial) => builder.driver_info(initial),
            None => builder,
        };
        let pool = pool_of::<B>(sim, OPTIONS, ManagerConfig::default());
        if let Some(initial) = initial {
            pool.factory().append_metadata(initial).expect("room");
        }
        [
            Self::Pools(builder.build().expect("pools")),
            Self::Pool(pool),
        ]
    }

    fn append(&self, driver_info: DriverInfo) -> bool {
        let appended = match self {
            Self::Pools(pools) => pools.append_metadata(driver_info),
            Self::Pool(pool) => pool.factory().append_metadata(driver_info),
        };
        appended.expect("room")
    }

    /// The `client` document of a new connection that a ping ran on; the connection is idle for too
    /// long then.
    async fn ping(&self, sim: &Sim) -> Document {
        let before = last_pinged(sim);
        let pinged: Result<(), Error> = match self {
            Self::Pools(pools) => ping(pools).await.map(drop),
            Self::Pool(pool) => {
                async {
                    let mut connection = pool.get(Deadline::after(LIMIT)).await?;
                    connection.run_command("admin", &doc! {"ping": 1}).await?;
                    Ok(())
                }
                .await
            }
        };
        pinged.expect("a ping");
        let pinged = last_pinged(sim);
        assert_ne!(pinged, before, "a new connection");
        sleep(Duration::from_millis(5)).await;
        let client = sim.set.server(0).look(|seen| {
            let connection = pinged.and_then(|number| seen.connections.get(&number));
            connection.and_then(|own| own.client.clone())
        });
        client.expect("metadata")
    }
}

fn last_pinged(sim: &Sim) -> Option<u64> {
    sim.set
        .server(0)
        .look(|seen| seen.commands("ping").last().map(|ping| ping.connection))
}

fn info(name: &str, version: &str, platform: &str) -> DriverInfo {
    DriverInfo::new(name)
        .with_version(version)
        .with_platform(platform)
}

fn library() -> DriverInfo {
    info("library", "1.2", "Library Platform")
}

/// Its name, version and platform after those of this crate, and all else.
fn parts(mut client: Document) -> ([String; 3], Document) {
    let mut driver = client.remove("driver").expect("a driver");
    let driver = driver.as_document_mut().expect("a document");
    let fields = [
        driver.remove("name"),
        driver.remove("version"),
        client.remove("platform"),
    ];
    let appended = fields.map(|field| {
        let field = field
            .as_ref()
            .and_then(|text| text.as_str())
            .expect("a text");
        field.split('|').skip(1).collect::<Vec<_>>().join("|")
    });
    client.insert("driver", driver.clone());
    (appended, client)
}

/// "Parameterized test cases" of tests 1 and 2, and what they append; empty is null.
const FRAMEWORKS: [(&str, &str); 4] = [
    ("2.0", "Framework Platform"),
    ("2.0", ""),
    ("", "Framework Platform"),
    ("", ""),
];

fn framework(version: &str, platform: &str) -> (DriverInfo, [String; 3]) {
    let mut framework = DriverInfo::new("framework");
    let mut joined = ["library|framework", "1.2", "Library Platform"].map(str::to_owned);
    if !version.is_empty() {
        framework = framework.with_version(version);
        joined[1] = format!("1.2|{version}");
    }
    if !platform.is_empty() {
        framework = framework.with_platform(platform);
        joined[2] = format!("Library Platform|{platform}");
    }
    (framework, joined)
}

/// 1: "Test that the driver updates metadata".
async fn updates_of_metadata_are_appended<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    for (version, platform) in FRAMEWORKS {
        for client in Client::<B>::both(&sim, Some(library())) {
            let (initial, others) = parts(client.ping(&sim).await);
            assert_eq!(initial, ["library", "1.2", "Library Platform"]);
            let (framework, expected) = framework(version, platform);
            assert!(client.append(framework));
            assert_eq!(parts(client.ping(&sim).await), (expected, others));
        }
    }
}

/// 2: "Multiple Successive Metadata Updates".
async fn successive_updates_are_appended<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    for (version, platform) in FRAMEWORKS {
        for client in Client::<B>::both(&sim, None) {
            assert!(client.append(library()));
            let (initial, others) = parts(client.ping(&sim).await);
            assert_eq!(initial, ["library", "1.2", "Library Platform"]);
            let (framework, expected) = framework(version, platform);
            assert!(client.append(framework));
            assert_eq!(parts(client.ping(&sim).await), (expected, others));
        }
    }
}

/// 3: "Multiple Successive Metadata Updates with Duplicate Data".
async fn successive_updates_with_duplicate_data_are_appended_whole<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    for (name, version, platform) in [
        ("library", "1.2", "Library Platform"),
        ("framework", "1.2", "Library Platform"),
        ("library", "2.0", "Library Platform"),
        ("library", "1.2", "Framework Platform"),
        ("framework", "2.0", "Library Platform"),
        ("framework", "1.2", "Framework Platform"),
        ("library", "2.0", "Framework Platform"),
    ] {
        for client in Client::<B>::both(&sim, None) {
            client.append(library());
            let (mut expected, others) = parts(client.ping(&sim).await);
            let is_new = client.append(info(name, version, platform));
            assert_eq!(is_new, info(name, version, platform) != library());
            if is_new {
                expected = [
                    format!("library|{name}"),
                    format!("1.2|{version}"),
                    format!("Library Platform|{platform}"),
                ];
            }
            assert_eq!(parts(client.ping(&sim).await), (expected, others));
        }
    }
}

/// 4: "Multiple Metadata Updates with Duplicate Data".
async fn metadata_is_not_appended_twice<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    for client in Client::<B>::both(&sim, None) {
        assert!(client.append(library()));
        client.ping(&sim).await;
        assert!(client.append(info("framework", "2.0", "Framework Platform")));
        let before = client.ping(&sim).await;
        assert!(!client.append(library()));
        assert_eq!(client.ping(&sim).await, before);
    }
}

/// 5: "Metadata is not appended if identical to initial metadata".
async fn metadata_equal_to_the_initial_one_is_not_appended<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    for client in Client::<B>::both(&sim, Some(library())) {
        let before = client.ping(&sim).await;
        assert!(!client.append(library()));
        assert_eq!(client.ping(&sim).await, before);
    }
}

/// 6: "Metadata is not appended if identical to initial metadata (separated by non-identical
/// metadata)".
async fn metadata_equal_to_the_initial_one_is_not_appended_after_other_metadata<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    for client in Client::<B>::both(&sim, Some(library())) {
        client.ping(&sim).await;
        assert!(client.append(info("framework", "1.2", "Library Platform")));
        let before = client.ping(&sim).await;
        assert!(!client.append(library()));
        assert_eq!(client.ping(&sim).await, before);
    }
}

/// Cases 2 and 3 of tests 7 and 8. A driver's name is never unset here: there is no case 1.
fn unset_and_empty() -> [[DriverInfo; 2]; 2] {
    let no_version = DriverInfo::new("library").with_platform("Library Platform");
    let no_platform = DriverInfo::new("library").with_version("1.2");
    [
        [no_version, info("library", "", "Library Platform")],
        [no_platform, info("library", "1.2", "")],
    ]
}

/// 7: "Empty strings are considered unset when appending duplicate metadata".
async fn empty_strings_are_unset_where_metadata_was_appended_before<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    for [unset, empty] in unset_and_empty() {
        for client in Client::<B>::both(&sim, None) {
            assert!(client.append(unset.clone()));
            let before = client.ping(&sim).await;
            assert!(!client.append(empty.clone()));
            assert_eq!(client.ping(&sim).await, before);
        }
    }
}

/// 8: "Empty strings are considered unset when appending metadata identical to initial metadata".
async fn empty_strings_are_unset_where_metadata_is_as_the_initial<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    for [unset, empty] in unset_and_empty() {
        for client in Client::<B>::both(&sim, Some(unset)) {
            let before = client.ping(&sim).await;
            assert!(!client.append(empty.clone()));
            assert_eq!(client.ping(&sim).await, before);
        }
    }
}

/// 9: "Handshake documents include `backpressure: "2"`".
async fn handshakes_include_backpressure_2<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    for client in Client::<B>::both(&sim, None) {
        client.ping(&sim).await;
    }
    let handshakes: Vec<_> = sim.set.server(0).look(|seen| {
        let all = seen.log.iter().map(|seen| seen.command.clone());
        all.filter(|command| command.contains_key("client"))
            .collect()
    });
    // The monitor's, and one of each pool.
    assert!(handshakes.len() >= 3, "{handshakes:?}");
    for handshake in handshakes {
        let version = handshake.get_str("backpressure").ok();
        assert_eq!(version, Some("2"), "{handshake}");
    }
}
