//! One instant that every hop of a request spends from.
//!
//! A deadline travels as `grpc-timeout`: what is left. An outgoing call sends a little less than that, so that the
//! inner hop fails first and its reason arrives. tonic's own timeouts cover only the time to response headers and say
//! `CANCELLED`; the layers in `layer::deadline` race every message and say
//! `DEADLINE_EXCEEDED`.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

/// The header that carries what is left.
pub(crate) const HEADER: &str = "grpc-timeout";

/// When the caller stops waiting. In the extensions of every incoming request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// This long from now. A time beyond what the clock can hold is cut to 30 years.
    pub fn after(time: Duration) -> Self {
        const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        Self(Instant::now() + time.min(FAR))
    }

    /// The instant itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left to spend, or `None` when the caller has already given up.
    pub fn remaining(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// The deadline of an incoming request. Every request that came through a server of ours has one.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get().copied()
    }

    /// Makes an outgoing request spend from this deadline.
    pub fn spend<T>(self, request: &mut tonic::Request<T>) {
        request.extensions_mut().insert(self);
    }
}

/// A `grpc-timeout` that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("is {0:?}; must be 1 to 8 digits and one of the units H, M, S, m, u, n")]
pub(crate) struct BadTimeout(String);

/// Reads `grpc-timeout` as the gRPC specification has it.
pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Duration>, BadTimeout> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let text =
        value.to_str().map_err(|_| BadTimeout(String::from_utf8_lossy(value.as_bytes()).into_owned()))?;
    parse(text).map(Some).ok_or_else(|| BadTimeout(text.chars().take(32).collect()))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    let amount: u64 = digits.parse().ok().filter(|_| well_formed)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Writes `grpc-timeout`, in the finest unit that 8 digits hold.
pub(crate) fn write(left: Duration, headers: &mut HeaderMap) {
    const MOST: u128 = 99_999_999;
    let amounts = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
    ];
    let (amount, unit) = amounts.into_iter().find(|(amount, _)| *amount <= MOST).unwrap_or((MOST, 'M'));
    if let Ok(value) = HeaderValue::try_from(format!("{amount}{unit}")) {
        headers.insert(HEADER, value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timeouts_are_read_as_the_specification_has_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("42m", Some(Duration::from_millis(42))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("100000000n", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            ("1s", None),
            (" 1S", None),
            ("1é", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read_and_is_never_more(nanos in 0_u64..1_000_000_000_000_000_000) {
            let left = Duration::from_nanos(nanos);
            let mut headers = HeaderMap::new();
            write(left, &mut headers);
            let read = read(&headers).unwrap().unwrap();
            prop_assert!(read <= left);
            prop_assert!(left - read <= left / 90_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_spent_by_the_clock() {
        let deadline = Deadline::after(Duration::from_secs(2));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(deadline.remaining(), Some(Duration::from_millis(1500)));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(deadline.remaining(), None);
        assert!(Deadline::after(Duration::MAX).remaining().is_some());
    }
}
