//! Which text goes out, and as what.
//!
//! # When findings overlap
//! Each byte gets the strictest action of all findings that cover it. So the text ends where the first blocking
//! finding starts, even inside a redaction; redactions that overlap or touch become one placeholder, which names the
//! category of the first of them (of those that start together: the longest, then the policy's order); flags change nothing.
//! Findings are reported in order of their start (of those that start together: strictest first, then longest, then
//! the policy's order), but not where they lie within another of the same category, such as a telephone number within
//! the same number and its prefix; nor where they start behind a block, for there is no text any more.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use super::{Hit, held::Held};
use crate::{
    program::Program,
    verdict::{Action, Finding, Verdict},
};

/// A finding that waits for the safe point to pass its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    hit: Hit,
    action: Action,
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |pending: &Self| {
            let Hit { start, end, rule } = pending.hit;
            (start, Reverse(pending.action), Reverse(end), rule)
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What has gone out so far, and what waits.
#[derive(Debug, Default)]
pub(crate) struct Release {
    pending: BinaryHeap<Reverse<Pending>>,
    /// All before this position has gone out or was hidden.
    decided_to: usize,
    /// Where the newest redaction ends.
    hidden_to: Option<usize>,
    blocked_at: Option<usize>,
    /// For each category, how far its findings have come.
    reached: HashMap<usize, usize>,
}

impl Release {
    /// Whether the text has ended.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked_at.is_some()
    }

    /// All before this position has gone out or was hidden.
    pub(crate) fn decided_to(&self) -> usize {
        self.decided_to
    }

    /// Adds a finding. Must start at or behind the last safe point.
    pub(crate) fn add(&mut self, hit: Hit, action: Action) {
        self.pending.push(Reverse(Pending { hit, action }));
    }

    /// Decides everything before `safe`: all findings that start there are known.
    pub(crate) fn up_to(&mut self, safe: usize, held: &Held, program: &Program) -> Verdict {
        let mut verdict = Verdict::default();
        while let Some(Pending { hit, action }) = self.next_before(safe) {
            if self.is_within_another(hit, program) {
                continue;
            }
            match action {
                Action::Allow | Action::Flag => {}
                Action::Redact => self.redact(hit, program, held, &mut verdict.released),
                Action::Block => self.block(hit, held, &mut verdict.released),
            }
            let rule = Arc::clone(&program.rules[hit.rule].rule);
            verdict.findings.push(Finding { start: hit.start, end: hit.end, rule });
        }
        verdict.is_blocked = self.is_blocked();
        if !verdict.is_blocked {
            self.let_out(safe, held, &mut verdict.released);
        }
        verdict
    }

    fn next_before(&mut self, safe: usize) -> Option<Pending> {
        let end = self.blocked_at.map_or(safe, |at| safe.min(at + 1));
        let Reverse(first) = self.pending.peek().copied()?;
        (first.hit.start < end).then(|| self.pending.pop())?;
        Some(first)
    }

    /// Findings come in order of their start: one that does not reach further than those before it lies within one.
    fn is_within_another(&mut self, hit: Hit, program: &Program) -> bool {
        let reached = self.reached.entry(program.rules[hit.rule].category).or_default();
        let is_within = hit.end <= *reached;
        *reached = hit.end.max(*reached);
        is_within
    }

    fn redact(&mut self, hit: Hit, program: &Program, held: &Held, released: &mut String) {
        if self.blocked_at.is_some() {
            return;
        }
        let continues = self.hidden_to.is_some_and(|end| hit.start <= end);
        if !continues {
            self.let_out(hit.start, held, released);
            released.push_str(&program.rules[hit.rule].placeholder);
        }
        let hidden_to = self.hidden_to.map_or(hit.end, |end| end.max(hit.end));
        self.hidden_to = Some(hidden_to);
        self.decided_to = self.decided_to.max(hidden_to);
    }

    fn block(&mut self, hit: Hit, held: &Held, released: &mut String) {
        if self.blocked_at.is_none() {
            self.let_out(hit.start, held, released);
            self.blocked_at = Some(hit.start);
        }
    }

    /// Releases what is not decided yet before a position.
    fn let_out(&mut self, to: usize, held: &Held, released: &mut String) {
        if self.decided_to < to {
            released.push_str(held.slice(self.decided_to..to));
            self.decided_to = to;
        }
    }
}
