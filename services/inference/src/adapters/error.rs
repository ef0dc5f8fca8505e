//! Why an adapter cannot be had, and what a caller is told.

use tonic::{Code, Status};
use weft_runtime::status;

use crate::model::AdapterFault;

/// Why an adapter was not loaded, not unloaded, or not found.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The service has no folder to load from.
    #[error("no adapter can be loaded: adapters.folder is not configured")]
    NoFolder,
    /// The model takes none.
    #[error("the served model takes no adapters")]
    NotTaken,
    /// A field breaks a rule.
    #[error("`{field}` {rule}")]
    Field {
        /// Which.
        field: &'static str,
        /// What was found, and the rule.
        rule: String,
    },
    /// No adapter has this name.
    #[error("no adapter `{id}` is loaded; loaded are: {loaded}")]
    Unknown {
        /// The name.
        id: String,
        /// Those that are loaded, or `none`.
        loaded: String,
    },
    /// Another generation is loaded than the caller believes.
    #[error("adapter `{id}` has {}, not generation {expected}", generation(*.current))]
    OtherGeneration {
        /// The name.
        id: String,
        /// What the caller believes.
        expected: u64,
        /// What is loaded, if anything.
        current: Option<u64>,
    },
    /// As many are loaded as may be.
    #[error(
        "{most} adapters are loaded already, the most that adapters.max_adapters allows: unload one first"
    )]
    TooMany {
        /// The most.
        most: usize,
    },
    /// The folder does not become an adapter.
    #[error(transparent)]
    Fault(#[from] AdapterFault),
    /// The thread that read it broke.
    #[error("reading the adapter panicked")]
    Panicked,
}

fn generation(current: Option<u64>) -> String {
    current.map_or_else(|| "no generation loaded".to_owned(), |current| format!("generation {current}"))
}

impl From<AdapterError> for Status {
    fn from(error: AdapterError) -> Self {
        let text = error.to_string();
        match error {
            AdapterError::NoFolder => {
                status::with_reason(Code::FailedPrecondition, "NO_ADAPTER_FOLDER", text)
            }
            AdapterError::NotTaken => {
                status::with_reason(Code::FailedPrecondition, "MODEL_TAKES_NO_ADAPTERS", text)
            }
            AdapterError::Field { field, rule } => status::violation(field, &rule),
            AdapterError::Unknown { .. } => status::with_reason(Code::NotFound, "ADAPTER_NOT_LOADED", text),
            AdapterError::OtherGeneration { .. } => {
                status::with_reason(Code::Aborted, "ADAPTER_GENERATION", text)
            }
            AdapterError::TooMany { .. } => {
                status::with_reason(Code::ResourceExhausted, "TOO_MANY_ADAPTERS", text)
            }
            AdapterError::Fault(AdapterFault::TooLarge { .. }) => {
                status::with_reason(Code::ResourceExhausted, "ADAPTER_MEMORY", text)
            }
            AdapterError::Fault(AdapterFault::Unusable(_)) => {
                status::with_reason(Code::InvalidArgument, "ADAPTER_UNUSABLE", shortened(text))
            }
            AdapterError::Panicked => status::answer(Code::Internal, &AdapterError::Panicked),
        }
    }
}

/// A text that fits into headers, whatever a folder's names are.
fn shortened(mut text: String) -> String {
    const LONGEST: usize = 1024;
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}
