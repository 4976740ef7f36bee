//! Why a call did not do what it should.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::time::Duration;

use crate::wire::{ErrorCode, Malformed, Retry, body};

/// Why a call did not do what it should.
#[derive(Debug)]
pub enum ClientError {
    /// No connection came about.
    Connect { address: String, cause: io::Error },
    /// The connection broke.
    Broken(io::Error),
    /// The gateway closed the connection. With the ERROR, KICKED or GOAWAY that said why, if one came.
    Closed { code: Option<u32>, message: String },
    /// The gateway refused the request.
    Refused(body::Error),
    /// The answer did not come in time.
    Timeout { waited: Duration, awaited: &'static str },
    /// The bytes from the gateway are no Weir frame.
    Malformed(Malformed),
    /// A frame that only clients send.
    Unexpected { kind: &'static str },
}

impl ClientError {
    /// Whether and when connecting again makes sense.
    pub fn retry(&self) -> Retry {
        match self {
            ClientError::Connect { .. } | ClientError::Broken(_) | ClientError::Timeout { .. } => Retry::Later,
            ClientError::Closed { code, .. } => code.map_or(Retry::Later, retry_of),
            ClientError::Refused(error) => retry_of(error.code),
            ClientError::Malformed(_) | ClientError::Unexpected { .. } => Retry::Never,
        }
    }
}

/// A code that this version does not know is treated like an unexplained close.
fn retry_of(number: u32) -> Retry {
    ErrorCode::from_number(number).map_or(Retry::Later, ErrorCode::retry)
}

/// "TOKEN_EXPIRED (2003)".
pub fn code_text(number: u32) -> String {
    ErrorCode::from_number(number).map_or_else(|| format!("code {number}"), |code| format!("{} ({number})", code.name()))
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connect { address, cause } if cause.kind() == io::ErrorKind::ConnectionRefused => {
                write!(f, "nothing listens on {address}: is the gateway running? Start one with `weir serve --dev`")
            }
            ClientError::Connect { address, cause } => write!(f, "cannot connect to {address}: {cause}"),
            ClientError::Broken(cause) => write!(f, "the connection broke: {cause}"),
            ClientError::Closed { code: Some(code), message } => {
                write!(f, "the gateway closed the connection: {}: {message}", code_text(*code))
            }
            ClientError::Closed { code: None, .. } => write!(f, "the gateway closed the connection without saying why"),
            ClientError::Refused(error) => write!(f, "the gateway refuses: {}: {}", code_text(error.code), error.message),
            ClientError::Timeout { waited, awaited } => {
                write!(
                    f,
                    "no {awaited} came within {} ms: is the gateway overloaded, or something else on that port?",
                    waited.as_millis()
                )
            }
            ClientError::Malformed(why) => write!(f, "the peer does not speak Weir's protocol: {why}"),
            ClientError::Unexpected { kind } => write!(f, "the peer sent {kind}, which only clients send: is it a gateway?"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Connect { cause, .. } | ClientError::Broken(cause) => Some(cause),
            ClientError::Malformed(why) => Some(why),
            ClientError::Closed { .. }
            | ClientError::Refused(_)
            | ClientError::Timeout { .. }
            | ClientError::Unexpected { .. } => None,
        }
    }
}
