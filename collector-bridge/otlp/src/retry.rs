//! What to do with an answer, and how long to wait. Pure.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#failures>

use std::time::{Duration, SystemTime};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A request of more bytes than this, refused as too much, is worth halving.
const WORTH_HALVING: usize = 1 << 20;

/// What tonic says, on either side, of a message beyond its limit; elsewhere `OUT_OF_RANGE` is to be retried.
const TONIC_LIMIT: &str = "message length too large";

/// What becomes of a request that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it again, after a back-off.
    Retry,
    /// Send it again, not before this time is over: the server's own wish.
    RetryAfter(Duration),
    /// Send its halves.
    Split,
    /// It would be refused again: drop it.
    Drop,
}

/// Judges a gRPC status that answered a request of `request_bytes`.
#[must_use]
pub fn judge(status: &Status, request_bytes: usize) -> Verdict {
    // Only this side gives a status a source: the connection failed, whatever code that was made into
    // (tonic has UNKNOWN and INTERNAL for a reset).
    if std::error::Error::source(status).is_some() {
        return Verdict::Retry;
    }
    if status.code() == Code::OutOfRange && status.message().contains(TONIC_LIMIT) {
        // The receiver's words for our request, which it did not read, and our own for its answer.
        let ours = status.message().contains(&format!("found {request_bytes} bytes"));
        return if ours { Verdict::Split } else { Verdict::Drop };
    }
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => asked_delay(status).map_or(Verdict::Retry, Verdict::RetryAfter),
        Code::ResourceExhausted => match asked_delay(status) {
            Some(delay) => Verdict::RetryAfter(delay),
            None if request_bytes > WORTH_HALVING || names_a_size(status.message()) => Verdict::Split,
            None => Verdict::Drop,
        },
        _ => Verdict::Drop,
    }
}

/// Judges a status of HTTP that answered a request of `request_bytes`; `asked` is what Retry-After asks for.
#[must_use]
pub fn judge_http(status: u16, asked: Option<Duration>, request_bytes: usize, message: &str) -> Verdict {
    match status {
        429 | 502 | 503 | 504 => asked.map_or(Verdict::Retry, Verdict::RetryAfter),
        413 if request_bytes > WORTH_HALVING || names_a_size(message) => Verdict::Split,
        _ => Verdict::Drop,
    }
}

/// The delay that a Retry-After header asks for: seconds, or a date of HTTP. A date that is over asks for none.
#[must_use]
pub fn after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(header).ok()?.duration_since(now).unwrap_or_default())
}

fn asked_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// grpc-go: "received message larger than max (5242880 vs. 4194304)"
fn names_a_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["larger than", "too large", "message size"].iter().any(|words| message.contains(words))
}

/// Pauses that double from one to the next, each with jitter.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first pause.
    pub initial: Duration,
    /// The longest.
    pub max: Duration,
}

impl Backoff {
    /// The pause before retry `attempt` (from 0): between half and the whole of the doubled interval, chosen by
    /// `random`, so that agents that failed together do not come back together.
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
            let verdict = judge(&Status::new(Code::from_i32(number), "no"), 100);
            let expected = if retried.contains(&number) { Verdict::Retry } else { Verdict::Drop };
            assert_eq!(verdict, expected, "code {number}");
        }
    }

    #[test]
    fn exhausted_resources_are_retried_only_when_asked_and_split_when_it_is_size() {
        let second = Duration::from_secs(1);
        assert_eq!(judge(&with_delay(Code::ResourceExhausted, second), 9), Verdict::RetryAfter(second));
        assert_eq!(judge(&with_delay(Code::Unavailable, second), 9), Verdict::RetryAfter(second));
        let size = Status::resource_exhausted("grpc: received message larger than max (5242880 vs. 4194304)");
        assert_eq!(judge(&size, 9), Verdict::Split);
        assert_eq!(judge(&Status::resource_exhausted("quota"), (1 << 20) + 1), Verdict::Split);
        assert_eq!(judge(&Status::resource_exhausted("quota"), 1 << 20), Verdict::Drop);
    }

    #[test]
    fn each_status_of_http_has_the_verdict_of_the_specification() {
        for status in 100..=599 {
            let expected =
                if [429, 502, 503, 504].contains(&status) { Verdict::Retry } else { Verdict::Drop };
            assert_eq!(judge_http(status, None, 100, ""), expected, "{status}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(judge_http(503, Some(second), 100, ""), Verdict::RetryAfter(second));
        assert_eq!(judge_http(400, Some(second), 100, ""), Verdict::Drop, "never, whatever it asks for");
        assert_eq!(judge_http(413, None, (1 << 20) + 1, ""), Verdict::Split);
        assert_eq!(judge_http(413, None, 100, "request body too large"), Verdict::Split);
    }

    #[test]
    fn retry_after_has_two_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(after(" 120 ", now), Some(Duration::from_mins(2)));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:07 GMT", now), Some(Duration::ZERO));
        assert_eq!(after("-1", now).or(after("soon", now)), None);
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
