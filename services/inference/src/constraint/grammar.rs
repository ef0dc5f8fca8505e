//! A form, compiled.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use llguidance::{JsonCompileOptions, ParserFactory, TokenParser, api::TopLevelGrammar};
use serde_json::Value;

use super::{
    form::Form,
    guide::{Guide, GuideError, Help, compute_mask},
    vocabulary::{MAX_LEXER_STATES, VocabularyError},
};
use crate::sampler::Mask;

/// The longest part of llguidance's own words that a caller is shown.
const MAX_WORDS: usize = 400;

/// What whitespace JSON may have between its parts. Without a bound, a small model can go on with it for ever.
const WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{0,16}";

/// Why there is no grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The caller's text is not usable.
    #[error("{0}")]
    Unusable(String),
    /// The model's folder has no vocabulary.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// It took too long.
    #[error("took longer to compile than {0:?} (constraint.compile_timeout)")]
    TooSlow(std::time::Duration),
    /// As many wait to be compiled as may.
    #[error("{0} constraints wait to be compiled already (constraint.compile_queue)")]
    Busy(usize),
    /// The compiler broke.
    #[error("the compiler of constraints panicked")]
    Panicked,
}

/// A compiled form. Cheap to clone.
#[derive(Clone)]
pub struct Grammar {
    inner: Arc<Inner>,
}

struct Inner {
    /// Before any token. Its copies share the lexer's states, so what one sequence found out serves the next.
    parser: Mutex<TokenParser>,
    first: Arc<Mask>,
    field: &'static str,
    help: Help,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grammar").field("field", &self.inner.field).finish_non_exhaustive()
    }
}

impl Grammar {
    /// Compiles a form, and its first mask.
    ///
    /// # Errors
    /// The form is not usable.
    pub(super) fn compile(factory: &ParserFactory, form: &Form, help: Help) -> Result<Self, CompileError> {
        let made = catch_unwind(AssertUnwindSafe(|| {
            let mut parser = factory.create_parser(source(form)?).map_err(|error| unusable(&error))?;
            parser.start_without_prompt();
            let first = compute_mask(&mut parser).map_err(|error| match error {
                GuideError::NotFollowed | GuideError::Broken(_) => CompileError::Panicked,
                GuideError::TooComplex { .. } | GuideError::DeadEnd { .. } => {
                    CompileError::Unusable(format!("allows no output: {error}"))
                }
            })?;
            Ok((parser, first))
        }));
        let (parser, first) = made.unwrap_or(Err(CompileError::Panicked))?;
        let (parser, first) = (Mutex::new(parser), Arc::new(first));
        let inner = Inner { parser, first, field: form.field(), help };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A guide for one sequence, which has said nothing yet.
    pub(crate) fn guide(&self) -> Guide {
        let Inner { first, field, help, .. } = &*self.inner;
        Guide::new(self.lock().clone(), Arc::clone(first), field, help.clone())
    }

    /// A guide for a sequence that has said this already. A worker follows it there.
    pub(crate) fn guide_behind(&self, said: Vec<u32>) -> Guide {
        let Inner { field, help, .. } = &*self.inner;
        Guide::behind(self.lock().clone(), said, field, help.clone())
    }

    /// Whether so many states were found that sequences to come could run into the limit.
    pub(super) fn is_worn(&self) -> bool {
        // The lexer's own lock is broken where a computation has panicked.
        catch_unwind(AssertUnwindSafe(|| {
            let stats = self.lock().parser.lexer_stats();
            stats.error || stats.num_states > MAX_LEXER_STATES / 2
        }))
        .unwrap_or(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TokenParser> {
        self.inner.parser.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The form in llguidance's words.
fn source(form: &Form) -> Result<TopLevelGrammar, CompileError> {
    Ok(match form {
        Form::JsonSchema(text) => json_grammar(parse_schema(text)?),
        Form::JsonObject => json_grammar(serde_json::json!({ "type": "object" })),
        Form::Regex(text) => TopLevelGrammar::from_regex(text),
        Form::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        Form::Choice(options) => {
            let each: Vec<String> = options.iter().map(|option| regex_syntax::escape(option)).collect();
            TopLevelGrammar::from_regex(&format!("(?:{})", each.join("|")))
        }
    })
}

fn parse_schema(text: &str) -> Result<Value, CompileError> {
    let schema = serde_json::from_str(text)
        .map_err(|error| CompileError::Unusable(format!("is not JSON: {error}")))?;
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(schema),
        _ => Err(CompileError::Unusable("is no schema; must be a JSON object, true or false".to_owned())),
    }
}

/// A schema with our bound on whitespace, unless it brings options of its own.
fn json_grammar(mut schema: Value) -> TopLevelGrammar {
    if schema.as_object().is_some_and(|object| !object.contains_key("x-guidance")) {
        let options = JsonCompileOptions {
            whitespace_pattern: Some(WHITESPACE.to_owned()),
            ..JsonCompileOptions::default()
        };
        options.apply_to(&mut schema);
    }
    TopLevelGrammar::from_json_schema(schema)
}

/// llguidance's words, without a tail that nobody reads.
fn unusable(error: &dyn fmt::Display) -> CompileError {
    let words = format!("{error:#}");
    let words = words.lines().next().unwrap_or_default();
    let end = words.floor_char_boundary(MAX_WORDS);
    CompileError::Unusable(format!("is not usable: {}", &words[..end]))
}
