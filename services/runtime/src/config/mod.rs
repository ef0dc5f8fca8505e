//! Configuration that says all that is wrong with it, and where.
//!
//! A service describes its configuration by reading it: each key that [`Section::value`] asks for is known, each
//! other key in the file is a problem. Reading never stops at the first problem.
//!
//! Map: `section` (reading), `rule` (what a value must keep), `value` (what a value may be), `source` (file and
//! environment), `problems` (the report).

mod problems;
mod rule;
mod section;
mod source;
#[cfg(test)]
mod tests;
mod value;

pub use self::{
    problems::{Problem, Problems},
    rule::{Rule, any, at_least, between, not_empty, positive},
    section::Section,
    value::Value,
};

pub(crate) use self::source::{environment, load};

/// A configuration that can be read from a section of a TOML file.
pub trait FromConfig: Sized {
    /// Reads every key it knows; problems are kept in the section, and a usable stand-in is returned.
    fn from_config(section: &mut Section<'_>) -> Self;
}

/// Reads a whole configuration from TOML text and `WEFT__SECTION__KEY` pairs. For tests of a service's own config.
///
/// The sections that the runtime itself reads (`[server]`, `[drain]`, `[telemetry]`, `[runtime]`) are checked too.
///
/// # Errors
/// All problems, one a line: path, value found, rule.
pub fn parse<C: FromConfig>(text: &str, env: &[(&str, &str)]) -> Result<C, Problems> {
    let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    source::read(text, "the configuration", env, |_, _| {}).map(|(_, config)| config)
}
