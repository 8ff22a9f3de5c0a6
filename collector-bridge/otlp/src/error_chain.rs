//! Formats an error together with its sources.

use std::error::Error;

/// The message of `error`, followed by those of its sources. A source whose text is already in the message is
/// skipped, because many messages repeat that of their source.
#[must_use]
pub fn error_chain(mut error: &dyn Error) -> String {
    let mut message = error.to_string();
    while let Some(cause) = error.source() {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        error = cause;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the map cannot be made: {0}")]
    struct Repeats(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("the object was refused")]
    struct Refused(#[source] Repeats);

    #[test]
    fn each_cause_is_shown_once() {
        let denied = std::io::Error::from_raw_os_error(1);
        let message = error_chain(&Refused(Repeats(denied)));
        assert_eq!(
            message,
            "the object was refused: the map cannot be made: Operation not permitted (os error 1)"
        );
    }
}
