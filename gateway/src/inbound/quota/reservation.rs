//! What a request holds of its tenant's quota, for as long as it lives: dropping it gives back what was not used.

use std::{
    borrow::Cow,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, StreamExt as _};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Quotas, Shared,
    account::Wish,
    window::{Slot, Window},
};
use crate::{
    answer::{Event, FinishReason, Usage},
    error::{Error, Peer},
    outbound::inference::Generated,
    request::Options,
};

/// A request that was let in. Dropping it ends the request.
#[derive(Debug)]
pub(crate) struct Lease {
    /// `None` where nothing is limited.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    quotas: Quotas,
    account: Arc<Shared>,
    /// When it was counted.
    noted: Slot,
}

impl Lease {
    pub(super) fn unlimited() -> Self {
        Self { held: None }
    }

    /// Of an account in which the request was noted.
    pub(super) fn new(quotas: Quotas, account: Arc<Shared>, noted: Slot) -> Self {
        Self { held: Some(Held { quotas, account, noted }) }
    }

    /// It is no request after all, for want of room or of anybody to answer it. To be said once.
    pub(crate) fn waive_for(&self, error: &Error) {
        let unserved = matches!(error, Error::NoRoom(_)) || error.code() == Code::Unavailable;
        if let Some(held) = self.held.as_ref().filter(|_| unserved) {
            held.account.lock().forget(held.noted);
        }
    }

    /// Reserves tokens for a prompt, and for at least `least` and at most `most` tokens of answers to it.
    ///
    /// # Errors
    /// There are not so many left.
    pub(crate) fn reserve(&self, prompt: u32, least: u64, most: u64) -> Result<Reservation, Error> {
        let Some(Held { quotas, account, .. }) = &self.held else { return Ok(Reservation { tokens: None }) };
        let prompt = u64::from(prompt);
        let wish = Wish { least: prompt + least, most: prompt + most };
        let reserved = quotas.reserve(account, wish)?;
        let tokens = Tokens {
            account: Arc::clone(account),
            answer: reserved - prompt,
            wanted: most,
            state: Mutex::new(State { left: reserved, prompt, ..State::default() }),
        };
        Ok(Reservation { tokens: Some(Arc::new(tokens)) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.lock().end();
    }
}

/// Tokens that only this request can use. Clones are the same reservation; the last one gives back what is left.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    /// `None` where nothing is limited.
    tokens: Option<Arc<Tokens>>,
}

#[derive(Debug)]
struct Tokens {
    account: Arc<Shared>,
    /// Of these, for the answers.
    answer: u64,
    /// How many were asked for.
    wanted: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    left: u64,
    /// Of these, for the prompt, while that is not charged.
    prompt: u64,
    charged: u64,
    /// When that was.
    slots: Window,
}

impl Reservation {
    /// How many tokens the answers may have together; `None` where nothing is limited.
    #[cfg(test)]
    pub(super) fn answer(&self) -> Option<u64> {
        self.tokens.as_ref().map(|tokens| tokens.answer)
    }

    /// The options of a generation that stays within it. Who said how much it needs has all of that reserved already.
    pub(crate) fn bound<'a>(&self, options: &'a Options) -> Cow<'a, Options> {
        let Some(short) = self.tokens.as_ref().filter(|tokens| tokens.answer < tokens.wanted) else {
            return Cow::Borrowed(options);
        };
        let each = short.answer / u64::from(options.answers());
        let mut options = options.clone();
        options.stop.max_tokens = Some(u32::try_from(each).unwrap_or(u32::MAX));
        Cow::Owned(options)
    }

    /// The prompt is on its way to the model, and paid from now on, once: also by a caller who does not wait for the first
    /// word. Else whoever leaves early enough would have prompts computed for nothing.
    ///
    /// # Errors
    /// As [`charge`](Self::charge).
    pub(crate) fn charge_prompt(&self) -> Result<(), Error> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let prompt = mem::take(&mut tokens.lock().prompt);
        self.charge(prompt)
    }

    /// Nothing is to be paid after all.
    pub(crate) fn waive(&self) {
        self.settle(Usage::default());
    }

    /// Nothing is to be paid for what failed before it began, unless the caller's own time was over: that is leaving.
    pub(crate) fn waive_for(&self, error: &Error) {
        if error.code() != Code::DeadlineExceeded {
            self.waive();
        }
    }

    /// So many tokens are used from now on.
    ///
    /// # Errors
    /// They are more than were reserved: inference did not keep to what it was told.
    pub(crate) fn charge(&self, count: u64) -> Result<(), Error> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let mut state = tokens.lock();
        if count > state.left {
            let what = "a generation went on after the most tokens that it was allowed";
            return Err(Error::Broken { peer: Peer::Inference, what });
        }
        state.left -= count;
        state.charged += count;
        let slot = tokens.account.lock().charge(count, Instant::now());
        state.slots.turn(slot);
        state.slots.add(slot, count);
        Ok(())
    }

    /// The request is over and this is its bill: what was charged beyond it, and what is left, is given back.
    pub(crate) fn settle(&self, usage: Usage) {
        let Some(tokens) = &self.tokens else { return };
        let mut state = tokens.lock();
        let bill = u64::from(usage.prompt) + u64::from(usage.completion);
        // What inference was ahead of the stop string came last.
        let beyond = state.charged.saturating_sub(bill);
        let refunded = state.slots.take_last(beyond);
        let mut account = tokens.account.lock();
        account.refund(refunded);
        account.release(state.left);
        state.left = 0;
        state.charged -= beyond;
    }

    /// Whether one of so many answers that ended at its length ended there for want of quota.
    fn cut(&self, completion: u32, answers: u32) -> bool {
        let short = |tokens: &Arc<Tokens>| {
            tokens.answer < tokens.wanted && u64::from(completion) >= tokens.answer / u64::from(answers)
        };
        self.tokens.as_ref().is_some_and(short)
    }
}

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let left = self.lock().left;
        self.account.lock().release(left);
    }
}

/// Charges what a generation brings, token by token.
pub(crate) fn charged<G>(
    generation: G,
    reservation: Reservation,
) -> impl Stream<Item = Result<Generated, Error>> + Send + Unpin
where
    G: Stream<Item = Result<Generated, Error>> + Send + Unpin,
{
    generation.map(move |item| {
        if let Ok(Generated::Tokens { tokens, .. }) = &item {
            reservation.charge(tokens.len() as u64)?;
        }
        item
    })
}

/// Holds a lease while so many answers flow, and settles its reservation at the end of the last.
pub(crate) fn held<E>(
    events: E,
    (lease, reservation): (Lease, Reservation),
    answers: u32,
) -> impl Stream<Item = Result<Event, Error>> + Send
where
    E: Stream<Item = Result<Event, Error>> + Send,
{
    let (mut bill, mut left) = (Usage::default(), answers);
    events.map(move |mut item| {
        let _held = &lease;
        if let Ok(Event::Finished(finished)) = &mut item {
            let Usage { prompt, completion, .. } = finished.usage;
            // The prompt is on the first answer's bill alone.
            bill.prompt += prompt;
            bill.completion += completion;
            left = left.saturating_sub(1);
            if left == 0 {
                reservation.settle(bill);
            }
            finished.quota_reached =
                finished.reason == FinishReason::Length && reservation.cut(completion, answers);
        }
        item
    })
}
