//! Jinja as transformers sets it up for chat templates: trimmed blocks, Python's methods on strings and dicts,
//! `break` and `continue`, its own `tojson`, `raise_exception` and `strftime_now`.

use std::{error::Error as _, sync::LazyLock};

use jiff::ZonedDateTime;
use minijinja::{Environment, Error, ErrorKind, syntax::SyntaxConfig};
use minijinja_contrib::pycompat::unknown_method_callback;
use regex::Regex;

use super::python_json;

/// The environment, without templates.
pub(super) fn like_transformers(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    match SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        Ok(syntax) => environment.set_syntax(syntax),
        Err(error) => unreachable!("only delimiters can clash, and these are the default ones: {error}"),
    }
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", python_json::tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.set_fuel(Some(fuel));
    // Debug information in errors quotes the variables, and those are the prompt.
    environment.set_debug(false);
    environment
}

/// `{% generation %}` marks the assistant's text for training and renders as its body. minijinja knows no such tag,
/// so it becomes an `if` that always holds: same body, same whitespace control.
pub(super) fn without_generation_tags(source: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        #[expect(clippy::unwrap_used, reason = "a constant, compiled by a test")]
        Regex::new(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})").unwrap()
    });
    let replaced = TAG.replace_all(source, |tag: &regex::Captures<'_>| {
        let word = if tag.get(2).is_some() { "endif" } else { "if true" };
        format!("{}{word}{}", &tag[1], &tag[3])
    });
    replaced.into_owned()
}

/// What a template said with `raise_exception`, if that is what happened.
pub(super) fn raised(error: &Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        cause = error.source();
    }
    None
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
}

/// The local time in the given `strftime` format.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &ZonedDateTime::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}
