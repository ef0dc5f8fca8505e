//! Configuration that says all that is wrong with it, and where.
//!
//! A service describes its configuration by reading it: each key that [`Section::value`] asks for is known, each
//! other key in the file is a problem. Reading never stops at the first problem.

use std::path::PathBuf;

/// A configuration that can be read from a section of a TOML file.
pub trait FromConfig: Sized {
    /// Reads every key it knows; problems are kept in the section, and a usable stand-in is returned.
    fn from_config(section: &mut Section<'_>) -> Self;
}

/// A rule that a value must keep, and its words: `must be at least 1`.
#[derive(Debug)]
pub struct Rule<T> {
    /// Whether the value keeps the rule.
    pub holds: fn(&T, &[T]) -> bool,
    /// What the rule compares with.
    pub bounds: Vec<T>,
    /// The rule in words, starting with `must`.
    pub words: String,
}
/// A value that can stand in a TOML file or in an environment variable.
pub trait Value: Sized + Clone {
    /// What is expected, in words: `a whole number`, `a duration such as "30s"`.
    const EXPECTED: &'static str;
    /// Reads it, or `None` if it is something else.
    fn from_toml(value: &toml::Value) -> Option<Self>;
}
/// One section of the file, and the problems found in it.
#[derive(Debug)]
pub struct Section<'a> {
    _marker: std::marker::PhantomData<&'a ()>,
}
/// Any value will do.
pub fn any<T>() -> Rule<T> { unimplemented!() }
/// At least this.
pub fn at_least<T: PartialOrd + std::fmt::Display>(_least: T) -> Rule<T> { unimplemented!() }
/// Between these, both included.
pub fn between<T: PartialOrd + std::fmt::Display>(_least: T, _most: T) -> Rule<T> { unimplemented!() }
/// A text with something in it.
pub fn not_empty() -> Rule<String> { unimplemented!() }

impl Section<'_> {
    /// The value of `key`, or `default` where the file does not have it.
    pub fn value<T: Value>(&mut self, _key: &'static str, _default: T, _rule: Rule<T>) -> T { unimplemented!() }
    /// The value of `key`, which may be left out.
    pub fn optional<T: Value>(&mut self, _key: &'static str, _rule: Rule<T>) -> Option<T> { unimplemented!() }
    /// The value of `key`, which may not be left out. A stand-in is returned where it is.
    pub fn required<T: Value + Default>(&mut self, _key: &'static str, _rule: Rule<T>) -> T { unimplemented!() }
    /// One of these words (name in the file, meaning).
    pub fn choice<T: Clone>(&mut self, _key: &'static str, _default: T, _words: &[(&'static str, T)]) -> T { unimplemented!() }
    /// The sub-table `key`; an absent one reads as empty.
    pub fn section<C: FromConfig>(&mut self, _key: &'static str) -> C { unimplemented!() }
    /// The sub-table `key`, or `None` where the file does not have it.
    pub fn optional_section<C: FromConfig>(&mut self, _key: &'static str) -> Option<C> { unimplemented!() }
    /// The array of tables `key` (`[[key]]`).
    pub fn list<C: FromConfig>(&mut self, _key: &'static str) -> Vec<C> { unimplemented!() }
    /// A table of named sub-tables (`[key.NAME]`), in the file's order.
    pub fn named<C: FromConfig>(&mut self, _key: &'static str) -> Vec<(String, C)> { unimplemented!() }
    /// Notes a problem that concerns `key`, such as one between two keys.
    pub fn problem(&mut self, _key: &'static str, _found: impl std::fmt::Display, _rule: impl Into<String>) { unimplemented!() }
}
/// Reads a whole configuration from TOML text and `WEFT__SECTION__KEY` pairs. For tests of a service's own config.
///
/// # Errors
/// All problems, one a line: path, value found, rule.
pub fn parse<C: FromConfig>(_text: &str, _env: &[(&str, &str)]) -> Result<C, Problems> { unimplemented!() }

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is not usable")]
pub struct Problems;

macro_rules! stub { ($($t:ty),*) => { $(impl Value for $t { const EXPECTED: &'static str = ""; fn from_toml(_: &toml::Value) -> Option<Self> { None } })* } }
stub!(bool, String, PathBuf, u16, u32, u64, usize, i64, f32, f64, std::time::Duration, std::net::SocketAddr, http::Uri);
impl<T: Value> Value for Vec<T> { const EXPECTED: &'static str = ""; fn from_toml(_: &toml::Value) -> Option<Self> { None } }
