//! What the filter can find, and the one shape that everything but a plain term has.
//!
//! Map: `secrets` and `pii` (the tables of built-in detectors), `checks` (what an expression cannot say: checksums,
//! entropy, address parsing), `patterns` (what an operator denies), `expression` (an expression as a machine that is
//! fed byte by byte), `byte_set`.
//!
//! # The shape
//! A detector is a *head*: an expression that is tried at each position where it may begin, and never matches more
//! than `bound` bytes; the bytes that may stand around it; a check; and sometimes a *tail*, which carries a match of
//! unlimited length on to its end. So each candidate is either decided within `bound` bytes, or known for what it is.
//! That bound is what lets the window promise both: nothing held for long, nothing let go too early.

mod byte_set;
mod checks;
mod expression;
pub(crate) mod patterns;
mod pii;
mod secrets;

use std::{ops::Range, sync::Arc};

pub(crate) use byte_set::ByteSet;
pub(crate) use expression::{Expression, ExpressionError};

/// The longest head of any built-in detector, in bytes: what the window must be able to hold at least.
pub(crate) const LONGEST_HEAD: usize = 4096;

/// The categories that built-in detectors report, in the order in which policies list them.
pub(crate) fn categories() -> impl Iterator<Item = &'static str> {
    secrets::CATEGORIES.iter().chain(pii::CATEGORIES).copied()
}

/// What a check is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// What the head matched.
    pub(crate) text: &'a str,
    /// The byte after it, or `None` at the end of the whole text.
    pub(crate) next: Option<u8>,
}

/// Decides what an expression cannot. Returns the part of the match that is the finding, or `None` for a false alarm.
pub(crate) type Check = fn(&Seen<'_>) -> Option<Range<usize>>;

/// How far a match goes on after its head.
#[derive(Clone, Copy, Debug)]
enum Tail {
    /// The head is all.
    None,
    /// As long as bytes are in the set.
    While(ByteSet),
    /// Up to and with the first match of this expression.
    Until(&'static str),
}

/// One row of a table of built-in detectors.
#[derive(Clone, Copy, Debug)]
struct Spec {
    category: &'static str,
    rule: &'static str,
    head: &'static str,
    bound: usize,
    not_after: ByteSet,
    not_before: ByteSet,
    check: Check,
    tail: Tail,
}

impl Spec {
    /// A row with nothing special about it, to fill up the others from.
    const PLAIN: Self = Self {
        category: "",
        rule: "",
        head: "",
        bound: 256,
        not_after: ByteSet::NONE,
        not_before: ByteSet::NONE,
        check: checks::whole,
        tail: Tail::None,
    };
}

/// How far a match goes on after its head, ready to run.
#[derive(Debug)]
pub(crate) enum Reach {
    /// The head is all.
    Head,
    /// As long as bytes are in the set.
    While(ByteSet),
    /// Up to and with the first match of this expression, which searches.
    Until(Box<Expression>),
}

/// One kind of thing to look for, ready to run. Immutable and shared by all texts.
#[derive(Debug)]
pub(crate) struct Detector {
    /// What kind of thing it finds, such as `pii.email`.
    pub(crate) category: String,
    /// Its own name, such as `phone_e164`.
    pub(crate) rule: String,
    /// What it tries at each position.
    pub(crate) head: Expression,
    /// The most bytes that the head may match; a longer match does not count.
    pub(crate) bound: usize,
    /// The bytes that may not stand right before it.
    pub(crate) not_after: ByteSet,
    /// The bytes that may not stand right after its head.
    pub(crate) not_before: ByteSet,
    /// What the expression cannot say.
    pub(crate) check: Check,
    /// What follows the head.
    pub(crate) reach: Reach,
}

impl TryFrom<&Spec> for Detector {
    type Error = ExpressionError;

    fn try_from(spec: &Spec) -> Result<Self, ExpressionError> {
        Ok(Self {
            category: spec.category.to_owned(),
            rule: spec.rule.to_owned(),
            head: Expression::anchored(spec.head)?,
            bound: spec.bound,
            not_after: spec.not_after,
            not_before: spec.not_before,
            check: spec.check,
            reach: match spec.tail {
                Tail::None => Reach::Head,
                Tail::While(set) => Reach::While(set),
                Tail::Until(expression) => Reach::Until(Box::new(Expression::searching(expression)?)),
            },
        })
    }
}

/// Makes all built-in detectors ready. Takes a few tens of milliseconds, once a process.
///
/// # Errors
/// An expression of our own that does not compile: a mistake in the tables, which the tests would show.
pub(crate) fn built_in() -> Result<Vec<Arc<Detector>>, ExpressionError> {
    specs().map(|spec| Detector::try_from(spec).map(Arc::new)).collect()
}

fn specs() -> impl Iterator<Item = &'static Spec> {
    secrets::SPECS.iter().chain(pii::SPECS)
}

#[cfg(test)]
pub(crate) mod oracle;
#[cfg(test)]
mod tests;
