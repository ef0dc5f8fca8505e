//! Why a request is not let in, in words and numbers that a caller can act on.
//!
//! A gateway without room is `UNAVAILABLE`: another replica may have some, and so may this one in a moment. A tenant that
//! has more than its fair share while others want theirs is `RESOURCE_EXHAUSTED`: no replica would be fairer to it, so a
//! balancer must not carry the request there.

use std::{fmt, time::Duration};

use tonic::Code;
use tonic_types::{ErrorDetails, QuotaViolation};
use weft_runtime::status::DOMAIN;

/// The header that gRPC clients with a retry policy obey: milliseconds until they come back.
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) cause: Cause,
    /// What is scarce.
    pub(crate) scarce: Scarce,
    /// Requests that wait.
    pub(crate) waiting: usize,
    /// How long it would have waited, if that is known.
    pub(crate) wait: Option<Duration>,
    /// When it should come back.
    pub(crate) retry_after: Duration,
}

/// A bound that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scarce {
    /// Its key in the configuration.
    pub(crate) knob: &'static str,
    /// What it is now.
    pub(crate) limit: u64,
    /// What the configuration says: more, where the limit was lowered because requests wait in inference's queue.
    pub(crate) configured: u64,
    /// What there is of what it bounds.
    pub(crate) used: u64,
}

/// What decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// All places for requests in flight are taken.
    InFlight,
    /// It would wait longer than this knob allows.
    Wait(&'static str),
    /// It has waited as long as this knob allows.
    Waited(&'static str),
    /// It would wait beyond its deadline.
    Deadline,
    /// Those who wait are as many as may, and all come before it.
    LineFull,
    /// Its tenant has more than its fair share.
    Share {
        /// `None` for callers that are not known.
        tenant: Option<String>,
        /// What the tenant has, of what is scarce.
        used: u64,
        /// What its share is.
        share: u64,
    },
}

impl Cause {
    /// Its name in metrics and details.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::Wait(_) => "wait",
            Self::Waited(_) => "waited",
            Self::Deadline => "deadline",
            Self::LineFull => "line_full",
            Self::Share { .. } => "share",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scarce { knob, limit, configured, used } = self.scarce;
        let what = if knob.ends_with("tokens_in_flight") { "tokens" } else { "requests" };
        write!(f, "{used} {what} are in flight and {knob} is {configured}")?;
        if limit < configured {
            write!(f, ", lowered to {limit} because requests wait in inference's queue")?;
        }
        match &self.cause {
            Cause::InFlight => {}
            Cause::Wait(knob) => write!(f, "; the wait would be longer than {knob} allows")?,
            Cause::Waited(knob) => write!(f, "; no room came free within {knob}")?,
            Cause::Deadline => f.write_str("; the wait would be longer than the deadline allows")?,
            Cause::LineFull => f.write_str("; admission.max_waiting requests wait before this one")?,
            Cause::Share { tenant, used, share } => {
                let tenant = tenant.as_deref().unwrap_or_default();
                write!(f, "; tenant {tenant:?} has {used} of them, and its fair share is {share}")?;
            }
        }
        match self.wait {
            Some(wait) => write!(f, " ({} ms)", wait.as_millis()),
            None => Ok(()),
        }
    }
}

impl Refusal {
    /// The code that the caller sees.
    pub(crate) fn code(&self) -> Code {
        match self.cause {
            Cause::Share { .. } => Code::ResourceExhausted,
            Cause::InFlight | Cause::Wait(_) | Cause::Waited(_) | Cause::Deadline | Cause::LineFull => {
                Code::Unavailable
            }
        }
    }

    /// The same for programs.
    pub(crate) fn details(&self) -> ErrorDetails {
        let reason = match self.cause {
            Cause::InFlight => "GATEWAY_FULL",
            Cause::Share { .. } => "TENANT_SHARE_FULL",
            Cause::Wait(_) | Cause::Waited(_) | Cause::Deadline | Cause::LineFull => "OVERLOADED",
        };
        let Scarce { knob, limit, configured, used } = self.scarce;
        let mut metadata = vec![
            ("knob", knob.to_owned()),
            ("value", limit.to_string()),
            ("configured", configured.to_string()),
            ("in_flight", used.to_string()),
            ("cause", self.cause.name().to_owned()),
            ("waiting", self.waiting.to_string()),
        ];
        metadata.extend(self.wait.map(|wait| ("wait_ms", wait.as_millis().to_string())));
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut details = ErrorDetails::with_error_info(
            reason,
            DOMAIN,
            metadata.collect::<std::collections::HashMap<_, _>>(),
        );
        details.set_retry_info(Some(self.retry_after));
        if let Cause::Share { tenant, used, share } = &self.cause {
            let subject = format!("tenant:{}", tenant.as_deref().unwrap_or_default());
            let description = format!("has {used} in flight; its fair share is {share} of {limit} ({knob})");
            details.set_quota_failure(vec![QuotaViolation::new(subject, description)]);
        }
        details
    }

    /// Milliseconds for [`PUSHBACK`].
    pub(crate) fn pushback_ms(&self) -> u64 {
        u64::try_from(self.retry_after.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}
