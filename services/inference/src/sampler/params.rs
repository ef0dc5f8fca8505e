//! How a request wants its tokens chosen.

use weft_runtime::status::Violations;

use crate::model::ModelInfo;

/// The most entries of a logit bias.
const MAX_BIASED: usize = 1024;

/// How tokens are chosen, every value within its range.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps the smallest set of tokens whose probability reaches this; 1 is off.
    pub top_p: f32,
    /// Keeps this many of the likeliest; 0 is off.
    pub top_k: usize,
    /// Drops tokens less likely than this times the likeliest; 0 is off.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once for each time the token was generated.
    pub frequency_penalty: f32,
    /// Subtracted if the token was generated at all.
    pub presence_penalty: f32,
    /// Added to the logits of these ids; no id twice.
    pub logit_bias: Vec<(u32, f32)>,
    /// Names the random stream.
    pub seed: u64,
}

impl SamplingParams {
    /// The likeliest token each time, and all else off.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// What a request says about it; what it leaves unset is the model's default, then the service's.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of `SamplingParams`")]
pub struct SamplingRequest {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub logit_bias: Vec<(u32, f32)>,
    pub seed: Option<u64>,
}

/// A range and its words.
struct Range {
    holds: fn(f32) -> bool,
    words: &'static str,
}

const TEMPERATURE: Range = Range { holds: |v| (0.0..=100.0).contains(&v), words: "must be from 0 to 100" };
const TOP_P: Range = Range { holds: |v| v > 0.0 && v <= 1.0, words: "must be above 0 and at most 1" };
const MIN_P: Range = Range { holds: |v| (0.0..=1.0).contains(&v), words: "must be from 0 to 1" };
const REPETITION: Range =
    Range { holds: |v| v > 0.0 && v <= 100.0, words: "must be above 0 and at most 100" };
const PENALTY: Range = Range { holds: |v| (-2.0..=2.0).contains(&v), words: "must be from -2 to 2" };
const BIAS: Range = Range { holds: |v| (-100.0..=100.0).contains(&v), words: "must be from -100 to 100" };

/// What the model's `generation_config.json` recommends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    temperature: f32,
    top_p: f32,
    top_k: u32,
    repetition_penalty: f32,
}

impl Defaults {
    /// The model's, each within the range that holds for requests.
    ///
    /// # Errors
    /// The first that is not, with its value and the rule.
    pub fn of(info: &ModelInfo) -> Result<Self, String> {
        let usable = |name: &str, value: Option<f32>, range: &Range| {
            let value = value.unwrap_or(1.0);
            if (range.holds)(value) { Ok(value) } else { Err(format!("{name} is {value}; {}", range.words)) }
        };
        Ok(Self {
            temperature: usable("temperature", info.default_temperature, &TEMPERATURE)?,
            top_p: usable("top_p", info.default_top_p, &TOP_P)?,
            top_k: info.default_top_k.unwrap_or(0),
            repetition_penalty: usable("repetition_penalty", info.default_repetition_penalty, &REPETITION)?,
        })
    }
}

impl SamplingRequest {
    /// Fills in defaults and notes every violation; a stand-in takes the place of a value that breaks its rule.
    /// `seed` is asked for a fresh one where the request has none.
    pub fn resolve(
        self,
        defaults: &Defaults,
        vocabulary_size: usize,
        seed: impl FnOnce() -> u64,
        violations: &mut Violations,
    ) -> SamplingParams {
        let mut value = |name: &str, value: Option<f32>, range: &Range, default: f32| {
            let value = value.unwrap_or(default);
            let holds = (range.holds)(value);
            violations.require(holds, &format!("sampling.{name}"), || format!("is {value}; {}", range.words));
            value
        };
        let params = SamplingParams {
            temperature: value("temperature", self.temperature, &TEMPERATURE, defaults.temperature),
            top_p: value("top_p", self.top_p, &TOP_P, defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k) as usize,
            min_p: value("min_p", self.min_p, &MIN_P, 0.0),
            repetition_penalty: value(
                "repetition_penalty",
                self.repetition_penalty,
                &REPETITION,
                defaults.repetition_penalty,
            ),
            frequency_penalty: value("frequency_penalty", self.frequency_penalty, &PENALTY, 0.0),
            presence_penalty: value("presence_penalty", self.presence_penalty, &PENALTY, 0.0),
            logit_bias: self.logit_bias,
            seed: self.seed.unwrap_or_else(seed),
        };
        check_bias(&params.logit_bias, vocabulary_size, violations);
        params
    }
}

fn check_bias(bias: &[(u32, f32)], vocabulary_size: usize, violations: &mut Violations) {
    if bias.len() > MAX_BIASED {
        let found = bias.len();
        violations
            .push("sampling.logit_bias", format!("has {found} entries; must have at most {MAX_BIASED}"));
        return;
    }
    for (id, value) in bias {
        let field = || format!("sampling.logit_bias[{id}]");
        if *id as usize >= vocabulary_size {
            violations
                .push(field(), format!("names id {id}; must be below the vocabulary's {vocabulary_size}"));
        }
        if !(BIAS.holds)(*value) {
            violations.push(field(), format!("is {value}; {}", BIAS.words));
        }
    }
}
