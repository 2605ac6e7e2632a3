//! The typed options, as JSON for comparison.

use std::time::Duration;

use mongo_core::concern::Acknowledgment;
use mongo_core::uri::ClientOptions;
use serde_json::{Map, Value, json};

use crate::{Outcome, equal};

/// Compares every option of a test with the typed one.
pub(crate) fn check(found: &ClientOptions, options: &Value) -> Outcome {
    let Some(options) = options.as_object() else {
        return match options {
            Value::Null => Ok(()),
            _ => Err("options is no object".to_owned()),
        };
    };
    for (key, expected) in options {
        let value = typed(found, &key.to_ascii_lowercase())
            .ok_or_else(|| format!("the runner does not know the option {key:?}"))?;
        equal(key, &value, expected)?;
    }
    Ok(())
}

fn millis(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_millis()).ok())
}

/// An option for which the cases write `None` as 0.
fn limit(duration: Option<Duration>) -> Value {
    millis(duration.unwrap_or_default())
}

/// The typed option of a lower-case name; `None` for an unknown name.
fn typed(found: &ClientOptions, name: &str) -> Option<Value> {
    authentication(found, name)
        .or_else(|| connection(found, name))
        .or_else(|| topology(found, name))
        .or_else(|| concerns(found, name))
        .or_else(|| tls(found, name))
}

fn authentication(found: &ClientOptions, name: &str) -> Option<Value> {
    let credential = found.credential.as_ref();
    Some(match name {
        "authmechanism" => json!(
            credential
                .and_then(|it| it.mechanism())
                .map(|it| it.as_str())
        ),
        "authmechanismproperties" => {
            let properties = credential
                .into_iter()
                .flat_map(|it| it.mechanism_properties());
            let object: Map<_, _> = properties
                .map(|(name, value)| (name.to_owned(), json!(value.expose())))
                .collect();
            Value::Object(object)
        }
        "authsource" => {
            let source = credential.and_then(|it| it.source());
            json!(source.or(found.auth_source.as_deref()))
        }
        _ => return None,
    })
}

fn connection(found: &ClientOptions, name: &str) -> Option<Value> {
    Some(match name {
        "appname" => json!(found.app_name),
        "compressors" => found
            .compressors
            .iter()
            .map(|compressor| json!(compressor.as_str()))
            .collect(),
        "zlibcompressionlevel" => json!(found.zlib_compression_level),
        "connecttimeoutms" => limit(found.connect_timeout),
        "sockettimeoutms" => limit(found.socket_timeout),
        "timeoutms" => json!(found.timeout.map(millis)),
        "maxidletimems" => limit(found.max_idle_time),
        "maxpoolsize" => json!(found.max_pool_size),
        "minpoolsize" => json!(found.min_pool_size),
        "maxconnecting" => json!(found.max_connecting),
        _ => return None,
    })
}

fn topology(found: &ClientOptions, name: &str) -> Option<Value> {
    Some(match name {
        "directconnection" => json!(found.direct_connection),
        "loadbalanced" => json!(found.load_balanced),
        "replicaset" => json!(found.replica_set),
        "heartbeatfrequencyms" => millis(found.heartbeat_frequency),
        "localthresholdms" => millis(found.local_threshold),
        "serverselectiontimeoutms" => millis(found.server_selection_timeout),
        "serverselectiontryonce" => json!(found.server_selection_try_once),
        "servermonitoringmode" => json!(found.server_monitoring_mode.as_str()),
        "retrywrites" => json!(found.retry_writes),
        "maxadaptiveretries" => json!(found.max_adaptive_retries),
        "enableoverloadretargeting" => json!(found.enable_overload_retargeting),
        "srvservicename" => json!(found.srv.as_ref().map(|srv| &srv.service_name)),
        "srvmaxhosts" => json!(found.srv.as_ref().map(|srv| srv.max_hosts)),
        _ => return None,
    })
}

fn concerns(found: &ClientOptions, name: &str) -> Option<Value> {
    let preference = &found.read_preference;
    Some(match name {
        "readpreference" => json!(preference.mode.as_str()),
        "readpreferencetags" => json!(preference.tag_sets),
        "maxstalenessseconds" => json!(preference.max_staleness.map(|limit| limit.as_secs())),
        "readconcernlevel" => json!(found.read_concern.level),
        "w" => match &found.write_concern.w {
            Some(Acknowledgment::Nodes(number)) => json!(number),
            Some(Acknowledgment::Tag(tag)) => json!(tag),
            _ => Value::Null,
        },
        "journal" => json!(found.write_concern.journal),
        "wtimeoutms" => json!(found.write_concern.w_timeout.map(millis)),
        _ => return None,
    })
}

fn tls(found: &ClientOptions, name: &str) -> Option<Value> {
    let tls = &found.tls;
    let password = tls.certificate_key_file_password.as_ref();
    Some(match name {
        "tls" | "ssl" => json!(tls.enabled),
        "tlsinsecure" => json!(tls.insecure),
        "tlsallowinvalidcertificates" => json!(tls.allow_invalid_certificates),
        "tlsallowinvalidhostnames" => json!(tls.allow_invalid_hostnames),
        "tlscafile" => json!(tls.ca_file),
        "tlscertificatekeyfile" => json!(tls.certificate_key_file),
        "tlscertificatekeyfilepassword" => json!(password.map(|password| password.expose())),
        "tlsdisablecertificaterevocationcheck" => json!(tls.disable_certificate_revocation_check),
        "tlsdisableocspendpointcheck" => json!(tls.disable_ocsp_endpoint_check),
        _ => return None,
    })
}
