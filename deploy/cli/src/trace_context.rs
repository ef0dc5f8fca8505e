//! The W3C trace context that a command sends with a request, so that it knows the trace before anyone answers.

use std::fmt;

use rand::RngExt as _;

/// The root of a trace that this program starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl TraceContext {
    /// A fresh one. A trace that is not sampled is passed on but not recorded.
    pub(crate) fn random(sampled: bool) -> Self {
        let mut rng = rand::rng();
        // All-zero ids are invalid.
        Self { trace: rng.random_range(1..=u128::MAX), span: rng.random_range(1..=u64::MAX), sampled }
    }

    /// The trace id, as Jaeger shows it: 32 hex digits.
    pub(crate) fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// As the header `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_has_the_form_of_the_standard() {
        let context = TraceContext { trace: 0xab, span: 1, sampled: true };
        assert_eq!(context.to_string(), "00-000000000000000000000000000000ab-0000000000000001-01");
        assert_eq!(TraceContext { sampled: false, ..context }.to_string().split('-').next_back(), Some("00"));
        assert_eq!(context.trace_id(), "000000000000000000000000000000ab");
    }

    #[test]
    fn two_traces_are_never_the_same() {
        assert_ne!(TraceContext::random(true).trace_id(), TraceContext::random(true).trace_id());
    }
}
