//! The calls that an answer's last stages make, opened while its prompt is still computed: that takes the model a while, in
//! which nothing else is to be done, and a first token that has come need not wait for them.

use std::{future::poll_fn, pin::pin, task::Context};

use futures::{FutureExt as _, future::FusedFuture as _};
use tokio::task::yield_now;
use weft_runtime::Deadline;

use crate::outbound::{Outbound, safety::Screening, tokenizer::Decoding};

/// Those of one answer.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) decoding: Decoding,
    pub(super) screening: Screening,
}

impl Calls {
    /// Opens nothing yet. They will belong to the current span.
    pub(super) fn new(
        outbound: &Outbound,
        policy: String,
        window: usize,
        deadline: Option<Deadline>,
    ) -> Self {
        Self {
            decoding: outbound.tokenizer.decode(window, deadline),
            screening: outbound.safety.screen_answer(policy, window, deadline),
        }
    }

    fn prepare(&mut self, cx: &mut Context<'_>) {
        self.decoding.prepare(cx);
        self.screening.prepare(cx);
    }
}

/// Waits for a generation to begin, and opens meanwhile what its answers will need. The generation comes first, and is on its
/// way before anything else is begun: it is what everything waits for.
pub(super) async fn prepared_beside<F: Future + Unpin>(mut begin: F, calls: &mut [Calls]) -> F::Output {
    let mut sent = pin!(yield_now().fuse());
    poll_fn(|cx| {
        let begun = begin.poll_unpin(cx);
        if begun.is_pending() && (sent.is_terminated() || sent.poll_unpin(cx).is_ready()) {
            calls.iter_mut().for_each(|calls| calls.prepare(cx));
        }
        begun
    })
    .await
}
