//! Who has the oldest piece of an answer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::Phase;
use crate::error::Peer;

/// What is underway of one answer. Its stages are moved on by one task, so nothing is ever seen half done. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    at_tokenizer: AtomicUsize,
    at_filter: AtomicUsize,
    generated: AtomicBool,
    released: AtomicBool,
}

/// Pieces that one service has and has not answered; dropping it forgets them.
#[derive(Debug)]
pub(crate) struct Underway {
    progress: Progress,
    peer: Peer,
    count: usize,
}

impl Progress {
    /// Counts the pieces that a service has.
    pub(crate) fn underway(&self, peer: Peer) -> Underway {
        Underway { progress: self.clone(), peer, count: 0 }
    }

    /// There is a token.
    pub(crate) fn generated(&self) {
        self.inner.generated.store(true, Ordering::Relaxed);
    }

    /// Text has left.
    pub(crate) fn released(&self) {
        self.inner.released.store(true, Ordering::Relaxed);
    }

    /// What is waited for while nothing can leave.
    pub(crate) fn waits_for(&self) -> Phase {
        let Inner { at_tokenizer, at_filter, generated, released } = &*self.inner;
        if at_filter.load(Ordering::Relaxed) > 0 {
            Phase::Screening
        } else if at_tokenizer.load(Ordering::Relaxed) > 0 {
            Phase::Tokenizer
        } else if generated.load(Ordering::Relaxed) && !released.load(Ordering::Relaxed) {
            Phase::Hold
        } else {
            Phase::Decode
        }
    }

    fn at(&self, peer: Peer) -> Option<&AtomicUsize> {
        match peer {
            Peer::Tokenizer => Some(&self.inner.at_tokenizer),
            Peer::Safety => Some(&self.inner.at_filter),
            Peer::Inference => None,
        }
    }
}

impl Underway {
    /// The service.
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// The service was sent a piece, or was told that there are no more.
    pub(crate) fn sent(&mut self) {
        self.count += 1;
        if let Some(at) = self.progress.at(self.peer) {
            at.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It answered.
    pub(crate) fn answered(&mut self) {
        if self.count > 0 {
            self.count -= 1;
            if let Some(at) = self.progress.at(self.peer) {
                at.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        while self.count > 0 {
            self.answered();
        }
    }
}
