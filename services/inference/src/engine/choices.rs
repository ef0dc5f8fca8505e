//! The choices of a step, side by side.
//!
//! Each depends on one sequence's logits and state, and on nothing else: neither the thread nor the order shows. One
//! thread would do where a CPU runs the model; beside a GPU it takes as long for some dozens of vocabularies as the
//! model for the whole step.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::work::{At, Work};
use crate::{kernels::Pool, sampler::Sampler, sequence::Sequence};

/// Choices for which one more thread is worth waking.
const LEAST_FOR_A_THREAD: usize = 4;

/// The most threads: waking more takes longer than they save, and each of them looks for work a while before it sleeps.
const MOST_THREADS: usize = 16;

/// A sequence whose next token is to be chosen.
pub(super) struct Undecided<'a> {
    pub(super) sequence: &'a mut Sequence<Work>,
    /// One for each id of the vocabulary; of each row of the draft, too.
    pub(super) logits: &'a mut [f32],
}

/// The threads that choose, and what each of them chooses with.
#[derive(Debug)]
pub(super) struct Choices {
    pool: Pool,
    samplers: Vec<Mutex<Sampler>>,
}

impl Choices {
    /// For `threads` threads, the caller's own included; 0 for one per core. At most sixteen.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(super) fn new(threads: usize) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores() } else { threads }.min(MOST_THREADS);
        let samplers = std::iter::repeat_with(Mutex::default).take(threads).collect();
        Ok(Self { pool: Pool::new(threads)?, samplers })
    }

    /// Chooses for all, and leaves each choice with its sequence.
    pub(super) fn make(&mut self, undecided: Vec<Undecided<'_>>) {
        let Self { pool, samplers } = self;
        let threads = samplers.len().min(undecided.len().div_ceil(LEAST_FOR_A_THREAD));
        let line = Mutex::new(undecided.into_iter());
        // Not held while a choice is made.
        let next = || locked(&line).next();
        pool.run(threads, &|thread| {
            let mut sampler = locked(&samplers[thread]);
            while let Some(Undecided { sequence, logits }) = next() {
                let (prompt_tokens, generated) = (sequence.prompt_len(), sequence.output_len());
                let draft = sequence.draft().to_vec();
                let at = At { prompt_tokens, generated, draft: &draft };
                sequence.payload.decide(logits, at, &mut sampler);
            }
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
