//! Errors as callers see them: a code, a sentence, and `google.rpc` details that a program can read.

use tonic::{Code, Status};

/// Every field of a request that is wrong, gathered before any is reported.
#[derive(Debug, Default)]
pub struct Violations {}

impl Violations {
    /// None yet.
    pub fn new() -> Self { Self {} }
    /// Notes that `field` breaks a rule. `description` names the value found and the rule:
    /// `is -1; must be at least 0`.
    pub fn push(&mut self, _field: impl Into<String>, _description: impl Into<String>) {}
    /// Notes a violation unless `holds`.
    pub fn require(&mut self, holds: bool, field: &str, description: impl FnOnce() -> String) { if !holds { self.push(field, description()); } }
    /// `Ok` if there are none, else `INVALID_ARGUMENT` with a `BadRequest` that lists them all.
    ///
    /// # Errors
    /// As said.
    pub fn into_result(self) -> Result<(), Status> { Ok(()) }
}
/// `UNIMPLEMENTED` that names the field which this service does not serve yet.
pub fn unserved(field: &str) -> Status { Status::unimplemented(format!("`{field}` is not served yet")) }
/// A status for an error of ours. `Internal` shows the caller only an id and logs the chain, once; every other code shows the
/// error's own sentence.
pub fn answer(_code: Code, _error: &(dyn std::error::Error + 'static)) -> Status { unimplemented!() }
/// `UNAVAILABLE` with an `ErrorInfo{reason, domain: "weft"}` and, where known, a `RetryInfo`.
pub fn unavailable(_reason: &'static str, _message: impl Into<String>, _retry_after: Option<std::time::Duration>) -> Status { unimplemented!() }
/// Whether another replica may be asked, or the same one again.
pub fn is_retryable(status: &Status) -> bool { status.code() == Code::Unavailable }
