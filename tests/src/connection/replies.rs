//! The replies of a connection, and how their bytes are written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bson::Document;

use super::{Connection, ExhaustReplies, Turn};
use crate::action::{Content, Plan};
use crate::codec::{self, EXHAUST_ALLOWED, Form, MORE_TO_COME, Request};
use crate::compression;
use crate::deployment::KnownVersion;
use crate::outgoing::OutgoingMessage;

impl Connection {
    /// Replies, and returns whether another reply follows without a request.
    pub(super) async fn reply(
        &mut self,
        request: &Request,
        message: &[u8],
        plan: &Plan,
        turn: &mut Turn,
    ) -> io::Result<bool> {
        let mut goes_on = false;
        let body = match &plan.content {
            Content::Raw(bytes) => {
                for _ in 0..plan.copies {
                    self.write(plan, bytes).await?;
                }
                return Ok(false);
            }
            Content::Stream(replies, pause) => {
                self.stream(request, plan, replies, *pause).await?;
                return Ok(false);
            }
            Content::Body(bytes) => bytes.clone(),
            Content::Document(document) => edited(document.clone(), plan),
            Content::Normal => {
                let document = self.carry_out(request, message).await?;
                let is_exhaust = request.form == Form::Msg && request.flags & EXHAUST_ALLOWED != 0;
                let is_ok = codec::is_ok(&document);
                goes_on = is_exhaust && is_ok && turn.known.is_some() && plan.copies > 0;
                turn.known = KnownVersion::of(&document);
                edited(document, plan)
            }
        };
        if request.is_unacknowledged() {
            return Ok(false);
        }
        for _ in 0..plan.copies {
            let mut message = self.message(request, plan, body.clone());
            message.response_to = plan.response_to.unwrap_or(turn.answers);
            if goes_on {
                message.flags |= MORE_TO_COME;
                if self.shared.exhaust == ExhaustReplies::AnswerEachOther {
                    turn.answers = message.request_id;
                }
            }
            let message = wrapped(message.encode(), request, plan);
            self.write(plan, &message).await?;
        }
        Ok(goes_on)
    }

    /// Writes messages. Each but the last has `moreToCome`, and each names the one before in
    /// `responseTo`.
    async fn stream(
        &mut self,
        request: &Request,
        plan: &Plan,
        replies: &[Document],
        pause: Duration,
    ) -> io::Result<()> {
        let mut answered = request.request_id;
        for (index, document) in replies.iter().enumerate() {
            if index > 0 {
                self.wait_with_client(tokio::time::sleep(pause)).await?;
            }
            let mut message = self.message(request, plan, edited(document.clone(), plan));
            if index + 1 < replies.len() {
                message.flags |= MORE_TO_COME;
            }
            message.response_to = plan.response_to.unwrap_or(answered);
            answered = message.request_id;
            let message = wrapped(message.encode(), request, plan);
            self.write(plan, &message).await?;
        }
        Ok(())
    }

    fn message(&self, request: &Request, plan: &Plan, body: Vec<u8>) -> OutgoingMessage {
        OutgoingMessage {
            form: request.form,
            request_id: self.shared.next_request_id.fetch_add(1, Ordering::Relaxed),
            response_to: plan.response_to.unwrap_or(request.request_id),
            flags: plan.flags,
            body,
            checksum: plan.checksum,
            length: plan.length,
        }
    }

    pub(super) async fn write(&mut self, plan: &Plan, bytes: &[u8]) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let delay = shared.link.delay();
        if !delay.is_zero() {
            self.wait_with_client(tokio::time::sleep(delay)).await?;
        }
        shared.link.flows().await;
        let bytes = plan.cut(bytes);
        let Some((size, pause)) = plan.chunks else {
            return self.socket.write_all(bytes).await;
        };
        for (index, chunk) in bytes.chunks(size).enumerate() {
            if index > 0 {
                self.wait_with_client(tokio::time::sleep(pause)).await?;
            }
            self.socket.write_all(chunk).await?;
        }
        Ok(())
    }
}

/// Compresses a message as the plan says, or else like the request.
fn wrapped(message: Vec<u8>, request: &Request, plan: &Plan) -> Vec<u8> {
    match plan.compressor.or(request.compressor) {
        Some(compressor) => compression::wrap(message, compressor),
        None => message,
    }
}

fn edited(mut document: Document, plan: &Plan) -> Vec<u8> {
    for (name, value) in &plan.merge {
        document.insert(name.clone(), value.clone());
    }
    for name in &plan.remove {
        document.remove(name);
    }
    codec::document_bytes(&document)
}
