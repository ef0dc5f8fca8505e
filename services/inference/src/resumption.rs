//! A generation that goes on here: its replica was lost, and what it had said there is said.
//!
//! Nothing of it is decided anew. What was said is output like any other, so that penalties, lengths, constraint and
//! random stream stand where they stood; only its keys and values have to be computed again, as after a preemption.

use weft_runtime::status::Violations;

use crate::request::{GenerateRequest, Served, check_ids};

/// What a generation has said elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    /// In order.
    pub said: Vec<u32>,
    /// Which continuation of its request it was.
    pub index: usize,
    /// The adapter that it went through; not compared where it is not known.
    pub adapter_fingerprint: Option<String>,
}

impl Resumption {
    /// Checks it against the request that it belongs to, of which at most `max_tokens` may be said.
    pub(crate) fn check(
        &self,
        request: &GenerateRequest,
        max_tokens: usize,
        served: &Served,
        violations: &mut Violations,
    ) {
        let field = "resumption.token_ids";
        violations.require(self.said.len() <= max_tokens, field, || {
            format!("has {} ids; must have at most max_tokens ({max_tokens})", self.said.len())
        });
        check_ids(field, &self.said, served, violations);
        let most = served.max_continuations;
        violations.require(self.index < most, "resumption.index", || {
            format!("is {}; must be below {most}", self.index)
        });
        violations.require(request.sampling.seed.is_some(), "sampling.seed", || {
            "is not set; must be the seed that Started named, since there is a resumption".to_owned()
        });
        violations.require(request.continuations.unwrap_or(1) == 1, "n", || {
            "is set; must be 1 with a resumption, which is that of one continuation".to_owned()
        });
        violations.require(request.prompt_top_logprobs.is_none(), "prompt_top_logprobs", || {
            "is set; must not be with a resumption, before which it was answered".to_owned()
        });
    }
}
