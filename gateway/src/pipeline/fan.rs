//! One generation of several answers, each read by itself.
//!
//! Each answer has stages of its own behind it, and inference sends all of them on one stream. Whoever reads next takes
//! from that stream what comes, keeps what is another's for it, and wakes it. What is kept is bounded: while one reader is
//! that far behind, nobody reads on, and inference feels it. A reader that is dropped (its answer met a stop string) holds
//! nobody up; what still comes of its answer is thrown away.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::{Stream, StreamExt as _};

use crate::{
    error::{Error, Peer},
    outbound::{inference::Generated, readers::Readers},
};

/// One answer's part of a generation.
#[derive(Debug)]
pub(super) struct Branch<G> {
    shared: Arc<Mutex<Shared<G>>>,
    index: usize,
}

#[derive(Debug)]
struct Shared<G> {
    /// `None` once it is over.
    generation: Option<G>,
    lanes: Vec<Lane>,
    readers: Readers,
    /// The most that is kept for one reader.
    most: usize,
}

/// What is kept for one reader.
#[derive(Debug, Default)]
struct Lane {
    kept: VecDeque<Generated>,
    waker: Option<Waker>,
    /// Whether its answer has ended.
    ended: bool,
}

/// Cuts a generation with an answer for each of `readers`; at most `most` messages are kept for one of them.
pub(super) fn split<G>(generation: G, readers: Readers, most: usize) -> Vec<Branch<G>> {
    let count = readers.count();
    let lanes = (0..count).map(|_| Lane::default()).collect();
    let shared = Arc::new(Mutex::new(Shared { generation: Some(generation), lanes, readers, most }));
    (0..count).map(|index| Branch { shared: Arc::clone(&shared), index }).collect()
}

impl<G> Branch<G> {
    fn lock(&self) -> MutexGuard<'_, Shared<G>> {
        // Nothing in there panics; were it to, what is kept would still be whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<G> Shared<G> {
    fn wake_all(&mut self) {
        self.lanes.iter_mut().filter_map(|lane| lane.waker.take()).for_each(Waker::wake);
    }

    /// What is kept for a reader, or that nothing more will be.
    fn kept(&mut self, index: usize) -> Option<Option<Generated>> {
        let lane = &mut self.lanes[index];
        let kept = lane.kept.pop_front();
        if kept.is_some() {
            if lane.kept.len() + 1 == self.most {
                self.wake_all();
            }
            return Some(kept);
        }
        let ended = self.lanes[index].ended;
        if (0..self.lanes.len()).all(|lane| self.lanes[lane].ended || !self.readers.read(lane)) {
            // The last one to end hears the end of the call itself: whether it ended well. Unless the call goes on with what
            // nobody reads, and would for as long as that answer may be: then it ends here.
            self.generation.take_if(|_| self.lanes.iter().any(|lane| !lane.ended));
            return self.generation.is_none().then_some(None);
        }
        (self.generation.is_none() || ended).then_some(None)
    }

    /// Notes whose this is; gives it back if it is the reader's own.
    fn sort(&mut self, item: Generated, reader: usize) -> Result<Option<Generated>, Error> {
        let (index, ends) = match &item {
            Generated::Tokens { index, .. } => (*index as usize, false),
            Generated::End { index, .. } => (*index as usize, true),
        };
        let Some(lane) = self.lanes.get_mut(index) else {
            let what = "it sent an answer that nobody asked for";
            return Err(Error::Broken { peer: Peer::Inference, what });
        };
        lane.ended |= ends;
        if index == reader {
            return Ok(Some(item));
        }
        if self.readers.read(index) {
            lane.kept.push_back(item);
            lane.waker.take().into_iter().for_each(Waker::wake);
        }
        Ok(None)
    }

    fn has_room(&self) -> bool {
        self.lanes.iter().all(|lane| lane.kept.len() < self.most)
    }
}

impl<G> Stream for Branch<G>
where
    G: Stream<Item = Result<Generated, Error>> + Unpin,
{
    type Item = Result<Generated, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (index, mut shared) = (self.index, self.lock());
        loop {
            if let Some(kept) = shared.kept(index) {
                return Poll::Ready(kept.map(Ok));
            }
            let room = shared.has_room();
            let polled = match shared.generation.as_mut().filter(|_| room) {
                Some(generation) => generation.poll_next_unpin(cx),
                None => Poll::Pending,
            };
            match polled {
                Poll::Pending => {
                    shared.lanes[index].waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(item))) => {
                    if let Some(own) = shared.sort(item, index)? {
                        return Poll::Ready(Some(Ok(own)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    shared.generation = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    shared.generation = None;
                    shared.wake_all();
                }
            }
        }
    }
}

impl<G> Drop for Branch<G> {
    fn drop(&mut self) {
        let index = self.index;
        let mut shared = self.lock();
        shared.readers.leave(index);
        shared.lanes[index].kept.clear();
        // The call itself may have been waiting to wake this reader.
        shared.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, executor::block_on, future::join_all, stream};

    use super::*;
    use crate::answer::{FinishReason, Token, Usage};

    fn token(index: u32, id: u32) -> Result<Generated, Error> {
        Ok(Generated::Tokens { index, tokens: vec![Token { id, logprob: None, top: Vec::new() }] })
    }

    fn end(index: u32) -> Result<Generated, Error> {
        Ok(Generated::End { index, reason: FinishReason::Stop, stop_token: None, usage: Usage::default() })
    }

    async fn ids<G>(branch: Branch<G>) -> Vec<u32>
    where
        G: Stream<Item = Result<Generated, Error>> + Unpin,
    {
        let all: Vec<_> = branch.collect().await;
        let of = |item| match item {
            Ok(Generated::Tokens { tokens, .. }) => tokens[0].id,
            Ok(Generated::End { .. }) => 0,
            Err(error) => panic!("{error}"),
        };
        all.into_iter().map(of).collect()
    }

    #[test]
    fn each_reader_gets_its_own_answer_whatever_the_order_and_however_little_is_kept() {
        for most in 1..5 {
            let messages = [
                token(1, 4),
                token(1, 5),
                token(1, 6),
                token(0, 1),
                token(2, 7),
                token(0, 2),
                end(1),
                token(0, 3),
                end(2),
                end(0),
            ];
            let branches = split(stream::iter(messages), Readers::of(3), most);
            let read = block_on(join_all(branches.into_iter().map(ids)));
            assert_eq!(read, [vec![1, 2, 3, 0], vec![4, 5, 6, 0], vec![7, 0]]);
        }
    }

    #[test]
    fn a_reader_that_left_holds_nobody_up() {
        let messages = [token(1, 4), token(1, 5), token(0, 1), token(1, 6), end(0), end(1)];
        let mut branches = split(stream::iter(messages), Readers::of(2), 1);
        drop(branches.pop());
        assert_eq!(block_on(ids(branches.remove(0))), [1, 0]);
    }

    #[test]
    fn what_only_a_reader_that_left_asked_for_is_not_waited_for() {
        for order in [[token(0, 1), end(0), token(1, 4)], [token(1, 4), token(0, 1), end(0)]] {
            let goes_on = stream::iter(order).chain(stream::pending());
            let mut branches = split(goes_on, Readers::of(2), 1);
            drop(branches.pop());
            let mut left = branches.remove(0);
            assert_eq!(
                left.by_ref().map(Result::unwrap).collect::<Vec<_>>().now_or_never().unwrap().len(),
                2
            );
            assert!(left.lock().generation.is_none(), "the call still runs");
        }
    }

    #[test]
    fn the_last_to_end_hears_of_a_failure_after_it() {
        let failure = || Err(Error::Broken { peer: Peer::Inference, what: "on purpose" });
        let branches = split(stream::iter([end(0), end(1), failure()]), Readers::of(2), 4);
        let [first, second]: [_; 2] = branches.try_into().unwrap();
        assert_eq!(block_on(ids(first)), [0]);
        let told: Vec<_> = block_on(second.collect());
        assert!(matches!(told[..], [Ok(_), Err(Error::Broken { .. })]), "{told:?}");
    }

    #[test]
    fn an_answer_that_nobody_asked_for_breaks_the_contract() {
        let mut branches = split(stream::iter([token(3, 1)]), Readers::of(1), 4);
        let told: Vec<_> = block_on(branches.remove(0).take(1).collect());
        assert!(matches!(told[..], [Err(Error::Broken { .. })]), "{told:?}");
    }
}
