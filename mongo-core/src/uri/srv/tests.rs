use super::*;
use crate::auth::{Credential, CredentialError};
use crate::uri::UriWarning;

fn record(target: &str, port: u16) -> SrvRecord {
    SrvRecord {
        target: target.to_owned(),
        port,
        priority: 0,
        weight: 5,
        ttl: Duration::from_secs(86400),
    }
}

fn txt(text: &str) -> TxtRecord {
    TxtRecord {
        strings: vec![text.as_bytes().to_vec()],
    }
}

fn parse(uri: &str) -> ClientOptions {
    ClientOptions::parse(uri).expect("a connection string")
}

/// SplitMix64.
fn generator(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn looked_up(uri: &str, targets: &[&str], texts: &[&str]) -> Result<ClientOptions, SrvError> {
    let records: Vec<_> = targets.iter().map(|target| record(target, 27017)).collect();
    let texts: Vec<_> = texts.iter().map(|text| txt(text)).collect();
    parse(uri).with_records(&records, &texts, &mut generator(1))
}

const CLUSTER: &str = "mongodb+srv://c.example.com";

fn with_txt(uri: &str, text: &str) -> Result<ClientOptions, SrvError> {
    looked_up(uri, &["h.example.com"], &[text])
}

#[test]
fn prose_1_allow_srvs_with_fewer_than_3_parts() {
    for (uri, host) in [
        ("mongodb+srv://localhost", "test_1.localhost"),
        ("mongodb+srv://mongo.local", "test_1.mongo.local"),
    ] {
        let options = looked_up(uri, &[host], &[]).expect(uri);
        assert_eq!(options.hosts, [ServerAddress::tcp(host, 27017)]);
    }
}

#[test]
fn prose_2_throw_when_return_address_does_not_end_with_srv_domain() {
    for (uri, target, wanted) in [
        ("mongodb+srv://localhost", "localhost.mongodb", "localhost"),
        (
            "mongodb+srv://mongo.local",
            "test_1.evil.local",
            "mongo.local",
        ),
        (
            "mongodb+srv://blogs.mongodb.com",
            "blogs.evil.com",
            "mongodb.com",
        ),
    ] {
        match looked_up(uri, &[target], &[]) {
            Err(SrvError::ForeignHost { host, domain }) => {
                assert_eq!((host.as_str(), domain.as_str()), (target, wanted));
            }
            other => panic!("{uri}: {other:?}"),
        }
    }
}

#[test]
fn prose_3_throw_when_return_address_is_identical_to_srv_hostname() {
    for name in ["localhost", "mongo.local"] {
        let outcome = looked_up(&format!("mongodb+srv://{name}"), &[name], &[]);
        assert!(
            matches!(&outcome, Err(SrvError::SameHost(host)) if host == name),
            "{outcome:?}"
        );
    }
    // With three labels the name itself is allowed, like any other below the domain.
    assert!(looked_up(CLUSTER, &["c.example.com"], &[]).is_ok());
}

#[test]
fn prose_4_throw_when_return_address_lacks_the_dot_before_the_shared_domain() {
    for (uri, target) in [
        ("mongodb+srv://localhost", "test_1.cluster_1localhost"),
        ("mongodb+srv://mongo.local", "test_1.my_hostmongo.local"),
        ("mongodb+srv://blogs.mongodb.com", "cluster.testmongodb.com"),
    ] {
        let outcome = looked_up(uri, &[target], &[]);
        assert!(
            matches!(&outcome, Err(SrvError::ForeignHost { host, .. }) if host == target),
            "{outcome:?}"
        );
    }
}

#[test]
fn the_domain_itself_is_not_below_it() {
    let outcome = looked_up("mongodb+srv://a.b.example.com", &["b.example.com"], &[]);
    assert!(matches!(outcome, Err(SrvError::ForeignHost { .. })));
}

#[test]
fn one_bad_host_spoils_all() {
    let outcome = looked_up(CLUSTER, &["a.example.com", "b.evil.com"], &[]);
    assert!(matches!(&outcome, Err(SrvError::ForeignHost { host, .. }) if host == "b.evil.com"));
}

#[test]
fn case_and_final_dots_do_not_matter() {
    let mut options = parse("mongodb+srv://C.Example.com.");
    let srv = options.srv.clone().expect("srv");
    assert_eq!(
        srv.record_name().expect("a name"),
        "_mongodb._tcp.c.example.com"
    );
    let records = [record("A.EXAMPLE.com.", 1), record("a.example.com", 1)];
    options = options
        .with_records(&records, &[], &mut generator(1))
        .expect("hosts");
    assert_eq!(options.hosts, [ServerAddress::tcp("a.example.com", 1)]);
    // Two labels and a trailing dot are two labels.
    let short = SrvOptions::new("mongo.local.");
    assert_eq!(short.domain_name(), "mongo.local");
}

#[test]
fn malformed_hosts_are_refused() {
    let label = "l".repeat(64);
    let long = format!("{}.example.com", ["l".repeat(60).as_str(); 4].join("."));
    for target in [
        "",
        ".",
        ".example.com",
        "a..example.com",
        "a b.example.com",
        "a/b.example.com",
        "a:1.example.com",
        "h\u{f6}.example.com",
        "a.example.com..",
        &format!("{label}.example.com"),
        &long,
    ] {
        let outcome = looked_up(CLUSTER, &[target], &[]);
        assert!(
            matches!(outcome, Err(SrvError::Target { .. })),
            "{target:?}: {outcome:?}"
        );
    }
    let outcome =
        parse(CLUSTER).with_records(&[record("a.example.com", 0)], &[], &mut generator(1));
    assert!(matches!(outcome, Err(SrvError::Target { port: 0, .. })));
}

#[test]
fn names_that_dns_cannot_have_are_refused() {
    for host in ["h\u{f6}.example.com", &"a.".repeat(200), &"l".repeat(64)] {
        let outcome = SrvOptions::new(host).record_name();
        assert!(matches!(outcome, Err(SrvError::Name(_))), "{outcome:?}");
    }
}

#[test]
fn none_and_too_many_records_are_refused() {
    let outcome = looked_up(CLUSTER, &[], &[]);
    assert!(
        matches!(&outcome, Err(SrvError::NoRecords(name)) if name == "_mongodb._tcp.c.example.com")
    );
    let many = vec![record("a.example.com", 1); MAX_SRV_RECORDS + 1];
    let outcome = parse(CLUSTER).with_records(&many, &[], &mut generator(1));
    assert!(matches!(
        outcome,
        Err(SrvError::TooManyRecords { count: 1001, .. })
    ));
}

#[test]
fn the_lowest_ttl_is_kept_for_polling() {
    let mut records = [record("a.example.com", 1), record("b.example.com", 1)];
    records[1].ttl = Duration::from_secs(70);
    let options = parse(CLUSTER)
        .with_records(&records, &[], &mut generator(1))
        .expect("hosts");
    let srv = options.srv.expect("srv stays");
    assert_eq!(srv.lowest_ttl, Some(Duration::from_secs(70)));
}

#[test]
fn a_txt_record_gives_defaults_and_no_more() {
    let text = "authSource=db&replicaSet=rs&loadBalanced=false";
    let options = with_txt(CLUSTER, text).expect("options");
    assert_eq!(options.auth_source.as_deref(), Some("db"));
    assert_eq!(options.replica_set.as_deref(), Some("rs"));
    assert_eq!(options.load_balanced, Some(false));
    let uri = "mongodb+srv://c.example.com/?authSource=mine&replicaSet=other&loadBalanced=false";
    let options = with_txt(uri, "authSource=db&replicaSet=rs&loadBalanced=true").expect("options");
    assert_eq!(options.auth_source.as_deref(), Some("mine"));
    assert_eq!(options.replica_set.as_deref(), Some("other"));
    assert_eq!(options.load_balanced, Some(false));
}

#[test]
fn strings_of_a_txt_record_are_joined() {
    let strings = ["replicaS", "et=r\u{f6}", "x"];
    let mut strings: Vec<_> = strings
        .iter()
        .map(|part| part.as_bytes().to_vec())
        .collect();
    // A character may be split between two strings.
    let half = strings[1].pop().expect("a byte");
    strings[2].insert(0, half);
    let options = parse(CLUSTER)
        .with_records(
            &[record("a.example.com", 1)],
            &[TxtRecord { strings }],
            &mut generator(1),
        )
        .expect("options");
    assert_eq!(options.replica_set.as_deref(), Some("r\u{f6}x"));
}

#[test]
fn other_txt_records_are_refused() {
    let refused = |text: &str| with_txt(CLUSTER, text).expect_err(text);
    for option in ["ssl=false", "socketTimeoutMS=5", "unknown=1", "tls=true"] {
        let error = refused(&format!("replicaSet=rs&{option}"));
        let wanted = option.split('=').next().unwrap_or_default();
        assert!(
            matches!(&error, SrvError::TxtOption { option, .. } if option == wanted),
            "{error:?}"
        );
    }
    for text in ["authSource", "=x", "authSource=%4", "authSource="] {
        let error = refused(text);
        assert!(matches!(error, SrvError::Txt { .. }), "{text}: {error:?}");
    }
    assert!(matches!(
        refused(&"a".repeat(MAX_TXT_LENGTH + 1)),
        SrvError::TxtTooLong { length: 4097, .. }
    ));
    let outcome = looked_up(
        CLUSTER,
        &["a.example.com"],
        &["replicaSet=a", "authSource=b"],
    );
    assert!(matches!(
        outcome,
        Err(SrvError::SeveralTxt { count: 2, .. })
    ));
    let bytes = TxtRecord {
        strings: vec![vec![0xff]],
    };
    let outcome =
        parse(CLUSTER).with_records(&[record("a.example.com", 1)], &[bytes], &mut generator(1));
    assert!(matches!(outcome, Err(SrvError::TxtNotText(_))));
}

#[test]
fn a_bad_value_in_a_txt_record_is_a_warning() {
    let options = with_txt(CLUSTER, "loadBalanced=perhaps&replicaSet=rs").expect("options");
    assert_eq!(options.load_balanced, None);
    assert_eq!(options.replica_set.as_deref(), Some("rs"));
    assert!(matches!(
        options.warnings(),
        [UriWarning::BadValue {
            option: "loadBalanced",
            ..
        }]
    ));
}

#[test]
fn the_rules_between_options_hold_with_the_records_too() {
    let broken = |uri: &str, targets: &[&str], text: &str| match looked_up(uri, targets, &[text])
        .expect_err(uri)
    {
        SrvError::Options {
            error: UriError::Conflict { first, second },
            ..
        } => (first, second),
        other => panic!("{other:?}"),
    };
    let one = &["a.example.com"][..];
    let two = &["a.example.com", "b.example.com"][..];
    let limited = "mongodb+srv://c.example.com/?srvMaxHosts=1";
    let balanced = "loadBalanced=true";
    let named = "mongodb+srv://c.example.com/?replicaSet=rs";
    assert_eq!(broken(CLUSTER, two, balanced), (balanced, "several hosts"));
    assert_eq!(broken(limited, one, balanced), (balanced, "srvMaxHosts"));
    assert_eq!(broken(named, one, balanced), (balanced, "replicaSet"));
    let replica_set = "replicaSet=rs";
    assert_eq!(
        broken(limited, one, replica_set),
        ("srvMaxHosts", "replicaSet")
    );
}

#[test]
fn tls_is_on_unless_the_connection_string_says_otherwise() {
    let enabled = |uri| with_txt(uri, "").expect(uri).tls.enabled;
    assert_eq!(enabled(CLUSTER), Some(true));
    assert_eq!(
        enabled("mongodb+srv://c.example.com/?tls=false"),
        Some(false)
    );
}

#[test]
fn the_credential_takes_the_source_of_the_txt_record_before_its_default() {
    let source = |uri: &str, text: &str| {
        let options = with_txt(uri, text).expect(uri);
        let credential = options.credential.expect("a credential");
        credential.source().map(str::to_owned)
    };
    let own = "mongodb+srv://u:p@c.example.com/db?authSource=mine";
    let database = "mongodb+srv://u:p@c.example.com/db";
    let bare = "mongodb+srv://u:p@c.example.com";
    assert_eq!(source(own, "authSource=txt").as_deref(), Some("mine"));
    assert_eq!(source(database, "authSource=txt").as_deref(), Some("txt"));
    assert_eq!(source(database, "").as_deref(), Some("db"));
    assert_eq!(source(bare, "").as_deref(), Some("admin"));
    let x509 = "mongodb+srv://c.example.com/db?authMechanism=MONGODB-X509";
    assert_eq!(source(x509, "").as_deref(), Some("$external"));
    assert!(matches!(
        with_txt(x509, "authSource=txt"),
        Err(SrvError::Options {
            error: UriError::Credential(CredentialError::Source { .. }),
            ..
        })
    ));
}

#[test]
fn a_source_set_by_hand_beats_the_txt_record() {
    let mut options = parse(CLUSTER);
    options.credential = Some(Credential::new("u", "p").with_source("mine"));
    let options = options
        .with_records(
            &[record("a.example.com", 1)],
            &[txt("authSource=txt")],
            &mut generator(1),
        )
        .expect("options");
    assert_eq!(options.auth_source, None);
    let credential = options.credential.expect("a credential");
    assert_eq!(credential.source(), Some("mine"));
}

#[test]
fn a_password_may_still_come() {
    let options = looked_up("mongodb+srv://u@c.example.com", &["a.example.com"], &[]);
    assert!(options.is_ok(), "{options:?}");
}

#[test]
fn options_without_srv_stay_as_they_are() {
    let options = parse("mongodb://a,b");
    let same = options.clone().with_records(&[], &[], &mut generator(1));
    assert_eq!(same.expect("options"), options);
}

#[test]
fn srv_max_hosts_limits_and_never_repeats() {
    let targets = ["a.example.com", "b.example.com", "c.example.com"];
    for (max, wanted) in [(0, 3), (1, 1), (2, 2), (3, 3), (4, 3)] {
        let uri = format!("mongodb+srv://c.example.com/?srvMaxHosts={max}");
        let options = looked_up(&uri, &targets, &[]).expect("options");
        let hosts: HashSet<_> = options.hosts.iter().collect();
        assert_eq!((hosts.len(), options.hosts.len()), (wanted, wanted));
    }
}

/// Each of the ten pairs of five hosts comes up as often as any other: chi-squared with nine
/// degrees of freedom is above 27.9 once in a thousand seeds, and the seed is fixed.
#[test]
fn every_choice_is_as_likely_as_any_other() {
    const ROUNDS: u32 = 100_000;
    let mut random = generator(42);
    let mut counts = [0_u32; 32];
    for _ in 0..ROUNDS {
        let chosen = choose(vec![0, 1, 2, 3, 4], 2, &mut random);
        counts[chosen.iter().fold(0, |set, item| set | 1 << item)] += 1;
    }
    let wanted = f64::from(ROUNDS) / 10.0;
    let seen: Vec<_> = counts.into_iter().filter(|count| *count > 0).collect();
    assert_eq!(seen.len(), 10);
    let chi_squared: f64 = seen
        .iter()
        .map(|count| (f64::from(*count) - wanted).powi(2) / wanted)
        .sum();
    assert!(chi_squared < 27.9, "{chi_squared}: {seen:?}");
}

#[test]
fn a_number_that_would_make_the_choice_uneven_is_drawn_again() {
    // 2^64 is 1 modulo 3 and modulo 5: the number 0 is rejected.
    let mut numbers = [0, 7].into_iter();
    assert_eq!(below(5, &mut || numbers.next().expect("a number")), 2);
    // 2^64 is a multiple of 4: no number is rejected.
    assert_eq!(below(4, &mut || 0), 0);
    // A generator that is stuck does not cause an endless loop.
    assert_eq!(below(3, &mut || 0), 0);
}

/// For any DNS records: no panic, and no host outside of the domain.
#[test]
fn no_answer_gives_a_host_outside_of_the_domain() {
    const PIECES: [&str; 12] = [
        "example.com",
        ".example.com",
        "c.",
        ".",
        "a",
        "_",
        "@",
        ":27017",
        "/",
        "\u{f6}",
        "\0",
        "%2e",
    ];
    const OPTIONS: [&str; 8] = [
        "authSource",
        "replicaSet",
        "loadBalanced",
        "=",
        "&",
        "true",
        "%41",
        "%",
    ];
    let mut random = generator(7);
    let mut text = |pieces: &[&str]| {
        let count = below(6, &mut random);
        (0..count)
            .map(|_| pieces[below(pieces.len(), &mut random)])
            .collect::<String>()
    };
    let mut taken = 0;
    for round in 0..20_000 {
        let target = text(&PIECES);
        // Most options are refused, so half of the hosts are tried without options.
        let options = text(if round % 2 == 0 { &OPTIONS } else { &[""] });
        if let Ok(options) = looked_up(CLUSTER, &[&target], &[&options]) {
            let host = options.hosts[0].host().expect("a host name");
            let below = host.strip_suffix(".example.com").expect("the domain");
            assert!(is_name(below), "{target:?}");
            taken += 1;
        }
    }
    assert!(taken > 50, "{taken}");
}
