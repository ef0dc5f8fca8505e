//! What can go wrong: before serving ([`LoadError`], which stops the process) and in a call ([`Error`], which answers
//! it). Two enums, so that the match to a code has no arm that no caller can meet.

use std::{io, path::PathBuf};

use tonic::{Code, Status};
use weft_runtime::{
    BoxError,
    status::{answer, unavailable, violation},
};

/// A model folder that is not usable.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder is not there.
    #[error(
        "{path} is not a folder; expected a Hugging Face model folder (`make model` makes the default one)"
    )]
    NoFolder {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A file that must be there is not.
    #[error("{path} is missing; expected {expected}")]
    NoFile {
        /// The file.
        path: PathBuf,
        /// What it should have held.
        expected: &'static str,
    },
    /// A file is there and cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not JSON, or not text.
    #[error("{path} is not usable: {problem}; expected {expected}")]
    Garbled {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
        /// What it should have held.
        expected: &'static str,
    },
    /// A value in a file is of the wrong kind.
    #[error("{path}: `{key}` is {found}; expected {expected}")]
    WrongValue {
        /// The file.
        path: PathBuf,
        /// The key in it, dotted.
        key: String,
        /// The kind of value that is there.
        found: String,
        /// The kind of value that should be.
        expected: &'static str,
    },
    /// `tokenizer.json` is JSON, and no tokenizer that the `tokenizers` library knows.
    #[error("{path} is not a tokenizer")]
    NotATokenizer {
        /// The file.
        path: PathBuf,
        /// What the library says.
        source: BoxError,
    },
    /// The decoder cannot be followed token by token with the same result as all at once.
    #[error("{path}: decoder {decoder} cannot be streamed: {reason}")]
    NotStreamable {
        /// The file.
        path: PathBuf,
        /// Its name in the file.
        decoder: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The chat template does not compile.
    #[error("{path}: the chat template `{name}` does not compile")]
    Template {
        /// The file that holds it.
        path: PathBuf,
        /// Its name; `default` where it has none.
        name: String,
        /// Where and why.
        source: minijinja::Error,
    },
    /// There are chat templates, and none for a plain conversation.
    #[error("{path}: no chat template is named `default`, only {}", names.join(", "))]
    NoDefaultTemplate {
        /// The file or folder that holds them.
        path: PathBuf,
        /// The names that there are.
        names: Vec<String>,
    },
    /// An id that should end a text is none of the vocabulary's.
    #[error("{path}: the end token {id} is outside of the vocabulary of {vocabulary_size} ids")]
    EndTokenOutside {
        /// The folder.
        path: PathBuf,
        /// The id.
        id: u32,
        /// Ids run from 0 to one less than this.
        vocabulary_size: u32,
    },
    /// The special tokens cannot be searched for.
    #[error("{path}: the special tokens cannot be searched for")]
    SpecialTokens {
        /// The file.
        path: PathBuf,
        /// Why.
        source: aho_corasick::BuildError,
    },
    /// A thread of the pool could not be started.
    #[error("a thread for CPU work could not be started")]
    NoThread(#[source] io::Error),
    /// The pool refused to load.
    #[error("loading did not finish")]
    Pool(#[source] Error),
}

/// A call that cannot be answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// EncodeChat for a model without a chat template.
    #[error("the model folder has no chat template: render the conversation yourself and use Encode")]
    NoChatTemplate,
    /// The template itself refused the conversation (`raise_exception`).
    #[error("are refused by the model's chat template: {0}")]
    Refused(String),
    /// The template met something in the conversation that it cannot work with.
    #[error("cannot be rendered by the model's chat template: {0}")]
    Unrenderable(minijinja::Error),
    /// The template did not come to an end.
    #[error("need more than {fuel} units of work in the model's chat template (`tokenizer.template_fuel`)")]
    OutOfFuel {
        /// The limit.
        fuel: u64,
    },
    /// The template made too much text.
    #[error("are {bytes} bytes of text once rendered; must be at most {limit}")]
    RenderedTooLong {
        /// What it made.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A special token in a message, and no way to write it as text.
    #[error("contain the special token {0}, which this tokenizer cannot encode as text")]
    Inseparable(String),
    /// Special tokens in the messages, and no character left to mark them with.
    #[error("contain special tokens and all of U+FDD0 to U+FDEF; at least two of these must be left out")]
    NoMarker,
    /// Every thread is busy and the queue is full.
    #[error("all {queue} places in the queue for CPU work are taken")]
    Busy {
        /// The queue's length.
        queue: usize,
    },
    /// The pool's threads are gone.
    #[error("the threads for CPU work have stopped")]
    Stopped,
    /// A job panicked. Ours to mend.
    #[error("a job panicked")]
    Panicked,
    /// The `tokenizers` library failed on an input that should be fine.
    #[error("the tokenizer failed")]
    Tokenizer(#[source] BoxError),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Refused(_)
            | Error::Unrenderable(_)
            | Error::OutOfFuel { .. }
            | Error::RenderedTooLong { .. }
            | Error::Inseparable(_)
            | Error::NoMarker => violation("messages", shortened(&mut error.to_string())),
            Error::NoChatTemplate => answer(Code::FailedPrecondition, &error),
            Error::Busy { .. } => unavailable("TOKENIZER_BUSY", error.to_string(), None),
            Error::Stopped => unavailable("TOKENIZER_STOPPED", error.to_string(), None),
            Error::Panicked | Error::Tokenizer(_) => answer(Code::Internal, &error),
        }
    }
}

/// A status travels in headers, and a peer drops the connection when those grow beyond 16 kB. What a template raises
/// may quote the whole conversation.
const LONGEST: usize = 1000;

fn shortened(sentence: &mut String) -> &str {
    if sentence.len() > LONGEST {
        sentence.truncate(sentence.floor_char_boundary(LONGEST));
        sentence.push('…');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_conversation_is_a_violation_of_its_messages() {
        let status = Status::from(Error::Refused("roles must alternate".to_owned()));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, "messages");
        assert_eq!(
            details.field_violations[0].description,
            "are refused by the model's chat template: roles must alternate"
        );
    }

    #[test]
    fn what_a_template_raises_fits_in_the_headers() {
        let status = Status::from(Error::Refused("日本".repeat(100_000)));
        // As they travel: percent-encoded, and base64.
        let bytes = status.message().len() * 3 + status.details().len() * 4 / 3;
        assert!(bytes < 8 * 1024, "{bytes}");
        assert!(
            status.message().ends_with("本…") || status.message().ends_with("日…"),
            "{}",
            status.message()
        );
    }

    #[test]
    fn a_full_queue_may_be_tried_elsewhere() {
        let status = Status::from(Error::Busy { queue: 8 });
        assert!(weft_runtime::status::is_retryable(&status));
        assert_eq!(status.get_details_error_info().unwrap().reason, "TOKENIZER_BUSY");
        assert_eq!(status.message(), "all 8 places in the queue for CPU work are taken");
    }

    #[test]
    fn a_model_without_a_template_is_no_mistake_of_the_fields() {
        assert_eq!(Status::from(Error::NoChatTemplate).code(), Code::FailedPrecondition);
    }

    #[test]
    fn a_fault_of_ours_shows_an_id_and_nothing_else() {
        let status = Status::from(Error::Tokenizer("secret".into()));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"), "{status:?}");
    }
}
