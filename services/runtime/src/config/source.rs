//! Where a configuration comes from: one file, overridden by the environment.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use super::{FromConfig, Problem, Problems, Section, Value};
use crate::process::RuntimeConfig;

/// What an environment variable of ours starts with.
const PREFIX: &str = "WEFT__";
const LISTEN: &str = "server.listen";

/// The overrides, by dotted lower-case path: `WEFT__SERVER__LISTEN` is `server.listen`.
#[derive(Debug, Default)]
pub(super) struct Overrides(BTreeMap<String, String>);

impl Overrides {
    fn gather(env: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = env.into_iter().filter_map(|(key, value)| {
            let path = key.strip_prefix(PREFIX)?.to_ascii_lowercase().replace("__", ".");
            Some((path, value))
        });
        Self(ours.collect())
    }

    /// The text for exactly this path.
    pub(super) fn get(&self, path: &str) -> Option<&str> {
        self.0.get(&path.to_ascii_lowercase()).map(String::as_str)
    }

    /// The first parts of all paths below `path`, such as `listen` below `server`.
    pub(super) fn children(&self, path: &str) -> Vec<&str> {
        let prefix = if path.is_empty() { String::new() } else { format!("{}.", path.to_ascii_lowercase()) };
        let below = self.0.keys().filter_map(|key| key.strip_prefix(prefix.as_str()));
        let mut names: Vec<&str> = below.filter_map(|rest| rest.split('.').next()).collect();
        names.dedup();
        names
    }
}

/// The process's environment, as pairs. A variable that is not UTF-8 cannot be one of ours.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

/// Reads the file at `path` and the environment.
pub(crate) fn load<C: FromConfig>(
    path: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<(RuntimeConfig, C), Problems> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let rule = format!("cannot be read: {error}");
        Problems::new(&name, vec![Problem { path: name.clone(), found: None, rule }])
    })?;
    read(&text, &name, env, needs_address)
}

/// A process on sockets must have one. A mesh in one test process does without.
fn needs_address(runtime: &RuntimeConfig, problems: &mut Vec<Problem>) {
    // A wrong address has been reported already.
    if runtime.server.listen.is_none() && problems.iter().all(|problem| problem.path != LISTEN) {
        let rule = format!("is missing: must be {}", <SocketAddr as Value>::EXPECTED);
        problems.push(Problem { path: LISTEN.to_owned(), found: None, rule });
    }
}

/// Reads text and environment; `name` stands in the heading of the report, and `also` may add to it.
pub(super) fn read<C: FromConfig>(
    text: &str,
    name: &str,
    env: impl IntoIterator<Item = (String, String)>,
    also: impl FnOnce(&RuntimeConfig, &mut Vec<Problem>),
) -> Result<(RuntimeConfig, C), Problems> {
    let table =
        text.parse::<toml::Table>().map_err(|error| Problems::new(name, vec![not_toml(text, &error)]))?;
    let env = Overrides::gather(env);
    let mut problems = Vec::new();
    let mut root = Section::root(&table, &env, &mut problems);
    let runtime = RuntimeConfig::from_config(&mut root);
    let config = C::from_config(&mut root);
    root.finish();
    also(&runtime, &mut problems);
    if problems.is_empty() { Ok((runtime, config)) } else { Err(Problems::new(name, problems)) }
}

fn not_toml(text: &str, error: &toml::de::Error) -> Problem {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    Problem {
        path: format!("line {line}"),
        found: None,
        rule: format!("is not TOML: {}", error.message().trim()),
    }
}
