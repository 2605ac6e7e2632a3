//! The hello command.

use bson::raw::cstr;
use bson::{RawArrayBuf, RawDocumentBuf};

use super::context::HandshakeContext;

/// The only version of the client backpressure specification. It is a string, not a number.
const BACKPRESSURE: &str = "2";

/// Whether the first message is the command `hello`, which only newer servers support, instead of
/// the legacy one.
pub(super) fn is_modern(context: &HandshakeContext) -> bool {
    context.server_api.is_some() || context.load_balanced
}

/// A hello, without authentication: the first command on a connection, or a later one.
pub(super) fn command(context: &HandshakeContext) -> RawDocumentBuf {
    let mut command = RawDocumentBuf::new();
    if is_modern(context) {
        command.append(cstr!("hello"), 1);
    } else {
        command.append(cstr!("isMaster"), 1);
        command.append(cstr!("helloOk"), true);
    }
    command.append(cstr!("backpressure"), BACKPRESSURE);
    if let Some(metadata) = &context.metadata {
        command.append(cstr!("client"), &**metadata);
    }
    let offered = context.compressors.iter();
    let offered = offered.filter(|own| own.is_built_in());
    let names: RawArrayBuf = offered.map(|own| own.as_str()).collect();
    command.append(cstr!("compression"), names);
    if context.load_balanced {
        command.append(cstr!("loadBalanced"), true);
    }
    command
}
