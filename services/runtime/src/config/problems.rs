//! The report that a person reads when a configuration is not usable.

use std::fmt;

/// One thing that is wrong: where, what was found, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted path of the key, such as `server.listen`.
    pub path: String,
    /// The value found, as TOML writes it; `None` where there is none or it does not matter.
    pub found: Option<String>,
    /// The rule in words.
    pub rule: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub struct Problems {
    source_name: String,
    problems: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(source_name: &str, problems: Vec<Problem>) -> Self {
        Self { source_name: source_name.to_owned(), problems }
    }

    /// The problems, in the order in which the file was read.
    pub fn list(&self) -> &[Problem] {
        &self.problems
    }
}

/// A heading and one line a problem, the rules in one column.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not usable:", self.source_name)?;
        let heads: Vec<String> = self.problems.iter().map(head).collect();
        let width = heads.iter().map(|head| head.chars().count()).max().unwrap_or(0).min(WIDEST_COLUMN);
        for (head, problem) in heads.iter().zip(&self.problems) {
            write!(f, "\n  {head:width$}   {}", problem.rule)?;
        }
        Ok(())
    }
}

/// One very long value must not push every rule off the screen.
const WIDEST_COLUMN: usize = 60;

fn head(problem: &Problem) -> String {
    match &problem.found {
        Some(found) => format!("{} = {found}", problem.path),
        None => problem.path.clone(),
    }
}
