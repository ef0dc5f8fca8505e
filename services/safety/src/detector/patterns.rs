//! What an operator denies: terms, all in one Aho-Corasick automaton, and expressions.
//!
//! The automaton reads text folded to lower case, one character for one, so that upper case beyond ASCII is found too;
//! a term that minds its case is compared with the original text once found.

use std::collections::HashMap;

use aho_corasick::{
    Anchored, MatchKind,
    automaton::{Automaton as _, StateID},
    nfa::contiguous::NFA,
};

use super::{ByteSet, Detector, Expression, ExpressionError, Reach, checks};

/// The most bytes that a denied expression may match. Each position of a text is tried up to this far, so it bounds
/// the time that an expression can cost.
pub(crate) const LONGEST_PATTERN: usize = 1024;
/// The most characters that a denied term may have.
pub(crate) const LONGEST_TERM: usize = 256;

/// Makes a denied expression ready.
///
/// # Errors
/// It does not compile, or is not bounded.
pub(crate) fn denied(category: &str, rule: &str, pattern: &str) -> Result<Detector, ExpressionError> {
    let (head, bound) = Expression::bounded(pattern, LONGEST_PATTERN)?;
    Ok(Detector {
        category: category.to_owned(),
        rule: rule.to_owned(),
        head,
        bound,
        not_after: ByteSet::NONE,
        not_before: ByteSet::NONE,
        check: checks::whole,
        reach: Reach::Head,
    })
}

/// One denied term and how strictly it is meant.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    /// The term as the policy has it.
    pub(crate) text: String,
    /// Whether upper and lower case are the same.
    pub(crate) ignore_case: bool,
    /// Whether it counts only where it is not part of a longer word.
    pub(crate) whole_word: bool,
    /// The rule that denies it: an index into the program's rules.
    pub(crate) rule: usize,
}

impl Term {
    /// Whether the character before a match would make the term part of a longer word.
    pub(crate) fn is_joined_before(&self, before: Option<char>) -> bool {
        self.whole_word && self.text.starts_with(is_word) && before.is_some_and(is_word)
    }

    /// Whether the character after a match can make the term part of a longer word.
    pub(crate) fn minds_what_follows(&self) -> bool {
        self.whole_word && self.text.ends_with(is_word)
    }
}

/// Whether a character belongs to words.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All denied terms of a policy, in one automaton.
pub(crate) struct Terms {
    automaton: NFA,
    start: StateID,
    terms: Vec<Term>,
    /// How many characters of a term have been read in each state.
    depths: HashMap<StateID, usize>,
}

impl Terms {
    /// Builds the automaton; `None` if there are no terms.
    ///
    /// # Errors
    /// More terms than an automaton can hold.
    pub(crate) fn new(terms: Vec<Term>) -> Result<Option<Self>, Box<dyn std::error::Error + Send + Sync>> {
        if terms.is_empty() {
            return Ok(None);
        }
        let folded: Vec<String> = terms.iter().map(|term| term.text.chars().map(fold).collect()).collect();
        let automaton = NFA::builder().match_kind(MatchKind::Standard).build(&folded)?;
        let start = automaton.start_state(Anchored::No)?;
        let depths = depths(&automaton, start, &folded);
        Ok(Some(Self { automaton, start, terms, depths }))
    }

    /// The state before any text.
    pub(crate) fn start(&self) -> StateID {
        self.start
    }

    /// Reads one character.
    pub(crate) fn next(&self, state: StateID, c: char) -> StateID {
        let mut bytes = [0; 4];
        let folded = fold(c).encode_utf8(&mut bytes);
        folded.bytes().fold(state, |state, byte| self.automaton.next_state(Anchored::No, state, byte))
    }

    /// How many of the characters read last could still become a term.
    pub(crate) fn depth(&self, state: StateID) -> usize {
        self.depths.get(&state).copied().unwrap_or(0)
    }

    /// The terms that end with the character read last, apart from case and word borders.
    pub(crate) fn ending(&self, state: StateID) -> impl Iterator<Item = &Term> {
        let count = if self.automaton.is_match(state) { self.automaton.match_len(state) } else { 0 };
        (0..count).map(move |i| &self.terms[self.automaton.match_pattern(state, i).as_usize()])
    }
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Terms({})", self.terms.len())
    }
}

/// The longest suffix that could become a term is, in the state that a term's first `n` characters lead to, those `n`
/// characters: so walking the terms visits every state with its depth.
fn depths(automaton: &NFA, start: StateID, folded: &[String]) -> HashMap<StateID, usize> {
    let mut depths = HashMap::new();
    for term in folded {
        let mut state = start;
        for (i, c) in term.chars().enumerate() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                state = automaton.next_state(Anchored::No, state, byte);
            }
            depths.insert(state, i + 1);
        }
    }
    depths
}

/// Lower case, where that is one character too; the two small sigmas are one.
fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some('ς'), None) => 'σ',
        (Some(lower), None) => lower,
        _ => c,
    }
}
