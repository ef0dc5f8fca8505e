//! Everything that is wrong with a request, gathered before any of it is said.

use weft_runtime::status::Violations;

use crate::{config::Limits, error::Error};

/// The longest name of a model.
const MAX_MODEL_BYTES: usize = 256;

/// What is wrong with a request.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Fields that break a rule.
    pub(crate) wrong: Violations,
}

impl Faults {
    /// Notes that a field breaks a rule, unless it holds.
    pub(crate) fn require(&mut self, holds: bool, field: &str, description: impl FnOnce() -> String) {
        self.wrong.require(holds, field, description);
    }

    /// A name that is not served is repeated in the answer, which has to fit into a header.
    pub(crate) fn model(&mut self, name: &str) {
        let bytes = name.len();
        self.require(bytes <= MAX_MODEL_BYTES, "model", || {
            format!("has {bytes} bytes; must have at most {MAX_MODEL_BYTES}")
        });
    }

    /// Notes a field that holds more text than may be.
    pub(crate) fn bytes(&mut self, field: &str, bytes: usize, limits: &Limits) {
        let most = limits.max_text_bytes;
        self.require(bytes <= most, field, || {
            format!("has {bytes} bytes of text; must have at most {most} (limits.max_text_bytes)")
        });
    }

    /// All that was found, or nothing.
    pub(crate) fn into_result(self) -> Result<(), Error> {
        self.wrong.into_result().map_err(Error::Refused)
    }
}
