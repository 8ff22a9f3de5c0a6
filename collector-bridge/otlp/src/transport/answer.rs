//! The result of one attempt: the request was accepted or refused.

use crate::{error_chain::error_chain, retry::Disposition};

/// Upper bound of the bytes of an answer. An OTLP answer has a few bytes; a larger one is not read.
pub(super) const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The answer to a request that was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Number of items that the server rejected permanently (`partial_success`).
    pub(crate) rejected: u64,
    /// The server's message about them. Without rejected items it is a warning.
    pub(crate) message: String,
}

/// A request that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// How to go on with the request.
    pub(crate) disposition: Disposition,
    /// The cause, as text for the operator.
    pub(crate) reason: String,
}

impl Refused {
    /// A retry would be refused again: drop the request.
    pub(super) fn permanent(reason: impl Into<String>) -> Self {
        Self { disposition: Disposition::Drop, reason: reason.into() }
    }

    /// The connection failed and the server did not answer: retry the request.
    pub(super) fn connection_failed(error: &dyn std::error::Error) -> Self {
        Self { disposition: Disposition::Retry, reason: error_chain(error) }
    }
}
