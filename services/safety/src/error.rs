//! What can go wrong before the service serves. What is wrong with a request is said in `grpc`.

use std::{io, path::PathBuf};

use weft_runtime::BoxError;

/// Why the service cannot start, or a changed policy file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A built-in detector does not compile: a mistake of ours.
    #[error("a built-in detector does not compile")]
    Detectors(#[source] BoxError),
    /// The policy file cannot be read.
    #[error("the policy file {path} cannot be read: {source}")]
    Unreadable {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The policy file has mistakes.
    #[error("the policy file {path} cannot be used: {source}")]
    Unusable {
        /// Where it is.
        path: PathBuf,
        /// All of them.
        source: BoxError,
    },
    /// The process stopped while detectors were being compiled.
    #[error("compiling was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}
