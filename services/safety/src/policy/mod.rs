//! Policies: what is looked for, and what is done about it, by direction.
//!
//! Map: `file` (the file as it is written), this module (policies ready to run).

mod file;

use std::{collections::HashMap, sync::Arc};

use regex::RegexSet;
use sha2::{Digest as _, Sha256};
use weft_runtime::{BoxError, config};

use self::file::{Actions, Draft, File};
use crate::{
    detector::{
        self, Detector,
        patterns::{Term, Terms},
    },
    error::Error,
    program::{Line, Program},
    verdict::{Action, Direction, Rule},
    window::search::{Bank, Entry},
};

/// Makes policies of files. Built-in detectors are compiled once and shared by all policies.
#[derive(Debug)]
pub struct Compiler {
    built_in: Vec<Arc<Detector>>,
    max_hold_bytes: usize,
}

impl Compiler {
    /// With the built-in detectors ready. `max_hold_bytes` bounds what a text's window holds of one finding.
    ///
    /// # Errors
    /// [`Error::Detectors`].
    pub fn new(max_hold_bytes: usize) -> Result<Self, Error> {
        let built_in = detector::built_in().map_err(|error| Error::Detectors(Box::new(error)))?;
        Ok(Self { built_in, max_hold_bytes })
    }

    /// Makes the policies of a file's text.
    ///
    /// # Errors
    /// Everything that is wrong with the text, see [`config::Problems`]; more terms than an automaton holds.
    pub fn compile(&self, text: &str) -> Result<Policies, BoxError> {
        let File { default, policies } = config::parse(text, &[])?;
        let policy = |(name, draft): &(String, Draft)| self.policy(name, draft).map(Arc::new);
        let mut policies = policies.iter().map(policy).collect::<Result<Vec<_>, BoxError>>()?;
        policies.sort_by_key(|policy| policy.name != default);
        let version = hex::encode(&Sha256::digest(text)[..6]);
        Ok(Policies { policies, version })
    }

    fn policy(&self, name: &str, draft: &Draft) -> Result<Policy, BoxError> {
        let built_in = draft.actions.0.iter().map(|(category, actions)| ((*category).to_owned(), *actions));
        let denied = draft.denials.iter().map(|denial| (denial.category.clone(), denial.actions));
        Ok(Policy {
            name: name.to_owned(),
            rules: built_in.chain(denied).map(PolicyRule::from).collect(),
            prompt: Arc::new(self.program(draft, Direction::Prompt)?),
            completion: Arc::new(self.program(draft, Direction::Completion)?),
        })
    }

    fn program(&self, draft: &Draft, direction: Direction) -> Result<Program, BoxError> {
        let mut drawing =
            Drawing { draft, direction, lines: Vec::new(), entries: Vec::new(), terms: Vec::new() };
        drawing.built_in(&self.built_in)?;
        drawing.denials()?;
        Ok(Program {
            rules: drawing.lines,
            banks: Bank::of(&drawing.entries),
            terms: Terms::new(drawing.terms)?,
            max_hold_bytes: self.max_hold_bytes,
        })
    }
}

/// A program in the making.
struct Drawing<'a> {
    draft: &'a Draft,
    direction: Direction,
    lines: Vec<Line>,
    entries: Vec<Entry>,
    terms: Vec<Term>,
}

impl Drawing<'_> {
    fn built_in(&mut self, detectors: &[Arc<Detector>]) -> Result<(), BoxError> {
        let actions: HashMap<&str, Actions> = self.draft.actions.0.iter().copied().collect();
        for detector in detectors {
            let action =
                actions.get(&*detector.category).map_or(Action::Flag, |actions| actions.of(self.direction));
            if action != Action::Allow {
                let rule = self.line(&detector.category, &detector.rule, action)?;
                self.look_for(detector, rule, action);
            }
        }
        Ok(())
    }

    fn denials(&mut self) -> Result<(), BoxError> {
        let draft = self.draft;
        for denial in &draft.denials {
            let action = denial.actions.of(self.direction);
            if action == Action::Allow {
                continue;
            }
            let rule = self.line(&denial.category, &denial.name, action)?;
            for detector in &denial.patterns {
                self.look_for(detector, rule, action);
            }
            let (ignore_case, whole_word) = (denial.ignore_case, denial.whole_word);
            let term = |text: &String| Term { text: text.clone(), ignore_case, whole_word, rule };
            self.terms.extend(denial.terms.iter().map(term));
        }
        Ok(())
    }

    fn look_for(&mut self, detector: &Arc<Detector>, rule: usize, action: Action) {
        let head_only = action == Action::Block;
        self.entries.push(Entry { detector: Arc::clone(detector), rule, head_only });
    }

    /// Adds a rule and returns its place.
    fn line(&mut self, category: &str, name: &str, action: Action) -> Result<usize, BoxError> {
        let exceptions = self.draft.exceptions.iter().filter(|exception| exception.covers(category));
        let exceptions = RegexSet::new(exceptions.flat_map(|exception| &exception.patterns))?;
        let rule = Rule { category: category.to_owned(), name: name.to_owned(), action };
        let line = Line::after(&self.lines, rule, exceptions);
        self.lines.push(line);
        Ok(self.lines.len() - 1)
    }
}

/// All policies of a file.
#[derive(Debug)]
pub struct Policies {
    /// The default one first.
    policies: Vec<Arc<Policy>>,
    /// The start of the file's SHA-256, in hexadecimal.
    version: String,
}

impl Policies {
    /// The policy of this name; the default one for an empty name.
    pub fn find(&self, name: &str) -> Option<&Arc<Policy>> {
        match name {
            "" => self.policies.first(),
            name => self.policies.iter().find(|policy| policy.name == name),
        }
    }

    /// All of them, the default one first.
    pub fn list(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// The start of the file's SHA-256, in hexadecimal.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// One policy, ready to run.
#[derive(Debug)]
pub struct Policy {
    /// The name that a request may use.
    pub name: String,
    /// What is done about what, category by category.
    pub rules: Vec<PolicyRule>,
    prompt: Arc<Program>,
    completion: Arc<Program>,
}

impl Policy {
    /// What is run over texts of one direction.
    pub fn program(&self, direction: Direction) -> &Arc<Program> {
        match direction {
            Direction::Prompt => &self.prompt,
            Direction::Completion => &self.completion,
        }
    }
}

/// One line of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// What kind of thing, such as `pii.email`.
    pub category: String,
    /// What is done in prompts.
    pub prompt: Action,
    /// What is done in completions.
    pub completion: Action,
}

impl From<(String, Actions)> for PolicyRule {
    fn from((category, Actions { prompt, completion }): (String, Actions)) -> Self {
        Self { category, prompt, completion }
    }
}

#[cfg(test)]
mod tests;
