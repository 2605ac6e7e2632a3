//! Cases that the specifications' JSON tests do not cover.

mod events;
mod fields;
mod hostile;
mod safety;
mod secrets;
mod table;

use std::time::Duration;

use super::*;
use crate::address::ServerAddress;
use crate::auth::{AuthMechanism, Credential, CredentialError};
use crate::concern::WriteConcernError;

fn parse(uri: &str) -> ClientOptions {
    ClientOptions::parse(uri).unwrap_or_else(|error| panic!("{uri} was refused: {error}"))
}

fn refused(uri: &str) -> UriError {
    match ClientOptions::parse(uri) {
        Ok(_) => panic!("{uri} was taken"),
        Err(error) => error,
    }
}

/// The warnings as texts.
fn warnings(uri: &str) -> Vec<String> {
    parse(uri)
        .warnings()
        .iter()
        .map(UriWarning::to_string)
        .collect()
}

#[test]
fn the_documented_defaults_hold() {
    let options = parse("mongodb://localhost");
    assert_eq!(options, ClientOptions::default());
    assert_eq!(options.connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!(options.max_pool_size, 100);
    assert_eq!(options.max_connecting, 2);
    assert_eq!(options.heartbeat_frequency, Duration::from_secs(10));
    assert_eq!(options.local_threshold, Duration::from_millis(15));
    assert_eq!(options.server_selection_timeout, Duration::from_secs(30));
    assert!(options.retry_reads && options.retry_writes && !options.uses_tls());
    assert_eq!(options.validate(), Ok(()));
}

#[test]
fn zero_is_no_limit_where_the_specification_says_so() {
    let options = parse(
        "mongodb://h/?connectTimeoutMS=0&socketTimeoutMS=0&maxIdleTimeMS=0&waitQueueTimeoutMS=0\
         &timeoutMS=0&maxPoolSize=0&minPoolSize=5",
    );
    assert_eq!(options.connect_timeout, None);
    assert_eq!(options.socket_timeout, None);
    assert_eq!(options.max_idle_time, None);
    assert_eq!(options.wait_queue_timeout, None);
    assert_eq!(options.timeout, Some(Duration::ZERO));
    assert_eq!((options.max_pool_size, options.min_pool_size), (0, 5));
    assert!(options.warnings().is_empty());
}

#[test]
fn errors_name_the_place() {
    let host = |uri: &str| refused(uri).to_string();
    assert_eq!(
        host("mongodb://a,b:0"),
        "host 2 (at byte 12): its port is not a number from 1 to 65535"
    );
    assert_eq!(
        host("mongodb://u:p@a,b:0"),
        "host 2, \"b\" (at byte 16): its port is not a number from 1 to 65535"
    );
    assert_eq!(host("mongodb://"), "there is no host");
    assert_eq!(host("mongodb://a,,b"), "host 2 (at byte 12): it is empty");
    assert_eq!(
        host("mongodb://h/?w=1&journal"),
        "option 2 (at byte 17) is not of the form name=value"
    );
    assert_eq!(
        host("mongodb://h/a%2Fb"),
        "the database name holds the character '/', which is not allowed"
    );
    assert_eq!(
        host("mongodb://u:p%zz@h"),
        "the password holds a percent sign without two hexadecimal digits; user name and \
         password must be percent-encoded"
    );
}

#[test]
fn texts_that_resemble_hosts_are_refused() {
    for uri in [
        "mongodb://a%3A1",
        "mongodb://a%2Cb",
        "mongodb://a%00b",
        "mongodb://a%0Ab",
        "mongodb://%2Ftmp%2Fa%00.sock",
        "mongodb://[::1",
        "mongodb://[::g]",
        "mongodb://a b",
        "mongodb://%ff",
        "mongodb://%2Ftmp%2Fno-socket",
    ] {
        assert!(matches!(refused(uri), UriError::Host { .. }), "{uri}");
    }
}

#[test]
fn srv_names_one_host_without_port_and_turns_tls_on() {
    let options = parse("mongodb+srv://Cluster.Example.com/db?srvMaxHosts=3");
    let srv = options.srv.as_ref().expect("an SRV name");
    assert_eq!(srv.host_name, "cluster.example.com");
    assert_eq!((srv.service_name.as_str(), srv.max_hosts), ("mongodb", 3));
    assert!(options.hosts.is_empty() && options.uses_tls());
    assert!(!parse("mongodb+srv://a.b.c/?tls=false").uses_tls());
    for (uri, expected) in [
        ("mongodb+srv://a.b.c,d.e.f", HostProblem::SeveralForSrv),
        ("mongodb+srv://a.b.c:27017", HostProblem::PortForSrv),
        ("mongodb+srv://127.0.0.1", HostProblem::AddressForSrv),
        ("mongodb+srv://[::1]", HostProblem::AddressForSrv),
        ("mongodb+srv://%2Ftmp%2Fa.sock", HostProblem::AddressForSrv),
    ] {
        match refused(uri) {
            UriError::Host { problem, .. } => assert_eq!(problem, expected, "{uri}"),
            error => panic!("{uri}: {error:?}"),
        }
    }
    let direct = refused("mongodb+srv://a.b.c/?directConnection=true");
    assert!(matches!(direct, UriError::Conflict { .. }));
    assert_eq!(
        refused("mongodb+srv://"),
        UriError::NoHost,
        "no host at all"
    );
}

#[test]
fn other_tls_options_imply_tls() {
    assert!(parse("mongodb://h/?tlsCAFile=ca.pem").uses_tls());
    assert!(parse("mongodb://h/?tlsInsecure=true").uses_tls());
    assert!(!parse("mongodb://h/?tlsInsecure=false").uses_tls());
    assert!(!parse("mongodb://h/?tls=false&tlsCAFile=ca.pem").uses_tls());
}

#[test]
fn the_password_may_come_later() {
    let mut options = parse("mongodb://alice@h/db");
    let missing = UriError::Credential(CredentialError::PasswordMissing(None));
    assert_eq!(options.validate(), Err(missing));
    options.credential = options.credential.map(|it| it.with_password("p"));
    assert_eq!(options.validate(), Ok(()));
    let credential = options.credential.expect("a credential");
    assert_eq!(credential.source(), Some("db"));
}

#[test]
fn aws_credentials_in_the_string_are_refused() {
    for uri in [
        "mongodb://key:secret@h/?authMechanism=MONGODB-AWS",
        "mongodb://key@h/?authMechanism=MONGODB-AWS",
        "mongodb://h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:t",
    ] {
        assert!(matches!(refused(uri), UriError::Credential(_)), "{uri}");
    }
    let negative = warnings("mongodb://h/?wTimeoutMS=-500");
    assert_eq!(
        negative,
        ["wTimeoutMS is ignored: it is not a number of milliseconds in the allowed range"]
    );
}

#[test]
fn a_mechanism_is_known_or_an_error() {
    let of = |name: &str| refused(&format!("mongodb://u:p@h/?authMechanism={name}"));
    assert_eq!(of("MONGODB-CR"), CredentialError::RemovedMechanism.into());
    assert_eq!(
        of("SCRAM-SHA-512"),
        CredentialError::UnknownMechanism.into()
    );
    let service = parse("mongodb://u@h/?authMechanism=GSSAPI&gssapiServiceName=other");
    let credential = service.credential.as_ref().expect("a credential");
    assert_eq!(credential.mechanism(), Some(AuthMechanism::Gssapi));
    assert_eq!(credential.mechanism_property("service_name"), Some("other"));
    assert_eq!(service.warnings().len(), 1);
}

#[test]
fn warnings_name_the_ignored_option() {
    for (query, expected) in [
        ("nope=1", "option 1, \"nope\", is unknown and ignored"),
        ("w=1&no%70e=1", "option 2 is unknown and ignored"),
        (
            "retryReads=1",
            "retryReads has a deprecated form; write retryReads=true",
        ),
        (
            "appname=a&appname=b",
            "appname is given more than once; the last valid one is used",
        ),
        ("wtimeout=5", "wtimeout is deprecated; use wTimeoutMS"),
        (
            "wTimeoutMS=6&wtimeout=5",
            "wtimeout is deprecated and ignored because wTimeoutMS is given",
        ),
        (
            "authMechanismProperties=A:b",
            "authMechanismProperties has no effect without authMechanism",
        ),
        (
            "appname=%ff",
            "appname is ignored: it is not percent-encoded UTF-8",
        ),
        (
            "maxStalenessSeconds=89",
            "maxStalenessSeconds is ignored: it is not -1 or at least 90 seconds",
        ),
        (
            "heartbeatFrequencyMS=499",
            "heartbeatFrequencyMS is ignored: it is not a number of milliseconds in the allowed range",
        ),
        (
            "maxPoolSize=+5",
            "maxPoolSize is ignored: it is not a number in the allowed range",
        ),
        (
            "maxPoolSize=2147483648",
            "maxPoolSize is ignored: it is not a number in the allowed range",
        ),
        (
            "connectTimeoutMS=5s",
            "connectTimeoutMS is ignored: it is not a number of milliseconds in the allowed range",
        ),
        (
            "compressors=snoopy,zlib",
            "compressors is ignored: it is not a list of snappy, zlib and zstd",
        ),
        (
            "readConcernLevel=",
            "readConcernLevel is ignored: it is not a text that is not empty",
        ),
    ] {
        assert_eq!(
            warnings(&format!("mongodb://h/?{query}")),
            [expected],
            "{query}"
        );
    }
    let name = "x".repeat(129);
    assert_eq!(warnings(&format!("mongodb://h/?appname={name}")).len(), 1);
    let options = parse("mongodb://h/?compressors=snoopy,zlib,zlib&w=1&wTimeoutMS=6&wtimeout=5");
    assert_eq!(options.compressors, [Compressor::Zlib]);
    let w_timeout = options.write_concern.w_timeout;
    assert_eq!(w_timeout, Some(Duration::from_millis(6)));
}

#[test]
fn empty_pairs_are_no_options() {
    assert!(warnings("mongodb://h/?").is_empty());
    assert!(warnings("mongodb://h?&&w=1&").is_empty());
    assert!(matches!(
        refused("mongodb://h/?=1"),
        UriError::OptionSyntax { number: 1, at: 13 }
    ));
}

#[test]
fn tag_sets_keep_their_order_and_their_empty_one() {
    let options = parse(
        "mongodb://h/?readPreference=nearest&readPreferenceTags=dc:ny,rack:1\
         &readPreferenceTags=url:a:b&readPreferenceTags=",
    );
    let sets = &options.read_preference.tag_sets;
    assert_eq!(sets.len(), 3);
    assert_eq!(sets[0]["rack"], "1");
    assert_eq!(sets[1]["url"], "a:b");
    assert!(sets[2].is_empty());
    for query in ["readPreferenceTags=dc:ny", "maxStalenessSeconds=120"] {
        let error = refused(&format!("mongodb://h/?{query}"));
        assert!(matches!(error, UriError::ReadPreference(_)), "{query}");
    }
}

#[test]
fn options_set_by_hand_have_the_same_rules() {
    let with = |change: fn(&mut ClientOptions)| {
        let mut options = ClientOptions::new([ServerAddress::tcp("h", 1)]);
        change(&mut options);
        options.validate().expect_err("a broken rule")
    };
    let option = |error| match error {
        UriError::Option { option, .. } => option,
        error => panic!("{error:?}"),
    };
    assert_eq!(with(|it| it.hosts.clear()), UriError::NoHost);
    assert_eq!(option(with(|it| it.max_connecting = 0)), "maxConnecting");
    assert_eq!(option(with(|it| it.min_pool_size = 101)), "minPoolSize");
    assert_eq!(
        option(with(|it| it.zlib_compression_level = 10)),
        "zlibCompressionLevel"
    );
    assert_eq!(
        option(with(|it| it.app_name = Some("x".repeat(129)))),
        "appname"
    );
    let slow = with(|it| it.heartbeat_frequency = Duration::from_millis(499));
    assert_eq!(option(slow), "heartbeatFrequencyMS");
    assert_eq!(
        with(|it| it.write_concern = crate::WriteConcern::nodes(0).with_journal(true)),
        WriteConcernError::UnacknowledgedJournal.into()
    );
    let aws = with(|it| {
        let mechanism = AuthMechanism::MongoDbAws;
        it.credential = Some(Credential::new("u", "p").with_mechanism(mechanism));
    });
    assert!(matches!(aws, UriError::Credential(_)));
    let tls = with(|it| {
        it.tls.insecure = Some(false);
        it.tls.allow_invalid_hostnames = Some(false);
    });
    assert!(matches!(tls, UriError::Conflict { .. }));
}

#[test]
fn a_check_out_heeds_time_out_ms_first() {
    let wait = |options: &str| {
        let options = ClientOptions::parse(&format!("mongodb://h/?{options}"));
        options.expect("options").wait_timeout()
    };
    let millis = |millis| Some(Duration::from_millis(millis));
    assert_eq!(wait(""), None);
    assert_eq!(wait("waitQueueTimeoutMS=20"), millis(20));
    assert_eq!(wait("timeoutMS=10&waitQueueTimeoutMS=20"), millis(10));
    assert_eq!(wait("timeoutMS=0&waitQueueTimeoutMS=20"), millis(20));
    assert_eq!(wait("timeoutMS=0"), None, "no wait is endless");
}
