//! Errors of services in a reader's words: the code, the sentence, and the `google.rpc` details.

use std::fmt;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A call that was not answered with success.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: Code,
    message: String,
    details: Vec<String>,
}

impl Refusal {
    /// The code, as the standard writes it: `INVALID_ARGUMENT`.
    pub(crate) fn code(&self) -> &'static str {
        name(self.code)
    }

    /// Whether nobody could be asked.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable
    }

    /// What it says.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What the details tell, one thing a line.
    #[cfg(test)]
    pub(crate) fn details(&self) -> &[String] {
        &self.details
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = lines(&status.get_error_details());
        // The cause of a failed connection stands in the sources: `transport error` alone helps nobody.
        let mut message = status.message().to_owned();
        let mut source = std::error::Error::source(&status);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        Self { code: status.code(), message, details }
    }
}

/// One line for each thing that the details tell.
fn lines(details: &ErrorDetails) -> Vec<String> {
    let fields = details.bad_request().into_iter().flat_map(|bad| &bad.field_violations);
    let mut lines: Vec<String> =
        fields.map(|field| format!("{} {}", field.field, field.description)).collect();
    let quotas = details.quota_failure().into_iter().flat_map(|failure| &failure.violations);
    lines.extend(quotas.map(|quota| format!("quota of {}: {}", quota.subject, quota.description)));
    if let Some(info) = details.error_info() {
        let about = info.metadata.iter().map(|(key, value)| format!(", {key} {value}")).collect::<String>();
        lines.push(format!("reason {}{about}", info.reason));
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        lines.push(format!("try again in {delay:?}"));
    }
    lines
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.message)?;
        // A message that already lists the violations is not said twice.
        for detail in self.details.iter().filter(|detail| !self.message.contains(detail.as_str())) {
            write!(f, "\n  {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// A code as the standard writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_field_value_and_rule() {
        let details = ErrorDetails::with_bad_request_violation("sampling.top_p", "is 2; must be in (0, 1]");
        let status = Status::with_error_details(Code::InvalidArgument, "the request is not usable", details);
        let refusal = Refusal::from(status);
        assert_eq!(refusal.details(), ["sampling.top_p is 2; must be in (0, 1]"]);
        assert_eq!(
            refusal.to_string(),
            "INVALID_ARGUMENT: the request is not usable\n  sampling.top_p is 2; must be in (0, 1]"
        );
    }

    #[test]
    fn details_that_the_message_already_tells_are_not_said_twice() {
        let details = ErrorDetails::with_bad_request_violation("n", "is 0");
        let refusal = Refusal::from(Status::with_error_details(Code::InvalidArgument, "n is 0", details));
        assert_eq!(refusal.to_string(), "INVALID_ARGUMENT: n is 0");
    }
}
