//! The SCRAM conversation. Each step consumes the previous one, so that no step can be left out.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::keys::Hashed;
use super::message::{escape_name, server_final, server_first};
use super::{KeyDerivation, Nonce, ScramError, ScramKeys, ScramMechanism};

/// No channel binding, which MongoDB does not support, and no authorization identity.
const GS2_HEADER: &str = "n,,";

/// The beginning of a conversation: the first message is the client's.
pub struct ClientFirst {
    mechanism: ScramMechanism,
    nonce: Nonce,
    message: String,
}

impl ClientFirst {
    /// Begins a conversation for a user. The name is only escaped, not prepared.
    pub fn new(mechanism: ScramMechanism, username: &str, nonce: Nonce) -> Self {
        let name = escape_name(username);
        Self {
            mechanism,
            message: format!("{GS2_HEADER}n={name},r={}", nonce.as_str()),
            nonce,
        }
    }

    /// The mechanism.
    pub fn mechanism(&self) -> ScramMechanism {
        self.mechanism
    }

    /// The client-first-message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Reads the server-first-message. Hashes nothing except, for SCRAM-SHA-1, MongoDB's MD5 digest
    /// of the password, and that only if the message is within bounds.
    ///
    /// # Errors
    /// [`ScramError::Password`] if SASLprep does not allow the password. Every other error
    /// describes what is wrong with the server's message.
    pub fn server_first(
        self,
        payload: &[u8],
        username: &str,
        password: &str,
    ) -> Result<(Challenge, KeyDerivation), ScramError> {
        let read = server_first(payload, &self.nonce)?;
        let binding = STANDARD.encode(GS2_HEADER);
        let without_proof = format!("c={binding},r={}", read.nonce);
        let client_first_bare = &self.message[GS2_HEADER.len()..];
        let conversation = format!("{client_first_bare},{},{without_proof}", read.text);
        let (salt, iterations) = (read.salt, read.iterations);
        let derivation = KeyDerivation::new(self.mechanism, username, password, salt, iterations)?;
        let challenge = Challenge {
            mechanism: self.mechanism,
            without_proof,
            conversation,
        };
        Ok((challenge, derivation))
    }
}

impl fmt::Debug for ClientFirst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientFirst({}, ..)", self.mechanism)
    }
}

/// The server's challenge, which the keys answer.
pub struct Challenge {
    mechanism: ScramMechanism,
    without_proof: String,
    conversation: String,
}

impl Challenge {
    /// The client-final-message, and the proof that the server has to answer with.
    ///
    /// # Errors
    /// [`ScramError::Keys`] if the keys belong to another mechanism.
    pub fn answer(self, keys: &ScramKeys) -> Result<(String, ExpectedProof), ScramError> {
        if keys.mechanism() != self.mechanism {
            return Err(ScramError::Keys);
        }
        let proof = keys.client_proof(&self.conversation);
        let message = format!(
            "{},p={}",
            self.without_proof,
            STANDARD.encode(proof.as_slice())
        );
        Ok((
            message,
            ExpectedProof(keys.server_signature(&self.conversation)),
        ))
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({}, ..)", self.mechanism)
    }
}

/// The signature that the server has to send, which proves that it knows the user's keys.
pub struct ExpectedProof(Hashed);

impl ExpectedProof {
    /// Reads the server-final-message and compares the signature in constant time.
    ///
    /// # Errors
    /// [`ScramError::Signature`] if it is wrong, [`ScramError::NoSignature`] if there is none, and
    /// other errors if the message is invalid.
    pub fn server_final(self, payload: &[u8]) -> Result<(), ScramError> {
        let given = server_final(payload)?;
        match bool::from(given.ct_eq(self.0.as_slice())) {
            true => Ok(()),
            false => Err(ScramError::Signature),
        }
    }
}

impl fmt::Debug for ExpectedProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExpectedProof(..)")
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    /// A recorded conversation, from a specification.
    struct Transcript {
        mechanism: ScramMechanism,
        nonce: &'static str,
        client_first: &'static str,
        server_first: &'static str,
        client_final: &'static str,
        server_final: &'static str,
    }

    /// User `user`, password `pencil`.
    const TRANSCRIPTS: [Transcript; 2] = [
        // From the authentication specification: RFC 5802's, with MongoDB's digest.
        Transcript {
            mechanism: ScramMechanism::Sha1,
            nonce: "fyko+d2lbbFgONRv9qkxdawL",
            client_first: "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            server_first: "r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,\
                           s=rQ9ZY3MntBeuP3E1TDVC4w==,i=10000",
            client_final: "c=biws,\
                           r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,\
                           p=MC2T8BvbmWRckDw8oWl5IVghwCY=",
            server_final: "v=UMWeI25JD1yNYZRMpZ4VHvhZ9e0=",
        },
        // RFC 7677, section 3.
        Transcript {
            mechanism: ScramMechanism::Sha256,
            nonce: "rOprNGfwEbeRWgbNEkqO",
            client_first: "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            server_first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                           s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            client_final: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                           p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            server_final: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        },
    ];

    fn replay(transcript: &Transcript) -> ExpectedProof {
        let nonce = Nonce::from_text(transcript.nonce).expect("a nonce");
        let first = ClientFirst::new(transcript.mechanism, "user", nonce);
        assert_eq!(first.message(), transcript.client_first);
        let (challenge, derivation) = first
            .server_first(transcript.server_first.as_bytes(), "user", "pencil")
            .expect("a challenge");
        let (message, expected) = challenge.answer(&derivation.run()).expect("an answer");
        assert_eq!(message, transcript.client_final);
        expected
    }

    #[test]
    fn recorded_conversations_replay() {
        for transcript in &TRANSCRIPTS {
            let proof = transcript.server_final.as_bytes();
            assert_eq!(replay(transcript).server_final(proof), Ok(()));
        }
    }

    /// RFC 5802's own example uses the plain password, as SCRAM-SHA-1 does outside MongoDB.
    #[test]
    fn rfc_5802_section_5() {
        let conversation = "n=user,r=fyko+d2lbbFgONRv9qkxdawL,\
            r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096,\
            c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j";
        let keys = KeyDerivation::with_prepared(
            ScramMechanism::Sha1,
            Zeroizing::new(b"pencil".to_vec()),
            STANDARD.decode("QSXCR+Q6sek8bf92").expect("base64"),
            4096,
        )
        .run();
        let encoded = |hashed: Hashed| STANDARD.encode(hashed.as_slice());
        assert_eq!(
            encoded(keys.client_proof(conversation)),
            "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
        );
        let signature = encoded(keys.server_signature(conversation));
        assert_eq!(signature, "rmF9pqV8S7suAoZWja4dJRkFsKQ=");
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        let sha_256 = &TRANSCRIPTS[1];
        let answered = |payload: &str| replay(sha_256).server_final(payload.as_bytes());
        let wrong = sha_256.server_final.replace("6rri", "7rri");
        assert_eq!(answered(&wrong), Err(ScramError::Signature));
        // A correct prefix is not enough, nor is an empty signature.
        assert_eq!(answered("v=6rriTRBi23WpRR8="), Err(ScramError::Signature));
        assert_eq!(answered("v="), Err(ScramError::Signature));
        assert_eq!(answered("x=1"), Err(ScramError::NoSignature));
    }

    #[test]
    fn keys_of_another_mechanism_are_refused() {
        let [sha_1, sha_256] = &TRANSCRIPTS;
        let challenge = |transcript: &Transcript| {
            let nonce = Nonce::from_text(transcript.nonce).expect("a nonce");
            ClientFirst::new(transcript.mechanism, "user", nonce)
                .server_first(transcript.server_first.as_bytes(), "user", "pencil")
                .expect("a challenge")
        };
        let keys = challenge(sha_256).1.run();
        let refused = challenge(sha_1).0.answer(&keys).map(|_| ());
        assert_eq!(refused, Err(ScramError::Keys));
    }

    #[test]
    fn the_name_is_escaped_in_the_message_only() {
        let nonce = Nonce::from_text("abc").expect("a nonce");
        let first = ClientFirst::new(ScramMechanism::Sha1, "a,b=c\u{2168}", nonce);
        assert_eq!(first.message(), "n,,n=a=2Cb=3Dc\u{2168},r=abc");
        assert_eq!(format!("{first:?}"), "ClientFirst(SCRAM-SHA-1, ..)");
    }
}
