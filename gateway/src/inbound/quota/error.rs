//! A quota that does not allow what is asked for, in words and in `google.rpc` details.

use std::time::Duration;

use tonic_types::{ErrorDetails, QuotaViolation};
use weft_runtime::status;

use super::account::{Kind, Refusal};

/// A quota that does not allow what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub(crate) struct Exceeded {
    /// Empty for callers that are not known.
    pub(super) tenant: String,
    pub(super) model: String,
    pub(super) window: Duration,
    pub(super) refusal: Refusal,
}

impl Exceeded {
    /// When asking again may help; `None` where it never will.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.refusal.retry_after
    }

    /// `ErrorInfo`, `QuotaFailure` and, where asking again may help, `RetryInfo`.
    pub(crate) fn details(&self) -> ErrorDetails {
        let Refusal { kind, limit, used, reserved, asked, retry_after } = &self.refusal;
        let facts = [
            ("knob", self.knob().to_owned()),
            ("limit", limit.to_string()),
            ("used", used.to_string()),
            ("reserved", reserved.to_string()),
            ("requested", asked.to_string()),
            ("tenant", self.tenant.clone()),
            ("model", self.model.clone()),
            ("window", format!("{:?}", self.window)),
        ];
        let facts = facts.map(|(key, value)| (key.to_owned(), value));
        let reason = format!("QUOTA_{}", kind.name().to_uppercase());
        let mut details = ErrorDetails::with_error_info(reason, status::DOMAIN, facts);
        let subject = format!("tenant:{} model:{}", self.tenant, self.model);
        details.set_quota_failure(vec![QuotaViolation::new(subject, self.sentence())]);
        if let Some(after) = retry_after {
            details.set_retry_info(Some(*after));
        }
        details
    }

    /// Where the limit is written.
    fn knob(&self) -> &'static str {
        match self.refusal.kind {
            Kind::Requests => "requests in quota.file",
            Kind::Tokens => "tokens in quota.file",
            Kind::Streams => "streams in quota.file",
            Kind::Accounts => "quota.max_accounts",
        }
    }

    fn sentence(&self) -> String {
        let Refusal { kind, limit, used, reserved, asked, .. } = &self.refusal;
        let (knob, window, model) = (self.knob(), self.window, &self.model);
        let whose = if self.tenant.is_empty() {
            "callers without a name".to_owned()
        } else {
            format!("tenant {:?}", self.tenant)
        };
        match kind {
            Kind::Accounts => format!("{used} tenants are busy and {knob} = {limit}"),
            Kind::Streams => {
                format!("{whose}: {used} requests of {model} are in flight and {knob} = {limit}")
            }
            Kind::Requests => {
                format!("{whose}: {used} requests of {model} began within {window:?} and {knob} = {limit}")
            }
            Kind::Tokens => format!(
                "{whose}: this request may need {asked} tokens of {model}; {used} were used within {window:?}, {reserved} are \
                 reserved by requests in flight, and {knob} = {limit}"
            ),
        }
    }
}
