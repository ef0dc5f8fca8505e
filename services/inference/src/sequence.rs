//! What the scheduler knows of a request; `prefix`: what it shares with others.

mod prefix;

use std::{cmp::Reverse, ops::Range, sync::Arc};

use tokio::time::Instant;

use crate::{
    adapters::Lease,
    kv_cache::BlockTable,
    speculation::{Draft, Speculation},
};
use prefix::Prefix;

/// A request's place in the order of service, and its name while it lives.
///
/// The smaller runs earlier and is preempted later: higher priority first, then earlier arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    priority: Reverse<i32>,
    arrival: u64,
}

impl Rank {
    /// The priority, higher ones first.
    pub fn priority(self) -> Reverse<i32> {
        self.priority
    }

    /// The rank of the `arrival`-th request, of this priority.
    pub fn new(priority: i32, arrival: u64) -> Self {
        Self { priority: Reverse(priority), arrival }
    }
}

/// Whose request it is. All that name nobody belong to the tenant with the empty name.
pub type Tenant = Arc<str>;

/// What a sequence runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// One token after another.
    Tokens,
    /// The sum of the hidden states of its prompt.
    Embedding,
    /// How likely the tokens of its prompt are.
    Scores,
}

/// A request's tokens and how far the cache has them. `T` is what the engine keeps with it.
#[derive(Debug)]
pub struct Sequence<T> {
    /// Its place and name.
    pub rank: Rank,
    /// Whom it is charged to.
    pub tenant: Tenant,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
    /// When it has to run at the latest, while it waits; then its deadline.
    pub(crate) due: Option<Instant>,
    /// What it runs for.
    pub goal: Goal,
    /// The engine's own.
    pub payload: T,
    /// The adapter that it runs with. What the cache holds of one generation of an adapter is of use to no other.
    pub adapter: Option<Lease>,
    /// How likely each token of its prompt is shall be told, and so many of the likeliest: then every row of the prompt
    /// is computed, whatever the cache holds already.
    pub prompt_top: Option<usize>,
    /// How often it was preempted.
    pub preemptions: u32,
    pub(crate) table: BlockTable,
    /// None where it shares nothing.
    prefix: Option<Prefix>,
    tokens: Vec<u32>,
    prompt_len: usize,
    computed: usize,
    /// Tokens of the prompt whose successor has been judged.
    scored: usize,
    /// Tokens of the prompt that were computed at least once, or found: whoever pays has paid for them.
    served: usize,
    /// What is guessed to follow, while a step checks it.
    draft: Draft,
    /// How long it may become at most, where its tokens may be guessed; else 0.
    guessed_until: usize,
}

impl<T> Sequence<T> {
    /// A sequence that has not run. `prompt` holds at least one id.
    pub fn new(rank: Rank, goal: Goal, prompt: Vec<u32>, payload: T) -> Self {
        debug_assert!(!prompt.is_empty(), "a sequence needs a token to start from");
        Self {
            rank,
            tenant: Tenant::default(),
            deadline: None,
            due: None,
            goal,
            adapter: None,
            prompt_top: None,
            payload,
            preemptions: 0,
            table: BlockTable::default(),
            prefix: None,
            prompt_len: prompt.len(),
            tokens: prompt,
            computed: 0,
            scored: 0,
            served: 0,
            draft: Draft::default(),
            guessed_until: 0,
        }
    }

    /// The same, whose tokens may be guessed; it ends before it is longer than `length`.
    #[must_use]
    pub fn guessed_until(mut self, length: usize) -> Self {
        self.guessed_until = length;
        self
    }

    /// The same, with a deadline.
    #[must_use]
    pub fn until(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same, behind tokens that it has generated elsewhere: they are output, and none of it is charged again.
    #[must_use]
    pub fn behind(mut self, said: &[u32]) -> Self {
        self.tokens.extend_from_slice(said);
        self
    }

    /// The same, charged to this tenant.
    #[must_use]
    pub fn charged_to(mut self, tenant: Tenant) -> Self {
        self.tenant = tenant;
        self
    }

    /// The same, with an adapter.
    #[must_use]
    pub fn through(mut self, adapter: Option<Lease>) -> Self {
        self.adapter = adapter;
        self
    }

    /// The same, with the likelihood of its prompt, and of so many of the likeliest tokens.
    #[must_use]
    pub fn telling_prompt(mut self, top: Option<usize>) -> Self {
        self.prompt_top = top;
        self
    }

    /// Positions among the next `rows` whose successor is to be judged: those of the prompt that have one, unless that
    /// was done before a preemption.
    pub fn unscored(&self, rows: usize) -> Range<usize> {
        let end = self.to_score().min(self.computed + rows);
        self.scored.max(self.computed).min(end)..end
    }

    /// Positions whose successor is to be judged, before and after a preemption: a beginning of the prompt.
    fn to_score(&self) -> usize {
        if self.prompt_top.is_some() { self.prompt_len - 1 } else { 0 }
    }

    /// Prompt and output.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Tokens generated.
    pub fn output_len(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens whose keys and values are in the cache.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Tokens that the next forward passes have to compute: 1 in decode.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// What is guessed to follow its tokens, in the step at hand.
    pub fn draft(&self) -> &[u32] {
        self.draft.tokens()
    }

    /// Guesses what follows, at most `most` tokens, and never all that it may still say: the last is the model's own.
    pub(crate) fn guess(&mut self, speculation: &Speculation, most: usize) {
        let room = self.guessed_until.saturating_sub(self.tokens.len() + 1);
        self.draft.guess(&self.tokens, speculation, most.min(room));
    }

    /// Takes the guess back.
    pub(crate) fn drop_draft(&mut self) {
        self.draft.clear();
    }

    /// Notes that `right` tokens of the guess were right: they have been pushed, and the cache has them.
    pub(crate) fn judge_draft(&mut self, right: usize) {
        self.computed += right;
        self.draft.judge(right);
    }

    /// Appends a generated token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Notes that the cache has `rows` tokens more.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.scored = self.scored.max(self.unscored(rows).end);
        self.computed += rows;
        debug_assert!(self.computed <= self.tokens.len(), "more was computed than there is");
    }

    /// Notes that it is about to run. Answers how many tokens of its prompt will be computed for the first time.
    pub(crate) fn begin_service(&mut self) -> usize {
        self.served = self.served.max(self.computed.min(self.prompt_len));
        self.prompt_len - self.served
    }

    /// Notes that it runs no more. Answers how many tokens of its prompt were not computed.
    pub(crate) fn end_service(&mut self) -> usize {
        self.begin_service()
    }

    /// Tokens of its prompt that it was charged for and has found since it had `before`.
    pub(crate) fn found_since(&self, before: usize) -> usize {
        let paid = |computed: usize| self.served.max(computed.min(self.prompt_len));
        paid(self.computed) - paid(before)
    }

    /// Notes that the cache has lost it all.
    pub(crate) fn forget(&mut self) {
        self.computed = 0;
        self.preemptions += 1;
        self.draft.clear();
        self.prefix.iter_mut().for_each(Prefix::forget);
    }
}
