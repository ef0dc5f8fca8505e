//! Reading one section: what is asked for is known, what is left over is a problem.

use std::fmt::Display;

use super::{FromConfig, Problem, Rule, Value, source::Overrides};

/// One section of the file, and the problems found in it.
#[derive(Debug)]
pub struct Section<'a> {
    /// Dotted; empty for the root.
    path: String,
    table: Option<&'a toml::Table>,
    env: &'a Overrides,
    known: Vec<String>,
    problems: &'a mut Vec<Problem>,
}

/// What was found for a key.
struct Found {
    /// As TOML writes it.
    shown: String,
    /// The readings that it allows: a text from the environment may also be meant as a number or a list.
    readings: Vec<toml::Value>,
}

/// Two names this close are probably the same word, mistyped.
const NEAR: f64 = 0.75;

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a toml::Table, env: &'a Overrides, problems: &'a mut Vec<Problem>) -> Self {
        Self { path: String::new(), table: Some(table), env, known: Vec::new(), problems }
    }

    /// The value of `key`, or `default` where the file does not have it.
    pub fn value<T: Value>(&mut self, key: &'static str, default: T, rule: Rule<T>) -> T {
        self.read(key, &rule).unwrap_or(default)
    }

    /// The value of `key`, which may be left out.
    pub fn optional<T: Value>(&mut self, key: &'static str, rule: Rule<T>) -> Option<T> {
        self.read(key, &rule)
    }

    /// The value of `key`, which may not be left out. A stand-in is returned where it is.
    pub fn required<T: Value + Default>(&mut self, key: &'static str, rule: Rule<T>) -> T {
        let missing = self.find(key).is_none();
        if missing {
            self.note(key, None, format!("is missing: must be {}", T::EXPECTED));
        }
        self.read(key, &rule).unwrap_or_default()
    }

    /// One of these words (name in the file, meaning).
    pub fn choice<T: Clone>(&mut self, key: &'static str, default: T, words: &[(&'static str, T)]) -> T {
        let Some(found) = self.ask(key) else { return default };
        let word = found.readings.iter().find_map(String::from_toml);
        if let Some((_, meaning)) = words.iter().find(|(name, _)| word.as_deref() == Some(name)) {
            return meaning.clone();
        }
        let names: Vec<String> = words.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        self.note(key, Some(found.shown), format!("must be one of {}", names.join(", ")));
        default
    }

    /// The sub-table `key`; an absent one reads as empty.
    pub fn section<C: FromConfig>(&mut self, key: &'static str) -> C {
        self.know(key);
        let table = self.table_at(key);
        self.child(key, table)
    }

    /// The sub-table `key`, or `None` where the file does not have it.
    pub fn optional_section<C: FromConfig>(&mut self, key: &'static str) -> Option<C> {
        self.know(key);
        let present = self.raw(key).is_some() || !self.env.children(&self.path_of(key)).is_empty();
        let table = self.table_at(key);
        present.then(|| self.child(key, table))
    }

    /// The array of tables `key` (`[[key]]`).
    pub fn list<C: FromConfig>(&mut self, key: &'static str) -> Vec<C> {
        self.know(key);
        let Some(value) = self.raw(key) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            self.note(
                key,
                Some(value.to_string()),
                format!("must be a list of tables: [[{}]]", self.path_of(key)),
            );
            return Vec::new();
        };
        let items = items.iter().enumerate();
        items.filter_map(|(index, item)| self.item(&format!("{key}.{index}"), item)).collect()
    }

    /// A table of named sub-tables (`[key.NAME]`), in the file's order.
    pub fn named<C: FromConfig>(&mut self, key: &'static str) -> Vec<(String, C)> {
        self.know(key);
        let path = self.path_of(key);
        let table = self.table_at(key);
        let mut names: Vec<String> = table.into_iter().flat_map(toml::Table::keys).cloned().collect();
        for added in self.env.children(&path) {
            if !names.iter().any(|name| name.eq_ignore_ascii_case(added)) {
                names.push(added.to_owned());
            }
        }
        let empty = toml::Value::Table(toml::Table::new());
        let read = |name: String| {
            let item = table.and_then(|table| table.get(&name)).unwrap_or(&empty).clone();
            self.item(&format!("{key}.{name}"), &item).map(|config| (name, config))
        };
        names.into_iter().filter_map(read).collect()
    }

    /// Notes a problem that concerns `key`, such as one between two keys.
    pub fn problem(&mut self, key: &'static str, found: impl Display, rule: impl Into<String>) {
        self.note(key, Some(found.to_string()), rule.into());
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        let in_file = self.table.into_iter().flat_map(toml::Table::keys).map(String::as_str);
        let in_env = self.env.children(&self.path);
        let mut unknown: Vec<&str> = in_file.chain(in_env).filter(|key| !self.knows(key)).collect();
        unknown.dedup();
        // Where several services share an environment, the file is not to blame.
        let place = |key| if self.raw(key).is_some() { "" } else { " (from the environment)" };
        let rule = |key| format!("unknown key{}{}", place(key), meant(key, &self.known));
        let rules: Vec<(String, String)> =
            unknown.into_iter().map(|key| (self.path_of(key), rule(key))).collect();
        self.problems.extend(rules.into_iter().map(|(path, rule)| Problem { path, found: None, rule }));
    }

    fn read<T: Value>(&mut self, key: &'static str, rule: &Rule<T>) -> Option<T> {
        let found = self.ask(key)?;
        let Some(value) = found.readings.iter().find_map(T::from_toml) else {
            self.note(key, Some(found.shown), format!("must be {}", T::EXPECTED));
            return None;
        };
        if !rule.allows(&value) {
            self.note(key, Some(found.shown), rule.words.clone());
            return None;
        }
        Some(value)
    }

    fn item<C: FromConfig>(&mut self, key: &str, item: &toml::Value) -> Option<C> {
        if let Some(table) = item.as_table() {
            return Some(self.child(key, Some(table)));
        }
        self.note(key, Some(item.to_string()), "must be a table".to_owned());
        None
    }

    fn child<C: FromConfig>(&mut self, key: &str, table: Option<&toml::Table>) -> C {
        let path = self.path_of(key);
        let mut child =
            Section { path, table, env: self.env, known: Vec::new(), problems: &mut *self.problems };
        let config = C::from_config(&mut child);
        child.finish();
        config
    }

    fn table_at(&mut self, key: &str) -> Option<&'a toml::Table> {
        let value = self.raw(key)?;
        if !value.is_table() {
            self.note(key, Some(value.to_string()), format!("must be a table: [{}]", self.path_of(key)));
        }
        value.as_table()
    }

    fn ask(&mut self, key: &str) -> Option<Found> {
        self.know(key);
        self.find(key)
    }

    fn find(&self, key: &str) -> Option<Found> {
        if let Some(text) = self.env.get(&self.path_of(key)) {
            let as_text = toml::Value::String(text.to_owned());
            let as_toml =
                format!("value = {text}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("value"));
            let readings = std::iter::once(as_text).chain(as_toml).collect();
            return Some(Found { shown: format!("{text} (from the environment)"), readings });
        }
        let value = self.raw(key)?;
        Some(Found { shown: value.to_string(), readings: vec![value.clone()] })
    }

    fn raw(&self, key: &str) -> Option<&'a toml::Value> {
        self.table?.get(key)
    }

    fn know(&mut self, key: &str) {
        if !self.knows(key) {
            self.known.push(key.to_owned());
        }
    }

    fn knows(&self, key: &str) -> bool {
        self.known.iter().any(|known| known == key)
    }

    fn note(&mut self, key: &str, found: Option<String>, rule: String) {
        let path = self.path_of(key);
        self.problems.push(Problem { path, found, rule });
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// A question after a known key that is written nearly the same; nothing where there is none.
fn meant(key: &str, known: &[String]) -> String {
    let near =
        known.iter().map(|name| (strsim::jaro_winkler(key, name), name)).filter(|(score, _)| *score >= NEAR);
    near.max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}
