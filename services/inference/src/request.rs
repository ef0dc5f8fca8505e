//! What a caller asks, checked against the model and the limits. Everything that is wrong is reported at once.

use tonic::Status;
use weft_runtime::status::Violations;

use crate::{
    adapters::Lease,
    constraint::{Form, Grammar},
    resumption::Resumption,
    sampler::{Defaults, SamplingParams, SamplingRequest},
    sequence::Tenant,
    stop::StopRules,
};

/// The most ids that a request may stop at.
const MAX_STOP_IDS: usize = 64;
/// The most of the likeliest tokens that are reported at each position.
const MAX_TOP_LOGPROBS: u32 = 20;
/// The longest name of a tenant, in bytes.
const MAX_TENANT_BYTES: usize = 128;
/// The most bytes of a cache salt.
const MAX_SALT_BYTES: usize = 128;
/// The highest priority; the lowest is its negative.
const MAX_PRIORITY: i32 = 100;

/// What requests are checked against.
#[derive(Clone, Debug)]
pub struct Served {
    /// Logits per position: every id is below it.
    pub vocabulary_size: usize,
    /// Longest sequence, prompt and output together: what the model's positions and the whole cache allow.
    pub context_length: usize,
    /// The most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// The most new tokens.
    pub max_new_tokens: usize,
    /// The most inputs of one Embed or Score call.
    pub max_embed_inputs: usize,
    /// The most continuations of one prompt.
    pub max_continuations: usize,
    /// The most bytes of a constraint.
    pub max_constraint_bytes: usize,
    /// Ids that end a generation.
    pub end_token_ids: Vec<u32>,
    /// What the model recommends for sampling.
    pub defaults: Defaults,
}

/// A generation as asked for.
#[derive(Clone, Debug, Default)]
pub struct GenerateRequest {
    /// Ids to go on from.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingRequest,
    /// At most this many new tokens.
    pub max_tokens: Option<u32>,
    /// No end before this many new tokens.
    pub min_tokens: Option<u32>,
    /// Ids that end it, beside the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Go on past the model's own end tokens.
    pub ignore_eos: bool,
    /// Report log-probabilities, and of this many of the likeliest.
    pub top_logprobs: Option<u32>,
    /// Report log-probabilities of the prompt, and of this many of the likeliest.
    pub prompt_top_logprobs: Option<u32>,
    /// Higher runs earlier.
    pub priority: Option<i32>,
    /// Whom to charge.
    pub tenant: Option<String>,
    /// Blocks are shared only with requests that have the same; unset is the empty one.
    pub cache_salt: Option<String>,
    /// How many continuations.
    pub continuations: Option<u32>,
    /// What the output must look like.
    pub constraint: Option<Form>,
    /// What it has said elsewhere.
    pub resumption: Option<Resumption>,
}

/// A generation that can be run.
#[derive(Clone, Debug)]
pub struct Generate {
    /// Ids to go on from: at least one, each in the vocabulary.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub params: SamplingParams,
    /// When it ends. Prompt and output fit the context.
    pub rules: StopRules,
    /// Report log-probabilities, and of this many of the likeliest.
    pub top_logprobs: Option<usize>,
    /// Report log-probabilities of the prompt, and of this many of the likeliest.
    pub prompt_top_logprobs: Option<usize>,
    /// Higher runs earlier.
    pub priority: i32,
    /// Whom to charge; the empty name where nobody was named.
    pub tenant: Tenant,
    /// Blocks are shared only with requests that have the same.
    pub cache_salt: String,
    /// How many continuations; at least 1.
    pub continuations: usize,
    /// What its output must look like, if that was said.
    pub grammar: Option<Grammar>,
    /// The adapter to run with.
    pub adapter: Option<Lease>,
    /// What it has said elsewhere; then it has one continuation.
    pub resumption: Option<Resumption>,
}

impl Generate {
    /// The `tokens` likeliest tokens after `prompt`, whatever they are, and nothing else: what tests and measurements
    /// start from.
    pub fn greedy(prompt: Vec<u32>, tokens: usize) -> Self {
        Self {
            prompt,
            params: SamplingParams::greedy(),
            rules: StopRules::new(tokens, 0, Vec::new()),
            top_logprobs: None,
            prompt_top_logprobs: None,
            priority: 0,
            tenant: Tenant::default(),
            cache_salt: String::new(),
            continuations: 1,
            grammar: None,
            adapter: None,
            resumption: None,
        }
    }
}

impl GenerateRequest {
    /// Checks everything. `seed` is asked for a fresh one where the request has none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with every field that breaks a rule.
    pub fn check(self, served: &Served, seed: impl FnOnce() -> u64) -> Result<Generate, Status> {
        let mut violations = Violations::new();
        check_prompt(&self.prompt, served, &mut violations);
        let rules = self.rules(served, &mut violations);
        let top_logprobs = check_top("top_logprobs", self.top_logprobs, &mut violations);
        let prompt_top_logprobs = check_top("prompt_top_logprobs", self.prompt_top_logprobs, &mut violations);
        self.check_constraint(served, &mut violations);
        if let Some(resumption) = &self.resumption {
            resumption.check(&self, rules.max_tokens(), served, &mut violations);
        }
        let priority = self.priority.unwrap_or(0);
        violations.require((-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority), "priority", || {
            format!("is {priority}; must be from -{MAX_PRIORITY} to {MAX_PRIORITY}")
        });
        let tenant = checked_tenant(self.tenant, &mut violations);
        let cache_salt = self.cache_salt.unwrap_or_default();
        violations.require(cache_salt.len() <= MAX_SALT_BYTES, "cache_salt", || {
            format!("has {} bytes; must have at most {MAX_SALT_BYTES}", cache_salt.len())
        });
        let continuations = checked_continuations(self.continuations, served, &mut violations);
        let params = self.sampling.resolve(&served.defaults, served.vocabulary_size, seed, &mut violations);
        violations.into_result()?;
        Ok(Generate {
            prompt: self.prompt,
            params,
            rules,
            top_logprobs,
            prompt_top_logprobs,
            priority,
            tenant,
            cache_salt,
            continuations,
            grammar: None,
            adapter: None,
            resumption: self.resumption,
        })
    }

    fn check_constraint(&self, served: &Served, violations: &mut Violations) {
        let Some(constraint) = &self.constraint else { return };
        constraint.check(served.max_constraint_bytes, violations);
        violations.require(!self.ignore_eos, "stop.ignore_eos", || {
            "is true; must not be with a constraint, after whose end nothing may follow".to_owned()
        });
    }

    fn rules(&self, served: &Served, violations: &mut Violations) -> StopRules {
        let max_tokens = self.checked_max_tokens(served, violations);
        let min_tokens = self.min_tokens.unwrap_or(0) as usize;
        violations.require(min_tokens <= max_tokens, "stop.min_tokens", || {
            format!("is {min_tokens}; must be at most max_tokens ({max_tokens})")
        });
        violations.require(self.stop_token_ids.len() <= MAX_STOP_IDS, "stop.stop_token_ids", || {
            format!("has {} ids; must have at most {MAX_STOP_IDS}", self.stop_token_ids.len())
        });
        check_ids("stop.stop_token_ids", &self.stop_token_ids, served, violations);
        let mut ending = self.stop_token_ids.clone();
        if !self.ignore_eos {
            ending.extend_from_slice(&served.end_token_ids);
        }
        StopRules::new(max_tokens, min_tokens, ending)
    }

    /// As many new tokens as asked for; where nothing was asked, as many as fit.
    fn checked_max_tokens(&self, served: &Served, violations: &mut Violations) -> usize {
        let room = served.context_length.saturating_sub(self.prompt.len());
        let Some(asked) = self.max_tokens else { return room.min(served.max_new_tokens) };
        let asked = asked as usize;
        let field = "stop.max_tokens";
        violations.require(asked > 0, field, || "is 0; must be at least 1".to_owned());
        violations.require(asked <= served.max_new_tokens, field, || {
            format!("is {asked}; must be at most {}, the service's limit", served.max_new_tokens)
        });
        // A prompt that leaves no room is a violation of its own.
        violations.require(asked <= room || room == 0, field, || {
            let (prompt, context) = (self.prompt.len(), served.context_length);
            format!("is {asked}; with a prompt of {prompt} tokens must be at most {room} to fit the context of {context}")
        });
        asked
    }
}

/// The inputs of an Embed or Score call.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Ids, by input.
    pub token_ids: Vec<Vec<u32>>,
    /// Whom to charge.
    pub tenant: Tenant,
}

impl From<Vec<Vec<u32>>> for Inputs {
    fn from(token_ids: Vec<Vec<u32>>) -> Self {
        Self { token_ids, tenant: Tenant::default() }
    }
}

/// Checks the inputs of an Embed or Score call.
///
/// # Errors
/// `INVALID_ARGUMENT` with everything that breaks a rule.
pub fn check_inputs(
    inputs: Vec<Vec<u32>>,
    tenant: Option<String>,
    served: &Served,
) -> Result<Inputs, Status> {
    let mut violations = Violations::new();
    let tenant = checked_tenant(tenant, &mut violations);
    let (count, most) = (inputs.len(), served.max_embed_inputs);
    violations.require(count > 0, "inputs", || "is empty; must have at least 1 input".to_owned());
    violations.require(count <= most, "inputs", || format!("has {count} inputs; must have at most {most}"));
    let longest = served.context_length.min(served.max_prompt_tokens);
    for (index, input) in inputs.iter().take(most).enumerate() {
        let field = format!("inputs[{index}].token_ids");
        check_length(&field, input.len(), longest, &mut violations);
        check_ids(&field, input, served, &mut violations);
    }
    violations.into_result().map(|()| Inputs { token_ids: inputs, tenant })
}

fn checked_tenant(tenant: Option<String>, violations: &mut Violations) -> Tenant {
    let tenant = tenant.unwrap_or_default();
    violations.require(tenant.len() <= MAX_TENANT_BYTES, "tenant", || {
        format!("has {} bytes; must have at most {MAX_TENANT_BYTES}", tenant.len())
    });
    tenant.into()
}

fn check_top(field: &str, top: Option<u32>, violations: &mut Violations) -> Option<usize> {
    let top = top?;
    violations
        .require(top <= MAX_TOP_LOGPROBS, field, || format!("is {top}; must be at most {MAX_TOP_LOGPROBS}"));
    Some(top as usize)
}

/// As many continuations as asked for; 1 where nothing was.
fn checked_continuations(asked: Option<u32>, served: &Served, violations: &mut Violations) -> usize {
    let (count, most) = (asked.unwrap_or(1) as usize, served.max_continuations);
    violations.require((1..=most).contains(&count), "n", || format!("is {count}; must be from 1 to {most}"));
    count
}

fn check_prompt(prompt: &[u32], served: &Served, violations: &mut Violations) {
    let longest = served.max_prompt_tokens.min(served.context_length.saturating_sub(1));
    check_length("prompt_token_ids", prompt.len(), longest, violations);
    check_ids("prompt_token_ids", prompt, served, violations);
}

fn check_length(field: &str, length: usize, longest: usize, violations: &mut Violations) {
    violations.require(length > 0, field, || "is empty; must have at least 1 id".to_owned());
    violations.require(length <= longest, field, || format!("has {length} ids; must have at most {longest}"));
}

/// Notes the first id that the vocabulary does not have, and how many there are: a long prompt may be wrong throughout.
pub(crate) fn check_ids(field: &str, ids: &[u32], served: &Served, violations: &mut Violations) {
    let size = served.vocabulary_size;
    let mut unknown = ids.iter().enumerate().filter(|(_, id)| **id as usize >= size);
    let Some((index, id)) = unknown.next() else { return };
    let more = match unknown.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    violations
        .push(format!("{field}[{index}]"), format!("is {id}; must be below the vocabulary's {size}{more}"));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::ModelInfo;

    /// A small model: 50 ids, of which 3 is the end; 128 positions.
    pub(crate) fn served() -> Served {
        Served {
            vocabulary_size: 50,
            context_length: 128,
            max_prompt_tokens: 100,
            max_new_tokens: 60,
            max_embed_inputs: 3,
            max_continuations: 3,
            max_constraint_bytes: 100,
            end_token_ids: vec![3],
            defaults: Defaults::of(&ModelInfo {
                default_temperature: Some(0.2),
                default_top_p: Some(0.9),
                ..ModelInfo::default()
            })
            .unwrap(),
        }
    }

    fn request(prompt: usize) -> GenerateRequest {
        GenerateRequest { prompt: vec![1; prompt], ..GenerateRequest::default() }
    }

    #[test]
    fn what_is_left_unset_is_the_models_default_and_then_the_services() {
        let generate = request(4).check(&served(), || 77).unwrap();
        assert_eq!((generate.params.temperature, generate.params.top_p), (0.2, 0.9));
        assert_eq!((generate.params.top_k, generate.params.min_p, generate.params.seed), (0, 0.0, 77));
        assert_eq!((generate.priority, generate.top_logprobs), (0, None));
    }

    #[test]
    fn an_unset_length_is_what_fits() {
        assert_eq!(request(4).check(&served(), || 0).unwrap().rules.max_tokens(), 60, "the service's limit");
        assert_eq!(request(100).check(&served(), || 0).unwrap().rules.max_tokens(), 28, "the context's rest");
    }

    #[test]
    fn end_tokens_of_the_model_count_unless_they_are_to_be_ignored() {
        let ends = |ignore_eos| {
            let request = GenerateRequest { ignore_eos, stop_token_ids: vec![9], ..request(1) };
            request.check(&served(), || 0).unwrap().rules
        };
        assert_eq!(ends(false), StopRules::new(60, 0, vec![3, 9]));
        assert_eq!(ends(true), StopRules::new(60, 0, vec![9]));
    }

    #[test]
    fn a_model_whose_defaults_are_out_of_range_is_refused() {
        let info = ModelInfo { default_top_p: Some(0.0), ..ModelInfo::default() };
        assert_eq!(Defaults::of(&info).unwrap_err(), "top_p is 0; must be above 0 and at most 1");
    }
}
