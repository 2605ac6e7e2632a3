//! Each option sets its own field, to a value that is not its default.

use std::collections::BTreeSet;

use super::*;
use crate::auth::Secret;
use crate::concern::Acknowledgment;
use crate::select::ReadPreferenceMode;

type Check = fn(&ClientOptions) -> bool;

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn credential(options: &ClientOptions) -> &Credential {
    options.credential.as_ref().expect("a credential")
}

const NEAREST: &str = "readPreference=nearest";

/// The text before the option, the option, and the check of its effect.
const CASES: &[(&str, &str, Check)] = &[
    ("", "appname=x", |o| o.app_name.as_deref() == Some("x")),
    ("u@h/?", "authMechanism=GSSAPI", |o| {
        credential(o).mechanism() == Some(AuthMechanism::Gssapi)
    }),
    (
        "u@h/?authMechanism=GSSAPI",
        "authMechanismProperties=service_host:x",
        |o| credential(o).mechanism_property("SERVICE_HOST") == Some("x"),
    ),
    ("u@h/db?", "authSource=x", |o| {
        credential(o).source() == Some("x")
    }),
    ("u@h/?authMechanism=GSSAPI", "gssapiServiceName=x", |o| {
        credential(o).mechanism_property("SERVICE_NAME") == Some("x")
    }),
    ("", "compressors=zstd,snappy", |o| {
        o.compressors == [Compressor::Zstd, Compressor::Snappy]
    }),
    ("", "zlibCompressionLevel=3", |o| {
        o.zlib_compression_level == 3
    }),
    ("", "connectTimeoutMS=7", |o| {
        o.connect_timeout == Some(millis(7))
    }),
    ("", "socketTimeoutMS=7", |o| {
        o.socket_timeout == Some(millis(7))
    }),
    ("", "timeoutMS=7", |o| o.timeout == Some(millis(7))),
    ("", "heartbeatFrequencyMS=700", |o| {
        o.heartbeat_frequency == millis(700)
    }),
    ("", "localThresholdMS=7", |o| o.local_threshold == millis(7)),
    ("", "serverSelectionTimeoutMS=7", |o| {
        o.server_selection_timeout == millis(7)
    }),
    ("", "serverSelectionTryOnce=false", |o| {
        o.server_selection_try_once == Some(false)
    }),
    ("", "serverMonitoringMode=poll", |o| {
        o.server_monitoring_mode == ServerMonitoringMode::Poll
    }),
    ("", "maxIdleTimeMS=7", |o| {
        o.max_idle_time == Some(millis(7))
    }),
    ("", "maxPoolSize=7", |o| o.max_pool_size == 7),
    ("", "minPoolSize=7", |o| o.min_pool_size == 7),
    ("", "maxConnecting=7", |o| o.max_connecting == 7),
    ("", "waitQueueTimeoutMS=7", |o| {
        o.wait_queue_timeout == Some(millis(7))
    }),
    ("", NEAREST, |o| {
        o.read_preference.mode == ReadPreferenceMode::Nearest
    }),
    ("readPreference=nearest", "readPreferenceTags=a:b", |o| {
        o.read_preference.tag_sets[0]["a"] == "b"
    }),
    ("readPreference=nearest", "maxStalenessSeconds=90", |o| {
        o.read_preference.max_staleness == Some(Duration::from_secs(90))
    }),
    ("", "readConcernLevel=local", |o| {
        o.read_concern == crate::ReadConcern::LOCAL
    }),
    ("", "w=7", |o| {
        o.write_concern.w == Some(Acknowledgment::Nodes(7))
    }),
    ("", "journal=false", |o| {
        o.write_concern.journal == Some(false)
    }),
    ("", "wTimeoutMS=9999999999", |o| {
        o.write_concern.w_timeout == Some(millis(9_999_999_999))
    }),
    ("", "wtimeout=7", |o| {
        o.write_concern.w_timeout == Some(millis(7))
    }),
    ("", "replicaSet=x", |o| {
        o.replica_set.as_deref() == Some("x")
    }),
    ("", "directConnection=true", |o| {
        o.direct_connection == Some(true)
    }),
    ("", "loadBalanced=true", |o| o.load_balanced == Some(true)),
    ("", "retryReads=false", |o| !o.retry_reads && o.retry_writes),
    ("", "retryWrites=false", |o| {
        !o.retry_writes && o.retry_reads
    }),
    ("", "maxAdaptiveRetries=7", |o| o.max_adaptive_retries == 7),
    ("", "enableOverloadRetargeting=true", |o| {
        o.enable_overload_retargeting
    }),
    ("+srv", "srvServiceName=x", |o| {
        o.srv.as_ref().is_some_and(|srv| srv.service_name == "x")
    }),
    ("+srv", "srvMaxHosts=7", |o| {
        o.srv.as_ref().is_some_and(|srv| srv.max_hosts == 7)
    }),
    ("", "tls=true", |o| o.tls.enabled == Some(true)),
    ("", "ssl=true", |o| o.tls.enabled == Some(true)),
    ("", "tlsInsecure=true", |o| o.tls.insecure == Some(true)),
    ("", "tlsAllowInvalidCertificates=true", |o| {
        o.tls.allow_invalid_certificates == Some(true)
    }),
    ("", "tlsAllowInvalidHostnames=true", |o| {
        o.tls.allow_invalid_hostnames == Some(true)
    }),
    ("", "tlsCAFile=x", |o| o.tls.ca_file == Some("x".into())),
    ("", "tlsCertificateKeyFile=x", |o| {
        o.tls.certificate_key_file == Some("x".into())
    }),
    ("", "tlsCertificateKeyFilePassword=x", |o| {
        o.tls.certificate_key_file_password == Some(Secret::from("x"))
    }),
    ("", "tlsDisableCertificateRevocationCheck=true", |o| {
        o.tls.disable_certificate_revocation_check == Some(true)
    }),
    ("", "tlsDisableOCSPEndpointCheck=true", |o| {
        o.tls.disable_ocsp_endpoint_check == Some(true)
    }),
    ("", "proxyHost=x", |o| {
        o.proxy
            .as_ref()
            .is_some_and(|it| it.host == "x" && it.port == 1080)
    }),
    ("proxyHost=x", "proxyPort=7", |o| {
        o.proxy.as_ref().is_some_and(|it| it.port == 7)
    }),
    ("proxyHost=x&proxyPassword=p", "proxyUsername=u", |o| {
        o.proxy
            .as_ref()
            .is_some_and(|it| it.credential == Some(("u".into(), "p".into())))
    }),
    ("proxyHost=x&proxyUsername=u", "proxyPassword=p", |o| {
        o.proxy
            .as_ref()
            .is_some_and(|it| it.credential == Some(("u".into(), "p".into())))
    }),
];

#[test]
fn every_option_sets_its_field() {
    for (before, option, holds) in CASES {
        let uri = match *before {
            "+srv" => format!("mongodb+srv://a.b.c/?{option}"),
            before if before.contains('@') => format!("mongodb://{before}&{option}"),
            before => format!("mongodb://h/?{before}&{option}"),
        };
        assert!(holds(&parse(&uri)), "{uri}");
    }
}

#[test]
fn no_option_is_left_untried() {
    let tried: BTreeSet<_> = CASES
        .iter()
        .filter_map(|(_, option, _)| option.split_once('='))
        .map(|(name, _)| name)
        .collect();
    let known: BTreeSet<_> = super::super::table::OPTIONS
        .iter()
        .map(|spec| spec.name)
        .collect();
    assert_eq!(tried, known);
    // One row each, and no ambiguous names.
    let folded: BTreeSet<_> = known.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(folded.len(), super::super::table::OPTIONS.len());
}
