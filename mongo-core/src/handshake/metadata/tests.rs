//! The metadata prose tests of the handshake specification, by their numbers, and the limits.

use bson::{RawDocument, rawdoc};

use super::super::environment::tests::with;
use super::*;

fn metadata(variables: &[(&str, &str)], docker: bool) -> ClientMetadata {
    with(variables, docker, |environment| {
        ClientMetadata::new(None, environment).expect("valid")
    })
}

fn env(variables: &[(&str, &str)]) -> Option<RawDocumentBuf> {
    let document = metadata(variables, false).document();
    document.get_document("env").ok().map(RawDocument::to_owned)
}

const LAMBDA: (&str, &str) = ("AWS_EXECUTION_ENV", "AWS_Lambda_java8");

#[test]
fn prose_1_1_valid_aws() {
    let variables = [
        LAMBDA,
        ("AWS_REGION", "us-east-2"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
    ];
    let expected = rawdoc! { "name": "aws.lambda", "memory_mb": 1024, "region": "us-east-2" };
    assert_eq!(env(&variables), Some(expected));
}

#[test]
fn prose_1_2_valid_azure() {
    let expected = rawdoc! { "name": "azure.func" };
    assert_eq!(env(&[("FUNCTIONS_WORKER_RUNTIME", "node")]), Some(expected));
}

#[test]
fn prose_1_3_valid_gcp() {
    let variables = [
        ("K_SERVICE", "servicename"),
        ("FUNCTION_MEMORY_MB", "1024"),
        ("FUNCTION_TIMEOUT_SEC", "60"),
        ("FUNCTION_REGION", "us-central1"),
    ];
    let expected = rawdoc! {
        "name": "gcp.func", "timeout_sec": 60, "memory_mb": 1024, "region": "us-central1"
    };
    assert_eq!(env(&variables), Some(expected));
}

#[test]
fn prose_1_4_valid_vercel() {
    let expected = rawdoc! { "name": "vercel", "region": "cdg1" };
    let variables = [("VERCEL", "1"), ("VERCEL_REGION", "cdg1")];
    assert_eq!(env(&variables), Some(expected));
}

#[test]
fn prose_1_5_invalid_multiple_providers() {
    assert_eq!(env(&[LAMBDA, ("FUNCTIONS_WORKER_RUNTIME", "node")]), None);
}

#[test]
fn prose_1_6_invalid_long_string() {
    let long = "a".repeat(512);
    let expected = rawdoc! { "name": "aws.lambda" };
    assert_eq!(env(&[LAMBDA, ("AWS_REGION", &long)]), Some(expected));
}

#[test]
fn prose_1_7_invalid_wrong_types() {
    let expected = rawdoc! { "name": "aws.lambda" };
    let variables = [LAMBDA, ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "big")];
    assert_eq!(env(&variables), Some(expected));
}

#[test]
fn prose_1_8_invalid_execution_environment() {
    assert_eq!(env(&[("AWS_EXECUTION_ENV", "EC2")]), None);
}

#[test]
fn prose_1_9_valid_container_and_provider() {
    let variables = [
        LAMBDA,
        ("AWS_REGION", "us-east-2"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
        ("KUBERNETES_SERVICE_HOST", "1"),
    ];
    let expected = rawdoc! {
        "name": "aws.lambda", "memory_mb": 1024, "region": "us-east-2",
        "container": { "orchestrator": "kubernetes" }
    };
    assert_eq!(env(&variables), Some(expected));
}

fn info(name: &str, version: &str, platform: &str) -> DriverInfo {
    DriverInfo::new(name)
        .with_version(version)
        .with_platform(platform)
}

fn library() -> DriverInfo {
    info("library", "1.2", "Library Platform")
}

/// The client document after each of `infos` was appended, and its joined fields after this crate's
/// own part.
fn appended(infos: &[DriverInfo]) -> (RawDocumentBuf, [String; 3]) {
    let mut metadata = metadata(&[LAMBDA], true);
    for info in infos {
        metadata.append(info.clone()).expect("room");
    }
    let document = metadata.document();
    let driver = document.get_document("driver").expect("driver");
    let joined = [
        driver.get_str("name").expect("name"),
        driver.get_str("version").expect("version"),
        document.get_str("platform").expect("platform"),
    ]
    .map(|text| text.split_once('|').map_or("", |(_, rest)| rest).to_owned());
    (document, joined)
}

/// Everything but `driver` and `platform`.
fn others(document: &RawDocument) -> Vec<String> {
    document
        .iter()
        .map(|field| field.expect("well-formed"))
        .filter(|(key, _)| !["driver", "platform"].contains(&key.as_str()))
        .map(|field| format!("{field:?}"))
        .collect()
}

/// Prose tests 1 and 2 of the metadata updates, which differ only in when the first is appended.
#[test]
fn update_prose_1_and_2_updates_are_appended() {
    let (before, _) = appended(&[library()]);
    for (version, platform, expected) in [
        (
            "2.0",
            "Framework Platform",
            [
                "library|framework",
                "1.2|2.0",
                "Library Platform|Framework Platform",
            ],
        ),
        (
            "2.0",
            "",
            ["library|framework", "1.2|2.0", "Library Platform"],
        ),
        (
            "",
            "Framework Platform",
            [
                "library|framework",
                "1.2",
                "Library Platform|Framework Platform",
            ],
        ),
        ("", "", ["library|framework", "1.2", "Library Platform"]),
    ] {
        let framework = info("framework", version, platform);
        let (after, joined) = appended(&[library(), framework]);
        assert_eq!(joined, expected);
        assert_eq!(others(&after), others(&before));
    }
}

#[test]
fn update_prose_3_successive_updates_with_duplicate_data() {
    let (before, _) = appended(&[library()]);
    assert_eq!(appended(&[library(), library()]).0, before);
    for (name, version, platform) in [
        ("framework", "1.2", "Library Platform"),
        ("library", "2.0", "Library Platform"),
        ("library", "1.2", "Framework Platform"),
        ("framework", "2.0", "Library Platform"),
        ("framework", "1.2", "Framework Platform"),
        ("library", "2.0", "Framework Platform"),
    ] {
        let (after, joined) = appended(&[library(), info(name, version, platform)]);
        let expected = [
            format!("library|{name}"),
            format!("1.2|{version}"),
            format!("Library Platform|{platform}"),
        ];
        assert_eq!(joined, expected);
        assert_eq!(others(&after), others(&before));
    }
}

/// Prose tests 4, 5 and 6 of the metadata updates: what was appended at any time before is not
/// appended again.
#[test]
fn update_prose_4_5_and_6_duplicates_change_nothing() {
    let framework = info("framework", "2.0", "Framework Platform");
    let half_new = info("framework", "1.2", "Library Platform");
    for infos in [
        vec![library(), framework],
        vec![library()],
        vec![library(), half_new],
    ] {
        let mut again = infos.clone();
        again.push(library());
        assert_eq!(appended(&again), appended(&infos));
    }
}

/// Prose tests 7 and 8 of the metadata updates.
#[test]
fn update_prose_7_and_8_empty_strings_are_unset() {
    let no_version = DriverInfo::new("library").with_platform("Library Platform");
    let no_platform = DriverInfo::new("library").with_version("1.2");
    for (unset, empty) in [
        (no_version, info("library", "", "Library Platform")),
        (no_platform, info("library", "1.2", "")),
    ] {
        assert_eq!(appended(&[unset.clone(), empty]), appended(&[unset]));
    }
    let mut metadata = metadata(&[], false);
    assert_eq!(metadata.append(DriverInfo::new("")), Ok(false));
}

#[test]
fn a_delimiter_is_an_error() {
    let mut metadata = metadata(&[], false);
    for (info, field) in [
        (info("a|b", "1", "p"), "name"),
        (info("a", "|", "p"), "version"),
        (info("a", "1", "p|"), "platform"),
    ] {
        assert_eq!(
            metadata.append(info),
            Err(MetadataError::Delimiter { field })
        );
    }
    assert_eq!(metadata.append(library()), Ok(true));
    assert_eq!(metadata.append(library()), Ok(false));
}

#[test]
fn the_application_name_has_128_bytes_at_most() {
    let named = |name: &str| ClientMetadata::new(Some(name), &Environment::EMPTY);
    let document = named(&"\u{e4}".repeat(64)).expect("128 bytes").document();
    let application = document.get_document("application").expect("a name");
    assert_eq!(application.get_str("name").map(str::len).ok(), Some(128));
    let error = MetadataError::ApplicationName { length: 129 };
    assert_eq!(named(&"a".repeat(129)), Err(error));
    let unnamed = named("").expect("unset").document();
    assert!(unnamed.get("application").expect("valid").is_none());
}

/// The fields of the document that the truncation can leave out.
fn kept(document: &RawDocument) -> (Option<usize>, bool, Option<usize>) {
    let env = document.get_document("env").ok();
    let env = env.map(|env| env.iter_elements().count());
    let os = document.get_document("os").expect("os");
    let architecture = os.get_str("architecture").is_ok();
    (
        env,
        architecture,
        document.get_str("platform").ok().map(str::len),
    )
}

#[test]
fn truncation_follows_the_order_and_never_exceeds_512_bytes() {
    let variables = [
        LAMBDA,
        ("AWS_REGION", "us-east-2"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
    ];
    let base = metadata(&variables, true);
    let mut seen = Vec::new();
    for length in 1..700 {
        let mut metadata = base.clone();
        let info = DriverInfo::new("x").with_platform("\u{e4}".repeat(length));
        metadata.append(info).expect("room");
        let document = metadata.document();
        assert!(document.as_bytes().len() <= MAX_LENGTH);
        let (env, architecture, platform) = kept(&document);
        let whole = platform == Some("Rust|".len() + 2 * length);
        let stage = (env, architecture, whole);
        if seen.last() != Some(&stage) {
            seen.push(stage);
        }
        if !whole {
            assert!(
                document.as_bytes().len() >= MAX_LENGTH - 1,
                "as much as fits"
            );
        }
    }
    let expected = [
        (Some(4), true, true),
        (Some(1), true, true),
        (Some(1), false, true),
        (None, false, true),
        (None, false, false),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn oversized_metadata_is_refused_and_not_kept() {
    let mut metadata = metadata(&[], false);
    let before = metadata.document();
    let refused = metadata.append(DriverInfo::new("n".repeat(600)));
    assert!(matches!(refused, Err(MetadataError::TooLong { length }) if length > 600));
    assert_eq!(metadata.document(), before);
    // As long as names and versions fit, the platform is truncated, down to nothing.
    let bare = metadata.attempt(Omit::Platform, "").as_bytes().len();
    let full = DriverInfo::new("n".repeat(MAX_LENGTH - bare - 1));
    assert_eq!(metadata.append(full), Ok(true));
    let document = metadata.document();
    assert_eq!(document.as_bytes().len(), MAX_LENGTH);
    assert_eq!(kept(&document), (None, false, None));
}
