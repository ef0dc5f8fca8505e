//! Which projections an adapter changes: PEFT's `target_modules`.

use regex::Regex;
use serde_json::Value;

/// The projections that an adapter may change.
pub(super) const PROJECTIONS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// What is served, for errors.
pub(super) const SUPPORTED: &str = "a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; all-linear; \
     or a regular expression without look-around and back-references";

/// The modules that an adapter names.
#[derive(Debug)]
pub(super) enum Targets {
    /// In every layer, names among [`PROJECTIONS`].
    Names(Vec<String>),
    /// Those whose whole dotted name it fits.
    Fitting(Regex),
}

impl Targets {
    /// PEFT's rule (`check_target_module_exists`).
    ///
    /// # Errors
    /// What of `value` is not supported.
    pub(super) fn read(value: &Value) -> Result<Self, &Value> {
        match value {
            Value::String(text) if text == "all-linear" => {
                Ok(Self::Names(PROJECTIONS.map(str::to_owned).into()))
            }
            Value::String(text) => whole("", text).map(Self::Fitting).map_err(|_| value),
            Value::Array(names) if !names.is_empty() => {
                names.iter().map(projection).collect::<Result<_, _>>().map(Self::Names)
            }
            _ => Err(value),
        }
    }

    /// Whether the module with this dotted name is among them.
    pub(super) fn include(&self, module: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| module.rsplit('.').next() == Some(name)),
            Self::Fitting(expression) => expression.is_match(module),
        }
    }
}

fn projection(value: &Value) -> Result<String, &Value> {
    let known = value.as_str().filter(|name| PROJECTIONS.contains(name));
    known.map(str::to_owned).ok_or(value)
}

/// An expression that fits whole names, behind what `before` fits.
///
/// # Errors
/// It is broken, or one that no engine of linear time has.
pub(super) fn whole(before: &str, text: &str) -> Result<Regex, regex::Error> {
    // By itself first: what is broken alone must not become whole within the rule.
    Regex::new(text)?;
    Regex::new(&format!("^{before}(?:{text})$"))
}
