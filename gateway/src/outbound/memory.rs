//! What is remembered of a call in both directions, so that it can go on at another replica: all that was asked is asked
//! again, in one item, and what is then said again is not new.
//!
//! Both services promise that their text does not depend on how it was cut into messages. How much of it they hold back
//! at which moment may: another replica can be a little behind what was said, or ahead of it.

use std::{collections::VecDeque, mem, task::Poll};

use super::safety::Cleared;

/// An item that is sent. Several, joined, mean the same as one after another.
pub(crate) trait Item: Clone + Default + Send + Sync + 'static {
    fn append(&mut self, more: &Self);
}

/// An answer. Several, joined, say the same as one after another.
pub(crate) trait Answer: Clone + Default + Send + 'static {
    fn append(&mut self, more: &Self);

    /// What is new in it, where `owed` was said before and is yet to be said again; `None` if it says something else. What
    /// is said again is owed no longer.
    fn beyond(self, owed: &mut Self) -> Option<Self>;

    /// Whether it says nothing at all.
    fn is_empty(&self) -> bool;
}

impl Item for Vec<u32> {
    fn append(&mut self, more: &Self) {
        self.extend_from_slice(more);
    }
}

impl Item for String {
    fn append(&mut self, more: &Self) {
        self.push_str(more);
    }
}

impl Answer for String {
    fn append(&mut self, more: &Self) {
        self.push_str(more);
    }

    fn beyond(self, owed: &mut Self) -> Option<Self> {
        if let Some(rest) = owed.strip_prefix(&self) {
            *owed = rest.to_owned();
            return Some(Self::new());
        }
        let new = self.strip_prefix(mem::take(owed).as_str())?;
        Some(new.to_owned())
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

impl Answer for Cleared {
    fn append(&mut self, more: &Self) {
        self.released.push_str(&more.released);
        self.findings.extend_from_slice(&more.findings);
        self.blocked |= more.blocked;
    }

    fn beyond(self, owed: &mut Self) -> Option<Self> {
        let released = self.released.beyond(&mut owed.released)?;
        let again = self.findings.len().min(owed.findings.len());
        let said: Vec<_> = owed.findings.drain(..again).collect();
        let new = self.findings.strip_prefix(said.as_slice())?.to_vec();
        Some(Self { released, findings: new, blocked: self.blocked })
    }

    fn is_empty(&self) -> bool {
        self.released.is_empty() && self.findings.is_empty() && !self.blocked
    }
}

/// What was asked and said in a call so far.
#[derive(Debug, Default)]
pub(super) struct Memory<Q, A> {
    /// All items that are answered, as one.
    answered: Q,
    /// Those that are not, in order.
    waiting: VecDeque<Q>,
    /// All answers, as one.
    told: A,
    /// What the replica in use has yet to say again.
    owed: A,
    /// What it has said beyond that, in answer to what another had answered.
    ahead: A,
    /// Nothing more will be sent.
    closed: bool,
    /// The answer to that has come, so there is nothing to go on for.
    complete: bool,
}

impl<Q: Item, A: Answer> Memory<Q, A> {
    pub(super) fn sent(&mut self, item: Q) {
        self.waiting.push_back(item);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = Q> {
        self.waiting.iter().cloned()
    }

    /// What another replica is asked first, and what it must say again.
    pub(super) fn so_far(&self) -> (Q, A) {
        (self.answered.clone(), self.told.clone())
    }

    /// Another replica goes on, and has said something in answer to that.
    pub(super) fn goes_on(&mut self, owed: A, ahead: A) {
        (self.owed, self.ahead) = (owed, ahead);
    }

    /// What there is to say once the replica in use says nothing more. What it said ahead waits until it is asked for.
    pub(super) fn rest(&mut self) -> Poll<Option<A>> {
        if self.ahead.is_empty() {
            return Poll::Ready(None);
        }
        if self.waiting.is_empty() && !self.closed {
            return Poll::Pending;
        }
        Poll::Ready(self.heard(A::default()))
    }

    /// What is new in the next answer; `None` if it is not what another replica has said.
    pub(super) fn heard(&mut self, answer: A) -> Option<A> {
        // As a rule nothing is owed, and nothing was said ahead.
        let answer = if self.owed.is_empty() { answer } else { answer.beyond(&mut self.owed)? };
        let mut new = mem::take(&mut self.ahead);
        if new.is_empty() {
            new = answer;
        } else {
            new.append(&answer);
        }
        self.told.append(&new);
        match self.waiting.pop_front() {
            Some(item) => self.answered.append(&item),
            None => self.complete = self.closed,
        }
        (!self.complete || self.owed.is_empty()).then_some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::safety::{Action, Finding};

    fn cleared(released: &str, findings: &[u64]) -> Cleared {
        let found = |start: &u64| Finding {
            category: "pii.email".to_owned(),
            start: *start,
            end: start + 1,
            action: Action::Redact,
        };
        Cleared {
            released: released.to_owned(),
            findings: findings.iter().map(found).collect(),
            blocked: false,
        }
    }

    /// A memory in which "on", "ce", "up" were asked, and the first two are answered so.
    fn of(answers: [&str; 2]) -> Memory<String, String> {
        let mut memory = Memory::default();
        for item in ["on", "ce", "up"] {
            memory.sent(item.to_owned());
        }
        for answer in answers {
            assert_eq!(memory.heard(answer.to_owned()).unwrap(), answer);
        }
        memory
    }

    /// The same, gone on at a replica that says this to what was answered.
    fn gone_on(mut memory: Memory<String, String>, said: &str) -> Option<Memory<String, String>> {
        let (asked, mut owed) = memory.so_far();
        assert_eq!(asked, "once");
        let ahead = said.to_owned().beyond(&mut owed)?;
        memory.goes_on(owed, ahead);
        Some(memory)
    }

    #[test]
    fn a_replica_that_says_the_same_adds_nothing() {
        let mut memory = gone_on(of(["o", "nc"]), "onc").unwrap();
        assert_eq!(memory.waiting().collect::<Vec<_>>(), ["up"]);
        assert_eq!(memory.heard("eu".to_owned()).unwrap(), "eu");
        memory.close();
        assert_eq!((memory.is_complete(), memory.heard("p".to_owned()).unwrap().as_str()), (false, "p"));
        assert!(memory.is_complete());
    }

    #[test]
    fn one_that_is_behind_says_the_rest_again_with_what_comes() {
        let mut memory = gone_on(of(["o", "nc"]), "o").unwrap();
        assert_eq!(memory.heard("n".to_owned()).unwrap(), "");
        memory.close();
        assert_eq!(memory.heard("ceup".to_owned()).unwrap(), "eup");
    }

    #[test]
    fn what_one_says_ahead_comes_with_the_next_answer_and_is_not_lost_with_it() {
        let memory = gone_on(of(["o", "n"]), "once").unwrap();
        let mut memory = gone_on(memory, "once").unwrap();
        assert_eq!(memory.heard("up".to_owned()).unwrap(), "ceup");
        assert_eq!(memory.so_far(), ("onceup".to_owned(), "onceup".to_owned()));
    }

    #[test]
    fn what_one_says_ahead_before_it_ends_waits_until_it_is_asked_for() {
        let mut memory = gone_on(of(["o", "n"]), "once").unwrap();
        assert_eq!(memory.rest(), Poll::Ready(Some("ce".to_owned())));
        assert_eq!(memory.rest(), Poll::Ready(None));
        let mut answered = of(["o", "n"]);
        answered.heard("c".to_owned()).unwrap();
        let (_, mut owed) = answered.so_far();
        let ahead = "once".to_owned().beyond(&mut owed).unwrap();
        answered.goes_on(owed, ahead);
        assert_eq!(answered.rest(), Poll::Pending, "all is answered, and more may come");
        answered.close();
        assert_eq!(answered.rest(), Poll::Ready(Some("e".to_owned())));
    }

    #[test]
    fn one_that_says_something_else_is_noticed() {
        assert!(gone_on(of(["o", "nc"]), "ont").is_none());
        assert!(gone_on(of(["o", "nc"]), "o").unwrap().heard("x".to_owned()).is_none());
        let mut silent = gone_on(of(["o", "nc"]), "o").unwrap();
        silent.heard(String::new()).unwrap();
        silent.close();
        assert!(silent.heard(String::new()).is_none(), "it ends before it has said all again");
    }

    #[test]
    fn a_finding_is_told_once_and_must_be_found_again() {
        let beyond = |answer: Cleared, mut owed: Cleared| {
            let new = answer.beyond(&mut owed)?;
            Some((new.released, new.findings.len(), owed.released, owed.findings.len()))
        };
        let told = || cleared("Mail [", &[5]);
        assert_eq!(beyond(cleared("Mail [", &[5]), told()), Some((String::new(), 0, String::new(), 0)));
        assert_eq!(beyond(cleared("Mail [x", &[5, 9]), told()), Some(("x".to_owned(), 1, String::new(), 0)));
        assert_eq!(beyond(cleared("Mail", &[]), told()), Some((String::new(), 0, " [".to_owned(), 1)));
        assert_eq!(beyond(cleared("Mail [", &[6]), told()), None);
    }
}
