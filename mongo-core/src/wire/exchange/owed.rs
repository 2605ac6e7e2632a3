//! The pending reply to a request.

use crate::wire::WireError;
use crate::wire::header::{HEADER_LEN, Header, Limits};
use crate::wire::op_code::OpCode;

/// The taker of the reply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// Only the future that wrote the request.
    Caller,
    /// Any caller that receives the next message (`send` and `receive`).
    Anyone,
}

/// A pending reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) request_id: i32,
    /// The id of the previous reply, while the server streams. Servers may answer either id.
    pub(super) previous: Option<i32>,
    /// Whether the request allows a stream of replies (`exhaustAllowed`).
    pub(super) may_stream: bool,
    pub(super) legacy: bool,
    pub(super) taker: Taker,
}

/// The reply that a message expects, from its header and flags.
pub(super) fn owed_reply(
    message: &[u8],
    limits: &Limits,
    taker: Taker,
) -> Result<Option<Owed>, WireError> {
    let header = Header::parse(message, limits)?;
    if header.length != message.len() {
        return Err(WireError::Truncated {
            needed: header.length,
            got: message.len(),
        });
    }
    let legacy = match header.op_code {
        OpCode::Msg => false,
        OpCode::Query => true,
        other @ (OpCode::Reply | OpCode::Compressed) => {
            return Err(WireError::UnexpectedOpCode(other));
        }
    };
    let flag = |byte: usize, bit: u8| {
        let flags = message.get(HEADER_LEN + byte);
        !legacy && flags.is_some_and(|flags| flags & bit != 0)
    };
    // moreToCome is bit 1, exhaustAllowed bit 16.
    let unanswered = flag(0, 1 << 1);
    Ok((!unanswered).then_some(Owed {
        request_id: header.request_id,
        previous: None,
        may_stream: flag(2, 1),
        legacy,
        taker,
    }))
}
