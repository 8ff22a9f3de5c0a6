//! Classifies the answers of servers, and computes the pauses between retries. Pure functions.
//!
//! The rules are those of <https://opentelemetry.io/docs/specs/otlp/#failures>.

use std::time::{Duration, SystemTime};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A request of more bytes than this is split when the server refuses it for lack of resources.
const SPLIT_ABOVE_BYTES: usize = 1 << 20;

/// tonic's message, as client and as server, for a message above its size limit. Its code is `OUT_OF_RANGE`,
/// which is otherwise retried.
const TONIC_LIMIT: &str = "message length too large";

/// How to go on with a request that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Send it again after a backoff pause.
    Retry,
    /// Send it again after the pause that the server asked for.
    RetryAfter(Duration),
    /// Split it, and send the two halves.
    Split,
    /// Drop it: a retry would be refused again.
    Drop,
}

/// Classifies the gRPC status that answered a request of `request_bytes`.
#[must_use]
pub fn classify_grpc(status: &Status, request_bytes: usize) -> Disposition {
    // Only the client side of tonic sets the source of a status: the connection failed. tonic chooses the
    // code of such a status itself (UNKNOWN and INTERNAL for a reset), so the code is ignored.
    if std::error::Error::source(status).is_some() {
        return Disposition::Retry;
    }
    if status.code() == Code::OutOfRange && status.message().contains(TONIC_LIMIT) {
        // The message has the length of our request if the receiver refused it unread; otherwise our own
        // client refused the answer, and the receiver has the request already.
        let is_request_too_large = status.message().contains(&format!("found {request_bytes} bytes"));
        return if is_request_too_large { Disposition::Split } else { Disposition::Drop };
    }
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => requested_delay(status).map_or(Disposition::Retry, Disposition::RetryAfter),
        Code::ResourceExhausted => match requested_delay(status) {
            Some(delay) => Disposition::RetryAfter(delay),
            None if request_bytes > SPLIT_ABOVE_BYTES || mentions_size(status.message()) => {
                Disposition::Split
            }
            None => Disposition::Drop,
        },
        _ => Disposition::Drop,
    }
}

/// Classifies the HTTP status that answered a request of `request_bytes`. `retry_after` is the pause that the
/// Retry-After header asks for.
#[must_use]
pub fn classify_http(
    status: u16,
    retry_after: Option<Duration>,
    request_bytes: usize,
    message: &str,
) -> Disposition {
    match status {
        429 | 502 | 503 | 504 => retry_after.map_or(Disposition::Retry, Disposition::RetryAfter),
        413 if request_bytes > SPLIT_ABOVE_BYTES || mentions_size(message) => Disposition::Split,
        _ => Disposition::Drop,
    }
}

/// Parses a Retry-After header: a number of seconds, or an HTTP date. A date in the past is a pause of zero.
#[must_use]
pub fn parse_retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(header).ok()?.duration_since(now).unwrap_or_default())
}

fn requested_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// Whether a message says that the request is too large. grpc-go: "received message larger than max (5242880
/// vs. 4194304)"
fn mentions_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["larger than", "too large", "message size"].iter().any(|words| message.contains(words))
}

/// Exponential backoff with jitter.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first pause, before jitter.
    pub initial: Duration,
    /// The upper bound of a pause.
    pub max: Duration,
}

impl Backoff {
    /// The pause before retry number `attempt`, from 0. The interval doubles with each attempt; `random`
    /// chooses a pause between half of the interval and the whole interval, so that agents that failed
    /// together do not retry together.
    #[must_use]
    pub fn pause(&self, attempt: u32, random: u64) -> Duration {
        let doubled = self.initial.saturating_mul(2_u32.saturating_pow(attempt)).min(self.max);
        let half = doubled / 2;
        let share = u32::try_from(random & 0xffff).unwrap_or(0);
        half + half * share / 0xffff
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic_types::ErrorDetails;

    use super::*;

    fn with_delay(code: Code, delay: Duration) -> Status {
        Status::with_error_details(code, "slow down", ErrorDetails::with_retry_info(Some(delay)))
    }

    #[test]
    fn each_code_has_the_verdict_of_the_specification() {
        let retried = [1, 4, 10, 11, 14, 15];
        for number in 1..=16 {
            let disposition = classify_grpc(&Status::new(Code::from_i32(number), "no"), 100);
            let expected = if retried.contains(&number) { Disposition::Retry } else { Disposition::Drop };
            assert_eq!(disposition, expected, "code {number}");
        }
    }

    #[test]
    fn exhausted_resources_are_retried_only_when_asked_and_split_when_it_is_size() {
        let second = Duration::from_secs(1);
        assert_eq!(
            classify_grpc(&with_delay(Code::ResourceExhausted, second), 9),
            Disposition::RetryAfter(second)
        );
        assert_eq!(classify_grpc(&with_delay(Code::Unavailable, second), 9), Disposition::RetryAfter(second));
        let size = Status::resource_exhausted("grpc: received message larger than max (5242880 vs. 4194304)");
        assert_eq!(classify_grpc(&size, 9), Disposition::Split);
        assert_eq!(classify_grpc(&Status::resource_exhausted("quota"), (1 << 20) + 1), Disposition::Split);
        assert_eq!(classify_grpc(&Status::resource_exhausted("quota"), 1 << 20), Disposition::Drop);
    }

    #[test]
    fn each_status_of_http_has_the_verdict_of_the_specification() {
        for status in 100..=599 {
            let expected =
                if [429, 502, 503, 504].contains(&status) { Disposition::Retry } else { Disposition::Drop };
            assert_eq!(classify_http(status, None, 100, ""), expected, "{status}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(classify_http(503, Some(second), 100, ""), Disposition::RetryAfter(second));
        assert_eq!(
            classify_http(400, Some(second), 100, ""),
            Disposition::Drop,
            "a 400 is never retried, even with Retry-After"
        );
        assert_eq!(classify_http(413, None, (1 << 20) + 1, ""), Disposition::Split);
        assert_eq!(classify_http(413, None, 100, "request body too large"), Disposition::Split);
    }

    #[test]
    fn retry_after_has_two_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(parse_retry_after(" 120 ", now), Some(Duration::from_mins(2)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:07 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("-1", now).or(parse_retry_after("soon", now)), None);
    }

    proptest! {
        #[test]
        fn pauses_grow_and_stay_within_their_bounds(attempt in 0_u32..80, random: u64) {
            let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(30) };
            let whole = Duration::from_secs(2_u64.saturating_pow(attempt.min(5))).min(backoff.max);
            let pause = backoff.pause(attempt, random);
            prop_assert!(pause >= whole / 2 && pause <= whole, "{:?} of {:?}", pause, whole);
        }
    }

    #[test]
    fn jitter_spreads_over_the_whole_range() {
        let backoff = Backoff { initial: Duration::from_secs(8), max: Duration::from_secs(30) };
        assert_eq!(backoff.pause(0, 0), Duration::from_secs(4));
        assert_eq!(backoff.pause(0, 0xffff), Duration::from_secs(8));
    }
}
