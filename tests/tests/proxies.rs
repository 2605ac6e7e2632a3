//! SOCKS5 proxies, correct and faulty ones: the prose test of the specification, and proxies that
//! send wrong replies or stay silent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bson::doc;
use mongo_core::auth::Secret;
use mongo_core::error::{ErrorKind, Wait};
use mongo_core::net::{Connector, ProxyConnector, SingleClient, Stream, Topology};
use mongo_core::pools::ConnectionFactory;
use mongo_core::sdam::{ApplicationError, ErrorPhase, SYSTEM_OVERLOADED_ERROR};
use mongo_core::select::Criterion;
use mongo_core::socks5::ProxyProblem;
use mongo_core::uri::ProxyOptions;
use mongo_core::{ClientOptions, Deadline, Error, ServerAddress};
use mongo_testkit::{Authority, Deployment, ScriptedServer, ServerTls, Socks5Proxy, Socks5Request};

const NAME: &str = "username";
const PASSWORD: &str = "p4ssw0rd";

/// A replica set behind two proxies, one of which requires a password.
struct Setup {
    set: Deployment,
    with_password: Socks5Proxy,
    open: Socks5Proxy,
}

impl Setup {
    async fn start() -> Self {
        let set = Deployment::replica_set("rs").members(3).start().await;
        let primary: SocketAddr = set.address(0).parse().expect("an address");
        let mapped = [("localhost", 12345, primary)];
        Self {
            with_password: Socks5Proxy::start(Some((NAME, PASSWORD)), mapped).await,
            open: Socks5Proxy::start(None, mapped).await,
            set,
        }
    }

    /// The connection string of a row of the specification's table, without the proxy.
    fn uri(&self, mapped: bool) -> String {
        match mapped {
            true => "mongodb://localhost:12345/?directConnection=true".to_owned(),
            false => self.set.uri(),
        }
    }
}

/// A row: whether it uses the mapped host, the proxy's port in the specification, user name and
/// password, and whether it succeeds.
type Row = (bool, u16, Option<(&'static str, &'static str)>, bool);

const BAD: Option<(&str, &str)> = Some(("nonexistentuser", "badauth"));
const GOOD: Option<(&str, &str)> = Some((NAME, PASSWORD));

const ROWS: [Row; 11] = [
    (true, 1080, None, false),
    (true, 1081, None, true),
    (false, 1080, None, false),
    (false, 1081, None, true),
    (true, 1080, BAD, false),
    (true, 1081, BAD, true),
    (false, 1081, BAD, true),
    (true, 1080, GOOD, true),
    (true, 1081, None, true),
    (false, 1080, GOOD, true),
    (false, 1081, None, true),
];

async fn hello_by_all(options: &ClientOptions, direct: bool) -> Result<(), Error> {
    let hello = doc! { "hello": 1 };
    let mut client = SingleClient::new(options.clone())?;
    client.run_command("admin", &hello).await?;
    let topology = Topology::builder(options.clone()).build()?;
    topology.connect()?;
    let selected = topology.select(&Criterion::write()).await;
    topology.close().await;
    selected?;
    if direct {
        let factory = ConnectionFactory::builder(options.clone()).build()?;
        let mut connection = factory.establish(Deadline::never()).await?;
        connection.run_command("admin", &hello).await?;
        let pool = mongo_deadpool::Config::from_options(options.clone()).create_pool(None);
        let mut connection = pool.expect("a pool").get().await?;
        connection.run_command("admin", &hello).await?;
        let pool = mongo_bb8::Config::from_options(options.clone()).create_pool(None);
        let mut connection = pool.expect("a pool").get().await?;
        connection.run_command("admin", &hello).await?;
    }
    Ok(())
}

#[tokio::test]
async fn prose_1_eleven_connection_strings() {
    let setup = Setup::start().await;
    for (row, (mapped, port, credential, succeeds)) in ROWS.into_iter().enumerate() {
        let proxy = match port {
            1080 => &setup.with_password,
            _ => &setup.open,
        };
        let port = proxy.address().port();
        let mut uri = format!("{}&proxyHost=localhost&proxyPort={port}", setup.uri(mapped));
        let mut by_hand = ClientOptions::parse(&setup.uri(mapped)).expect("valid");
        let mut options = ProxyOptions::new("localhost");
        options.port = port;
        if let Some((name, password)) = credential {
            uri += &format!("&proxyUsername={name}&proxyPassword={password}");
            options.credential = Some((name.to_owned(), Secret::new(password)));
        }
        by_hand.proxy = Some(options);
        let parsed = ClientOptions::parse(&uri).expect("valid");
        for mut options in [parsed, by_hand] {
            options.server_selection_timeout = Duration::from_secs(if succeeds { 20 } else { 1 });
            let before = proxy.requests().len();
            let outcome = hello_by_all(&options, mapped).await;
            assert_eq!(outcome.is_ok(), succeeds, "row {row}: {outcome:?}");
            let asked = proxy.requests().len() - before;
            assert_eq!(
                asked > 0,
                succeeds,
                "row {row}: through the proxy or not at all"
            );
        }
    }
    // The client did not look up the name.
    let mapped = Socks5Request {
        host: "localhost".to_owned(),
        by_name: true,
        port: 12345,
    };
    assert!(setup.open.requests().contains(&mapped));
}

#[tokio::test]
async fn events_and_errors_name_the_server() {
    let setup = Setup::start().await;
    let port = setup.open.address().port();
    let uri = setup.uri(false) + &format!("&proxyHost=127.0.0.1&proxyPort={port}");
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = events.clone();
    let topology = Topology::builder(ClientOptions::parse(&uri).expect("valid"))
        .event_handler(move |event| kept.lock().expect("no panic").push(format!("{event:?}")))
        .build()
        .expect("a topology");
    topology.connect().expect("connecting");
    topology
        .select(&Criterion::write())
        .await
        .expect("a primary");
    topology.close().await;
    let events = events.lock().expect("no panic");
    assert!(events.len() > 5);
    for event in events.iter() {
        assert!(!event.contains(&format!("127.0.0.1:{port}")), "{event}");
    }
}

fn options_for(proxy: SocketAddr) -> ClientOptions {
    let uri = format!(
        "mongodb://db.example:27018/?directConnection=true&proxyHost={}&proxyPort={}\
         &proxyUsername=me&proxyPassword=m4rked&connectTimeoutMS=200",
        proxy.ip(),
        proxy.port()
    );
    ClientOptions::parse(&uri).expect("valid")
}

/// The error of core, which both pools must return as well.
async fn failure(options: &ClientOptions) -> Error {
    let factory = ConnectionFactory::builder(options.clone()).build();
    let factory = factory.expect("a factory");
    let begun = Instant::now();
    let error = factory.establish(Deadline::never()).await;
    let error = error.map(drop).expect_err("no server");
    // The timeout is connectTimeoutMS; the rest is for busy machines.
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    let pool = mongo_deadpool::Config::from_options(options.clone()).create_pool(None);
    let by_deadpool = pool
        .expect("a pool")
        .get()
        .await
        .map(drop)
        .expect_err("none");
    let pool = mongo_bb8::Config::from_options(options.clone()).create_pool(None);
    let by_bb8 = pool
        .expect("a pool")
        .get()
        .await
        .map(drop)
        .expect_err("none");
    for other in [&by_deadpool, &by_bb8] {
        let same = std::mem::discriminant(other.kind()) == std::mem::discriminant(error.kind());
        assert!(same, "{other:?} is not like {error:?}");
    }
    for error in [&error, &by_deadpool, &by_bb8] {
        let texts = format!("{error} {error:?}");
        assert!(texts.contains("db.example:27018"), "{texts}");
        assert!(!texts.contains("m4rked"), "{texts}");
        let server = ServerAddress::tcp("db.example", 27018);
        let told = ApplicationError::new(server, error.clone(), ErrorPhase::Establishment);
        assert!(!told.error.has_label(SYSTEM_OVERLOADED_ERROR), "{error}");
    }
    error
}

const GRANTED: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn a_proxy_that_refuses_or_lies_is_named() {
    let chosen = || vec![5, 0];
    type Lies = (Vec<Vec<u8>>, fn(&ProxyProblem) -> bool);
    let lies: Vec<Lies> = vec![
        (vec![vec![5, 0xff]], |problem| {
            matches!(problem, ProxyProblem::NoMethod)
        }),
        (vec![vec![5, 1]], |problem| {
            matches!(problem, ProxyProblem::Method(1))
        }),
        (vec![vec![4, 90]], |problem| {
            matches!(problem, ProxyProblem::Version(4))
        }),
        (
            vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()],
            |problem| matches!(problem, ProxyProblem::Version(b'H')),
        ),
        (vec![vec![5, 2], vec![1, 1]], |problem| {
            matches!(problem, ProxyProblem::Password)
        }),
        (vec![chosen(), vec![5, 5, 0, 1]], |problem| {
            matches!(problem, ProxyProblem::Refused(5))
        }),
        (vec![chosen(), vec![5, 0, 0, 9]], |problem| {
            matches!(problem, ProxyProblem::AddressType(9))
        }),
    ];
    for (answers, fits) in lies {
        let proxy = Socks5Proxy::that_answers(answers.clone()).await;
        let error = failure(&options_for(proxy.address())).await;
        match error.kind() {
            ErrorKind::Proxy(told) => {
                assert!(fits(&told.problem), "{answers:?}: {error}");
                assert_eq!(*told.proxy, *proxy.address().to_string());
            }
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains(&proxy.address().to_string()));
    }
}

#[tokio::test]
async fn a_proxy_that_closes_or_is_unreachable_is_named() {
    for answers in [
        vec![],
        vec![vec![5]],
        vec![vec![5, 0], GRANTED[..7].to_vec()],
    ] {
        let proxy = Socks5Proxy::that_closes_after(answers).await;
        let error = failure(&options_for(proxy.address())).await;
        let told = matches!(error.kind(), ErrorKind::Proxy(told)
            if matches!(told.problem, ProxyProblem::Network(_)));
        assert!(told, "{error:?}");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let refusing = listener.local_addr().expect("bound");
    drop(listener);
    let error = failure(&options_for(refusing)).await;
    let told = matches!(error.kind(), ErrorKind::Proxy(told)
        if matches!(told.problem, ProxyProblem::Connect(_)));
    assert!(told, "{error:?}");
}

#[tokio::test]
async fn a_proxy_that_is_silent_times_out_by_phase() {
    let stalls = [
        vec![],
        vec![vec![5]],
        vec![vec![5, 2]],
        vec![vec![5, 2], vec![1, 0]],
        vec![vec![5, 0], GRANTED[..9].to_vec()],
        vec![vec![5, 0], vec![5, 0, 0, 3, 255]],
    ];
    for answers in stalls {
        let proxy = Socks5Proxy::that_answers(answers.clone()).await;
        let error = failure(&options_for(proxy.address())).await;
        let wait = match error.kind() {
            ErrorKind::Timeout { wait, .. } => *wait,
            other => panic!("{answers:?}: {other:?}"),
        };
        assert_eq!(wait, Wait::Proxy, "{answers:?}");
        assert!(error.to_string().contains("proxy"), "{error}");
    }
}

/// Bytes that a proxy sends ahead of the server's are no reply to a request.
#[tokio::test]
async fn a_proxy_cannot_answer_for_the_server() {
    let ahead = [&GRANTED[..], &[0; 16]].concat();
    let proxy = Socks5Proxy::that_answers([vec![5, 0], ahead]).await;
    let error = failure(&options_for(proxy.address())).await;
    assert!(matches!(error.kind(), ErrorKind::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn credentials_that_do_not_fit_socks5_are_refused_by_name() {
    let mut options = options_for(([127, 0, 0, 1], 1).into());
    let long = "x".repeat(256);
    for (name, password) in [("", "x"), (&*long, "x"), ("x", &*long)] {
        let proxy = options.proxy.as_mut().expect("a proxy");
        proxy.credential = Some((name.to_owned(), Secret::new(password)));
        let error = ConnectionFactory::builder(options.clone()).build();
        let error = error.map(drop).expect_err("refused");
        assert!(
            matches!(error.kind(), ErrorKind::Configuration(_)),
            "{error:?}"
        );
        assert!(!error.to_string().contains(&long), "{error}");
        let error = SingleClient::new(options.clone())
            .map(drop)
            .expect_err("refused");
        assert!(error.to_string().contains("proxy"), "{error}");
        let error = Topology::builder(options.clone()).build().map(drop);
        assert!(error.expect_err("refused").to_string().contains("proxy"));
    }
}

#[tokio::test]
async fn no_password_is_shown() {
    let options = options_for(([127, 0, 0, 1], 1).into());
    let connector = ProxyConnector::new(options.proxy.clone().expect("a proxy"));
    let connector = connector.expect("a connector");
    let deadpool = mongo_deadpool::Config::from_options(options.clone());
    let factory = ConnectionFactory::builder(options.clone()).build();
    let shown = format!(
        "{options:?} {connector:?} {deadpool:?} {:?}",
        factory.expect("one")
    );
    assert!(!shown.contains("m4rked"), "{shown}");
}

#[tokio::test]
async fn a_unix_socket_needs_no_proxy() {
    let server = ScriptedServer::builder().unix().start().await;
    let uri = server.uri() + "&proxyHost=127.0.0.1&proxyPort=1";
    let options = ClientOptions::parse(&uri).expect("valid");
    let connector = ProxyConnector::new(options.proxy.clone().expect("a proxy"));
    let opened = connector.expect("one").connect(&options.hosts[0]).await;
    assert!(matches!(opened, Ok(Stream::Unix(_))));
    hello_by_all(&options, true).await.expect("answers");
}

/// TLS runs through the tunnel. The certificate is verified against the server's own name, which
/// only the proxy can resolve.
#[tokio::test]
async fn tls_is_with_the_server_and_not_with_the_proxy() {
    let authority = Authority::new();
    let identity = authority.issue(&["db.example"], |_| ());
    let tls = ServerTls::new(identity);
    let server = ScriptedServer::builder().tls(tls).start().await;
    let address: SocketAddr = server.address().parse().expect("an address");
    let mapped = [
        ("db.example", 27018, address),
        ("other.example", 27018, address),
    ];
    let proxy = Socks5Proxy::start(None, mapped).await;
    let uri = |host: &str| {
        format!(
            "mongodb://{host}:27018/?directConnection=true&proxyHost=127.0.0.1&proxyPort={}\
             &serverSelectionTimeoutMS=1000&tls=true&tlsCAFile={}",
            proxy.address().port(),
            authority.file().display().to_string().replace('/', "%2F")
        )
    };
    let options = ClientOptions::parse(&uri("db.example")).expect("valid");
    hello_by_all(&options, true).await.expect("answers");
    let other = ClientOptions::parse(&uri("other.example")).expect("valid");
    let factory = ConnectionFactory::builder(other)
        .build()
        .expect("a factory");
    let error = factory.establish(Deadline::never()).await.map(drop);
    let error = error.expect_err("another name");
    assert!(matches!(error.kind(), ErrorKind::Tls(_)), "{error:?}");
}
