//! `adapter_config.json`: what of PEFT's settings changes the result is served or refused by name.

use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Map, Value};

use super::targets::{self, Targets};
use crate::model::torch::{LoadError, config::read_json};

/// The file.
const FILE: &str = "adapter_config.json";

/// Settings of training, of origin, or of how weights were first drawn: they change nothing once there are weights.
const IDLE: [&str; 16] = [
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Settings that are read here.
const READ: [&str; 9] = [
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
];

/// What an adapter's configuration says.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    file: PathBuf,
    rank: usize,
    alpha: f64,
    rank_stabilized: bool,
    ranks: Vec<Pattern>,
    alphas: Vec<Pattern>,
    targets: Targets,
}

/// A number for the modules whose name a pattern fits.
#[derive(Debug)]
struct Pattern {
    text: String,
    fits: Regex,
    number: f64,
}

impl Pattern {
    /// PEFT's rule (`get_pattern_key`): the expression fits a module's whole dotted name, or the end of it from a dot on.
    fn new(text: &str, number: f64) -> Result<Self, regex::Error> {
        let fits = targets::whole(r"(?:.*\.)?", text)?;
        Ok(Self { text: text.to_owned(), fits, number })
    }
}

impl AdapterConfig {
    /// Reads a folder's file.
    ///
    /// # Errors
    /// It is missing or broken, or asks for what is not computed, or for a rank above `max_rank`.
    pub(super) fn read(folder: &Path, max_rank: usize) -> Result<Self, LoadError> {
        let keys: Map<String, Value> = read_json(&folder.join(FILE))?;
        let file = File { path: folder.join(FILE), keys };
        file.must_be("peft_type", "LORA", &[Value::from("LORA")])?;
        file.must_be("task_type", "CAUSAL_LM", &[Value::from("CAUSAL_LM"), Value::Null])?;
        file.must_be("bias", "none", &[Value::from("none"), Value::Null])?;
        let drawn =
            [true.into(), false.into(), "gaussian".into(), "eva".into(), "orthogonal".into(), Value::Null];
        file.must_be("init_lora_weights", "those that leave the base model's weights alone", &drawn)?;
        file.refuse_the_rest()?;
        let rank = file.number("r")?;
        let config = Self {
            rank: rank as usize,
            alpha: file.number("lora_alpha")?,
            rank_stabilized: file.keys.get("use_rslora") == Some(&Value::Bool(true)),
            ranks: file.patterns("rank_pattern")?,
            alphas: file.patterns("alpha_pattern")?,
            targets: file.targets()?,
            file: file.path,
        };
        config.check_rank("r", rank, max_rank)?;
        for pattern in &config.ranks {
            config.check_rank("rank_pattern", pattern.number, max_rank)?;
        }
        Ok(config)
    }

    fn check_rank(&self, key: &'static str, rank: f64, max_rank: usize) -> Result<(), LoadError> {
        if rank.fract() == 0.0 && (1.0..=max_rank as f64).contains(&rank) {
            return Ok(());
        }
        let rule = format!("must be a whole number from 1 to adapters.max_rank ({max_rank})");
        Err(LoadError::BadValue { file: self.file.clone(), key, value: rank.to_string(), rule })
    }

    /// Whether the module with this dotted name in the base model is changed.
    pub(super) fn changes(&self, module: &str) -> bool {
        self.targets.include(module)
    }

    /// Rank and scale of the products of a module, by its dotted name in the base model.
    ///
    /// # Errors
    /// Two patterns fit it.
    pub(super) fn factors(&self, module: &str) -> Result<(usize, f64), LoadError> {
        let rank =
            self.matching("rank_pattern", &self.ranks, module)?.map_or(self.rank, |rank| rank as usize);
        let alpha = self.matching("alpha_pattern", &self.alphas, module)?.unwrap_or(self.alpha);
        let by = if self.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, alpha / by))
    }

    /// The number whose pattern fits the module. Of several PEFT takes the first in the file, an order that JSON does not
    /// promise to keep: they must agree.
    fn matching(
        &self,
        key: &'static str,
        patterns: &[Pattern],
        module: &str,
    ) -> Result<Option<f64>, LoadError> {
        let mut fitting = patterns.iter().filter(|pattern| pattern.fits.is_match(module));
        let Some(first) = fitting.next() else { return Ok(None) };
        match fitting.find(|other| other.number != first.number) {
            None => Ok(Some(first.number)),
            Some(other) => {
                let value = format!("{}, {}", first.text, other.text);
                let rule =
                    format!("both fit {module}, with {} and {}: they must agree", first.number, other.number);
                Err(LoadError::BadValue { file: self.file.clone(), key, value, rule })
            }
        }
    }
}

/// The file, and what is in it.
struct File {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl File {
    fn must_be(&self, key: &'static str, supported: &'static str, values: &[Value]) -> Result<(), LoadError> {
        let value = self.keys.get(key).unwrap_or(&Value::Null);
        if values.contains(value) { Ok(()) } else { Err(self.unsupported(key, value, supported)) }
    }

    /// Refuses whatever is set and not known: it might change the result.
    fn refuse_the_rest(&self) -> Result<(), LoadError> {
        let set = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
        };
        let known = |key: &str| READ.contains(&key) || IDLE.contains(&key) || key == "use_rslora";
        match self.keys.iter().find(|(key, value)| !known(key) && set(value)) {
            None => Ok(()),
            Some((key, value)) => Err(LoadError::UnsupportedSetting {
                file: self.path.clone(),
                key: key.clone(),
                value: shortened(value),
            }),
        }
    }

    fn number(&self, key: &'static str) -> Result<f64, LoadError> {
        let value = self.keys.get(key);
        let value = value.ok_or_else(|| LoadError::MissingKey { file: self.path.clone(), key })?;
        self.positive(key, value)
    }

    fn positive(&self, key: &'static str, value: &Value) -> Result<f64, LoadError> {
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| LoadError::BadValue {
            file: self.path.clone(),
            key,
            value: shortened(value),
            rule: "must be a number above 0".to_owned(),
        })
    }

    /// Numbers by pattern: regular expressions, without look-around and back-references, which no engine of linear time has.
    fn patterns(&self, key: &'static str) -> Result<Vec<Pattern>, LoadError> {
        let patterns = match self.keys.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(patterns)) => patterns,
            Some(other) => return Err(self.unsupported(key, other, "an object of numbers")),
        };
        let read = |(text, value): (&String, &Value)| {
            let number = self.positive(key, value)?;
            Pattern::new(text, number).map_err(|_| {
                let text = Value::from(text.as_str());
                self.unsupported(key, &text, "regular expressions without look-around and back-references")
            })
        };
        patterns.iter().map(read).collect()
    }

    fn targets(&self) -> Result<Targets, LoadError> {
        const KEY: &str = "target_modules";
        let value = self.keys.get(KEY);
        let value = value.ok_or_else(|| LoadError::MissingKey { file: self.path.clone(), key: KEY })?;
        Targets::read(value).map_err(|value| self.unsupported(KEY, value, targets::SUPPORTED))
    }

    fn unsupported(&self, key: &'static str, value: &Value, supported: &'static str) -> LoadError {
        let supported = match supported {
            "LORA" => "supported: LORA",
            "CAUSAL_LM" => "supported: CAUSAL_LM",
            "none" => "supported: none",
            other => other,
        };
        LoadError::Unsupported { file: self.path.clone(), key, value: shortened(value), supported }
    }
}

/// A value as an error shows it.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 80;
    let mut text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}
