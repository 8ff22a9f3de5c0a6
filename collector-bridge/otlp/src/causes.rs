//! What an error says, with what caused it.

use std::error::Error;

/// The error and its causes, each once: many a message repeats that of its source.
#[must_use]
pub fn causes(mut error: &dyn Error) -> String {
    let mut said = error.to_string();
    while let Some(cause) = error.source() {
        let text = cause.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        error = cause;
    }
    said
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
    fn each_cause_is_said_once() {
        let denied = std::io::Error::from_raw_os_error(1);
        let said = causes(&Refused(Repeats(denied)));
        assert_eq!(
            said,
            "the object was refused: the map cannot be made: Operation not permitted (os error 1)"
        );
    }
}
