//! What a caller may ask for.

use weft_runtime::status::Violations;

/// What an output must look like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// JSON that holds to this schema (JSON text).
    JsonSchema(String),
    /// Text that this expression matches as a whole.
    Regex(String),
    /// Text of this grammar, in Lark's language.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A JSON object.
    JsonObject,
}

impl Form {
    /// The field of the request that an error points to.
    pub fn field(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "constraint.json_schema",
            Self::Regex(_) => "constraint.regex",
            Self::Lark(_) => "constraint.lark_grammar",
            Self::Choice(_) => "constraint.choice",
            Self::JsonObject => "constraint.json_object",
        }
    }

    /// Bytes of its text.
    pub fn bytes(&self) -> usize {
        match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(options) => options.iter().map(String::len).sum(),
            Self::JsonObject => 0,
        }
    }

    /// Notes what can be seen to be wrong before it is compiled.
    pub(crate) fn check(&self, max_bytes: usize, violations: &mut Violations) {
        let bytes = self.bytes();
        violations.require(bytes <= max_bytes, self.field(), || {
            format!("has {bytes} bytes; must have at most {max_bytes} (constraint.max_bytes)")
        });
        match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => {
                violations.require(!text.trim().is_empty(), self.field(), || {
                    "is empty; must have at least one character".to_owned()
                });
            }
            Self::Choice(options) => check_options(options, violations),
            Self::JsonObject => {}
        }
    }
}

fn check_options(options: &[String], violations: &mut Violations) {
    violations.require(!options.is_empty(), "constraint.choice.options", || {
        "is empty; must have at least 1 text".to_owned()
    });
    for (index, _) in options.iter().enumerate().filter(|(_, option)| option.is_empty()) {
        let field = format!("constraint.choice.options[{index}]");
        violations.push(field, "is empty; must have at least one character");
    }
}
