//! Who still reads the answers of a generation: inference says all of them until the last one ends, and what nobody reads is
//! nothing that another replica has to go on with.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A reader for each answer. Clones are the same readers.
#[derive(Clone, Debug)]
pub(crate) struct Readers(Arc<[AtomicBool]>);

impl Readers {
    pub(crate) fn of(answers: u32) -> Self {
        Self((0..answers).map(|_| AtomicBool::new(true)).collect())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Nobody reads this answer any more.
    pub(crate) fn leave(&self, answer: usize) {
        self.0[answer].store(false, Ordering::Relaxed);
    }

    /// Whether somebody reads this answer.
    pub(crate) fn read(&self, answer: usize) -> bool {
        self.0[answer].load(Ordering::Relaxed)
    }
}
