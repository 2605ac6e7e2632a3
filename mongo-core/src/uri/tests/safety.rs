//! An invalid security option is an error, never just a warning.

use super::*;

#[test]
fn a_tls_that_cannot_be_read_is_an_error() {
    for value in [
        "True",
        "TRUE",
        "on",
        "",
        "enabled",
        "tru",
        "true%0A",
        "true%20",
        "%zz",
        "2",
        "true\u{200b}",
    ] {
        for option in ["tls", "ssl", "TLS"] {
            let error = refused(&format!("mongodb://h/?{option}={value}&appname=x"));
            let UriError::Option { option, expected } = error else {
                panic!("{option}={value}: {error}");
            };
            assert!(["tls", "ssl"].contains(&option), "{option}");
            assert_ne!(expected, "", "{option}={value}");
        }
    }
    // Also if the other one is valid.
    refused("mongodb://h/?tls=true&ssl=on");
    refused("mongodb://h/?ssl=on&tls=true");
}

/// If these were ignored, TLS would be off or would trust other authorities, the proxy would be
/// bypassed, or a write would go to any set.
#[test]
fn options_that_say_where_secrets_and_writes_go_are_never_ignored() {
    for (option, value) in [
        ("tlsCAFile", ""),
        ("tlsCAFile", "%ff"),
        ("tlsCertificateKeyFile", ""),
        ("tlsCertificateKeyFilePassword", ""),
        ("replicaSet", ""),
        ("replicaSet", "%zz"),
        ("proxyHost", ""),
        ("proxyUsername", ""),
        ("proxyPassword", ""),
        ("proxyPort", "0"),
    ] {
        let error = refused(&format!("mongodb://h/?{option}={value}"));
        let named = matches!(error, UriError::Option { option: named, .. } if named == option);
        assert!(named, "{option}={value}: {error}");
    }
}

/// A warning, as in the specification's test cases. The relaxation stays off. TLS is on, because
/// the option implies it.
#[test]
fn relaxations_of_tls_that_cannot_be_read_stay_off_and_leave_tls_on() {
    for option in [
        "tlsInsecure",
        "tlsAllowInvalidCertificates",
        "tlsAllowInvalidHostnames",
        "tlsDisableOCSPEndpointCheck",
    ] {
        let options = parse(&format!("mongodb://h/?{option}=True"));
        assert_eq!(options.warnings().len(), 1, "{option}");
        assert!(options.uses_tls(), "{option}");
        let relaxed = [
            options.tls.insecure,
            options.tls.allow_invalid_certificates,
            options.tls.allow_invalid_hostnames,
            options.tls.disable_ocsp_endpoint_check,
        ];
        assert_eq!(relaxed, [None; 4], "{option}");
        let plain = parse(&format!("mongodb://h/?{option}=True&tls=false"));
        assert!(!plain.uses_tls(), "{option}");
    }
}

#[test]
fn white_space_and_control_characters_at_the_end_are_no_part_of_it() {
    for end in [
        "\n", "\r\n", " ", "\t \n", "\0", "\u{85}", "\u{feff}", "\u{2028}",
    ] {
        let options = parse(&format!("mongodb://h/?tls=true{end}"));
        assert!(
            options.uses_tls() && options.warnings().is_empty(),
            "{end:?}"
        );
        let options = parse(&format!("mongodb://a,b{end}"));
        assert_eq!(options.hosts.len(), 2, "{end:?}");
        let options = parse(&format!("mongodb://h/?replicaSet=rs{end}"));
        assert_eq!(options.replica_set.as_deref(), Some("rs"), "{end:?}");
    }
    assert_eq!(refused("\nmongodb://h/?tls=true"), UriError::Scheme);
}

/// A connection string that is wrapped into several lines in a file.
#[test]
fn white_space_and_control_characters_do_not_hide_an_option() {
    for between in ["&\n", "& ", "&\u{b}", "&\u{feff}"] {
        let error = refused(&format!("mongodb://h/?appname=x{between}tls=true"));
        assert!(
            matches!(error, UriError::OptionSyntax { number: 2, .. }),
            "{between:?}: {error}"
        );
    }
    refused("mongodb://h/?tls =true");
    refused("mongodb://h/?tls=true\n&appname=x");
}

#[test]
fn an_ampersand_as_html_writes_it_is_named_and_read() {
    let uri = "mongodb://h/?appname=x&amp;tls=true&amp;wheel=round&amp;";
    // The last one has no `=`, so it is not a pair.
    assert!(matches!(
        refused(uri),
        UriError::OptionSyntax { number: 4, .. }
    ));
    let options = parse(uri.trim_end_matches("&amp;"));
    assert!(options.uses_tls());
    let told: Vec<_> = options.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "option 2 has &amp; before it; write & alone",
            "option 3 has &amp; before it; write & alone",
            "option 3, \"wheel\", is unknown and ignored",
        ]
    );
}
