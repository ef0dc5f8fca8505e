//! What can go wrong in the gateway, and the code that the caller sees for it.

use std::{collections::HashMap, fmt};

use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt as _};
use weft_runtime::status::{self, code_name};

use crate::inbound::{
    admission::refusal::{PUSHBACK, Refusal},
    auth::Denied,
    quota::Exceeded,
};

/// A service behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Tokenizer,
    Inference,
    Safety,
}

impl Peer {
    /// Its name in configuration, errors, spans and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Inference => "inference",
            Self::Safety => "safety",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A call to a service behind the gateway that did not succeed. Its field names are already those of our own API.
#[derive(Debug, thiserror::Error)]
#[error("the call to {peer} failed with {}: {}", code_name(.status.code()), .status.message())]
pub(crate) struct Failure {
    /// Who answered, or did not.
    pub(crate) peer: Peer,
    /// What it answered, details included.
    #[source]
    pub(crate) status: Status,
}

/// What can go wrong in the gateway.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The request breaks rules of the contract; the status names all of them.
    #[error("{}", .0.message())]
    Refused(#[source] Status),

    /// A model that is not served.
    #[error("`model` is {model:?}; this gateway serves {served}")]
    UnknownModel { model: String, served: String },

    /// A policy that the safety filter does not have.
    #[error("`model` is {policy:?}; the safety filter's policies are {known}")]
    UnknownPolicy { policy: String, known: String },

    /// The safety policy refuses inputs, and the method's answer has no place to say so.
    #[error("the safety policy refuses {inputs}: {categories}")]
    Blocked { inputs: String, categories: String },

    /// The caller is not let in, or may not do this.
    #[error(transparent)]
    Denied(#[from] Denied),

    /// The caller's tenant has no room for this in its quota.
    #[error(transparent)]
    Quota(#[from] Box<Exceeded>),

    /// There is no room for another request.
    #[error("{0}")]
    NoRoom(Box<Refusal>),

    /// The tokenizer and inference do not serve the same vocabulary, so that ids would be misread.
    #[error("the services do not fit together: tokenizer has vocabulary {tokenizer}, inference {inference}")]
    VocabularyMismatch { tokenizer: String, inference: String },

    /// A call to a service failed.
    #[error(transparent)]
    Upstream(#[from] Failure),

    /// A service broke the contract.
    #[error("{peer} broke its contract: {what}")]
    Broken { peer: Peer, what: &'static str },
}

impl Error {
    /// The code that the caller sees. Exhaustive: a new error does not compile until someone has decided.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Refused(status) => status.code(),
            Self::UnknownModel { .. } | Self::UnknownPolicy { .. } => Code::NotFound,
            Self::Blocked { .. } => Code::PermissionDenied,
            Self::Denied(denied) => denied.code(),
            Self::Quota(_) => Code::ResourceExhausted,
            Self::NoRoom(refusal) => refusal.code(),
            Self::VocabularyMismatch { .. } => Code::Unavailable,
            Self::Upstream(failure) => upstream_code(failure.status.code()),
            Self::Broken { .. } => Code::Internal,
        }
    }

    /// What clients that retry by themselves are told, as gRPC's retry design has it: after how many milliseconds, or
    /// -1 for never.
    fn pushback(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        if let Self::Quota(exceeded) = self {
            let millis = exceeded
                .retry_after()
                .map_or(-1, |after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
            metadata.insert(PUSHBACK, millis.into());
        } else if let Self::NoRoom(refusal) = self {
            metadata.insert(PUSHBACK, refusal.pushback_ms().into());
        }
        metadata
    }

    fn details(&self) -> ErrorDetails {
        match self {
            Self::Refused(status) => status.get_error_details(),
            Self::UnknownModel { model, served } => {
                info("UNKNOWN_MODEL", [("model", model.clone()), ("served", served.clone())])
            }
            Self::UnknownPolicy { policy, known } => {
                info("UNKNOWN_POLICY", [("policy", policy.clone()), ("known", known.clone())])
            }
            Self::Blocked { inputs, categories } => {
                info("CONTENT_FILTER", [("inputs", inputs.clone()), ("categories", categories.clone())])
            }
            Self::Denied(denied) => info(denied.reason(), denied.metadata()),
            Self::Quota(exceeded) => exceeded.details(),
            Self::NoRoom(refusal) => refusal.details(),
            Self::VocabularyMismatch { tokenizer, inference } => {
                let found = [("tokenizer", tokenizer.clone()), ("inference", inference.clone())];
                info("VOCABULARY_MISMATCH", found)
            }
            Self::Upstream(failure) => failure.details(),
            Self::Broken { .. } => ErrorDetails::new(),
        }
    }
}

fn info(reason: &str, metadata: impl IntoIterator<Item = (&'static str, String)>) -> ErrorDetails {
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
    ErrorDetails::with_error_info(reason, status::DOMAIN, metadata.collect::<HashMap<_, _>>())
}

impl Failure {
    /// The service's own details; where it could not be reached, who could not be.
    fn details(&self) -> ErrorDetails {
        let mut details = self.status.get_error_details();
        if upstream_code(self.status.code()) == Code::Unavailable {
            let (reason, mut metadata) = match details.error_info() {
                Some(info) => (info.reason.clone(), info.metadata.clone()),
                None => ("SERVICE_UNAVAILABLE".to_owned(), HashMap::new()),
            };
            metadata.insert("service".to_owned(), self.peer.name().to_owned());
            details.set_error_info(reason, status::DOMAIN, metadata);
        }
        details
    }
}

/// What a service's code becomes. A caller sees the codes that it can act on; that a service did not accept *our*
/// identity or call is our own mistake.
fn upstream_code(code: Code) -> Code {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::DeadlineExceeded
        | Code::Unavailable => code,
        // We did not cancel it, for then nobody would be here to read this: the service gave the call up.
        Code::Cancelled => Code::Unavailable,
        Code::Ok
        | Code::Unknown
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Code::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = error.code();
        let message = match &error {
            // Opaque to the caller; the chain goes to the log.
            _ if code == Code::Internal => return status::answer(code, &error),
            // What a service says of the request is said to the caller as it is; of its own troubles, with its name.
            Error::Upstream(Failure { status, .. }) if !is_trouble(code) => status.message().to_owned(),
            _ => error.to_string(),
        };
        Self::with_error_details_and_metadata(code, message, error.details(), error.pushback())
    }
}

/// Whether a code tells of a service's own troubles, rather than of the request.
fn is_trouble(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}
