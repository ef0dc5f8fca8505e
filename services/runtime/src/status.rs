//! Errors as callers see them: a code, a sentence, and `google.rpc` details that a program can read.

use std::{error::Error, fmt::Write as _, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::BoxError;

/// The `domain` of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "weft";

/// `reason` words of `ErrorInfo`, for what the runtime itself refuses.
pub mod reason {
    /// The process is not ready yet.
    pub const STARTING: &str = "STARTING";
    /// The process is stopping and the call was cancelled.
    pub const STOPPING: &str = "STOPPING";
    /// The peer could not be reached, or the connection to it broke.
    pub const UNREACHABLE: &str = "UNREACHABLE";
    /// The peer failed and did not say why.
    pub const PEER: &str = "PEER";
    /// Time ran out.
    pub const DEADLINE: &str = "DEADLINE";
    /// A message is larger than `server.max_message_bytes`.
    pub const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";
    /// The bytes are not the message that the method takes.
    pub const UNDECODABLE: &str = "UNDECODABLE";
    /// A fault of ours; the id is in the metadata and in the log.
    pub const INTERNAL: &str = "INTERNAL";
}

/// Every field of a request that is wrong, gathered before any is reported.
#[derive(Debug, Default)]
pub struct Violations {
    fields: Vec<FieldViolation>,
    /// Found beyond those listed.
    more: usize,
}

/// A status travels in headers, and one that does not fit breaks the whole connection, for every call on it. So no more
/// than this many violations are listed, the rest is counted, and a description is cut.
const MOST_LISTED: usize = 16;
/// The longest field or description, in bytes. A status says each twice, and headers end at 16 KiB; percent-encoding triples.
const LONGEST_DESCRIPTION: usize = 128;

impl Violations {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `field` breaks a rule. `description` names the value found and the rule:
    /// `is -1; must be at least 0`.
    pub fn push(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.fields.len() < MOST_LISTED {
            self.fields.push(FieldViolation::new(cut(field.into()), cut(description.into())));
        } else {
            self.more += 1;
        }
    }

    /// Notes a violation unless `holds`.
    pub fn require(&mut self, holds: bool, field: &str, description: impl FnOnce() -> String) {
        if !holds {
            self.push(field, description());
        }
    }

    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// `Ok` if there are none, else `INVALID_ARGUMENT` with a `BadRequest` that lists them, and says how many more there
    /// are where they are too many to list.
    ///
    /// # Errors
    /// As said.
    pub fn into_result(self) -> Result<(), Status> {
        if self.fields.is_empty() {
            return Ok(());
        }
        Err(bad_request(self.fields, self.more))
    }
}

/// `INVALID_ARGUMENT` for one field.
pub fn violation(field: &str, description: &str) -> Status {
    bad_request(vec![FieldViolation::new(cut(field.to_owned()), cut(description.to_owned()))], 0)
}

/// A text that is too long for a header, without its middle: the rule stands at the end.
fn cut(text: String) -> String {
    if text.len() <= LONGEST_DESCRIPTION {
        return text;
    }
    let half = LONGEST_DESCRIPTION / 2;
    let (head, tail) = (text.floor_char_boundary(half), text.ceil_char_boundary(text.len() - half));
    format!("{}…{}", &text[..head], &text[tail..])
}

fn bad_request(fields: Vec<FieldViolation>, more: usize) -> Status {
    let mut sentences: Vec<String> =
        fields.iter().map(|violation| format!("`{}` {}", violation.field, violation.description)).collect();
    if more > 0 {
        sentences.push(format!("and {more} more"));
    }
    Status::with_error_details(
        Code::InvalidArgument,
        sentences.join("; "),
        ErrorDetails::with_bad_request(fields),
    )
}

/// `UNIMPLEMENTED` that names the field which this service does not serve yet.
pub fn unserved(field: &str) -> Status {
    Status::unimplemented(format!("`{field}` is not served yet"))
}

/// A status for an error of ours. `Internal` shows the caller only an id and logs the chain, once; every other code shows the
/// error's own sentence.
pub fn answer(code: Code, error: &(dyn Error + 'static)) -> Status {
    if code == Code::Internal { internal(&chain(error)) } else { Status::new(code, error.to_string()) }
}

/// `INTERNAL` with an id in place of what happened, which goes to the log under the same id.
pub(crate) fn internal(happened: &str) -> Status {
    let id = format!("{:016x}", rand::random::<u64>());
    tracing::error!(incident = id, error = happened, "internal error");
    let details =
        ErrorDetails::with_error_info(reason::INTERNAL, DOMAIN, [("incident".to_owned(), id.clone())]);
    Status::with_error_details(
        Code::Internal,
        format!("internal error; the log has it as incident {id}"),
        details,
    )
}

/// `UNAVAILABLE` with an `ErrorInfo{reason, domain: "weft"}` and, where known, a `RetryInfo`.
pub fn unavailable(
    reason: &'static str,
    message: impl Into<String>,
    retry_after: Option<Duration>,
) -> Status {
    let mut details = info(reason);
    if let Some(after) = retry_after {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(Code::Unavailable, message, details)
}

/// `RESOURCE_EXHAUSTED` with an `ErrorInfo{reason, domain: "weft"}` and, where known, a `RetryInfo`: the caller asks for
/// more than its share, and no replica would give it.
pub fn exhausted(reason: &'static str, message: impl Into<String>, retry_after: Option<Duration>) -> Status {
    let mut details = info(reason);
    if let Some(after) = retry_after {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Any code with an `ErrorInfo{reason, domain: "weft"}`.
pub fn with_reason(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, info(reason))
}

/// The `reason` of a status's `ErrorInfo`, where it has one of ours.
pub fn reason_of(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// Whether another replica may be asked, or the same one again.
pub fn is_retryable(status: &Status) -> bool {
    status.code() == Code::Unavailable
}

/// A code as the gRPC specification writes it: `DEADLINE_EXCEEDED`.
pub fn code_name(code: Code) -> &'static str {
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

/// The status somewhere in an error's source chain, or else [`answer`]'s `INTERNAL`.
///
/// A tower layer may fail with anything. tonic resets the stream for an error without a status in it, and the caller
/// learns nothing; with this it gets an answer.
pub fn rescue(error: BoxError) -> Status {
    Status::try_from_error(error).unwrap_or_else(|error| answer(Code::Internal, &*error))
}

/// An error and its sources in one line: `a: b: c`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Some errors already say what their source says.
        if !line.ends_with(&said) {
            let _ = write!(line, ": {said}");
        }
        source = cause.source();
    }
    line
}

fn info(reason: &'static str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new())
}
