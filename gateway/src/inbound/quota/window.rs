//! How much happened in the last minute (or whatever the window is): never too little, and at most a sixtieth of the window
//! too long.
//!
//! A token bucket of the same size and rate would let twice the limit through around the moment when it is full. A window
//! that slides lets the limit through in *every* stretch of its length, which is what the word says. Remembering each event
//! would cost memory for each; so events are counted by slots of a sixtieth, and a slot is forgotten when its youngest
//! possible event is old enough.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Slots in a window.
const SLOTS: u32 = 60;

/// Turns instants into slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    begun: Instant,
    slot: Duration,
}

/// The number of a slot.
pub(super) type Slot = u64;

impl Clock {
    pub(super) fn new(window: Duration, begun: Instant) -> Self {
        Self { begun, slot: (window / SLOTS).max(Duration::from_nanos(1)) }
    }

    pub(super) fn slot(&self, now: Instant) -> Slot {
        let slot = now.saturating_duration_since(self.begun).as_nanos() / self.slot.as_nanos();
        Slot::try_from(slot).unwrap_or(Slot::MAX)
    }

    /// How long until a slot begins, in whole milliseconds, as callers are told it: not rounded down, or they would be back
    /// too early.
    pub(super) fn until(&self, slot: Slot, now: Instant) -> Duration {
        let begins = self.slot.saturating_mul(u32::try_from(slot).unwrap_or(u32::MAX));
        let left = begins.saturating_sub(now.saturating_duration_since(self.begun));
        Duration::from_millis(u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

/// What happened in the last slots.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Oldest first; none empty.
    slots: VecDeque<(Slot, u64)>,
    total: u64,
}

impl Window {
    /// How much happened within the window that ends now.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Forgets what is too old.
    pub(super) fn turn(&mut self, now: Slot) {
        while let Some((_, amount)) = self.slots.pop_front_if(|(slot, _)| end(*slot) <= now) {
            self.total -= amount;
        }
    }

    /// Notes that this much happened now.
    pub(super) fn add(&mut self, now: Slot, amount: u64) {
        if amount == 0 {
            return;
        }
        self.total += amount;
        match self.slots.back_mut() {
            Some((slot, sum)) if *slot == now => *sum += amount,
            _ => self.slots.push_back((now, amount)),
        }
    }

    /// Takes the last of what was noted out of it, and says out of which slots. What is forgotten cannot be.
    pub(super) fn take_last(&mut self, mut amount: u64) -> Vec<(Slot, u64)> {
        let mut taken = Vec::new();
        while let Some((slot, last)) = self.slots.back().copied().filter(|_| amount > 0) {
            let part = amount.min(last);
            self.take(slot, part);
            taken.push((slot, part));
            amount -= part;
        }
        taken
    }

    /// Takes what was noted in a slot out of it, unless it is forgotten.
    pub(super) fn take(&mut self, slot: Slot, amount: u64) {
        let Ok(at) = self.slots.binary_search_by_key(&slot, |(slot, _)| *slot) else { return };
        let Some((_, noted)) = self.slots.get_mut(at) else { return };
        let taken = amount.min(*noted);
        *noted -= taken;
        self.total -= taken;
        if *noted == 0 {
            self.slots.remove(at);
        }
    }

    /// The slot at whose beginning this much of what is noted will be forgotten; `None` if there is not so much.
    pub(super) fn forgotten(&self, amount: u64) -> Option<Slot> {
        let mut sum = 0;
        self.slots.iter().find_map(|(slot, part)| {
            sum += part;
            (sum >= amount).then(|| end(*slot))
        })
    }
}

/// The slot at whose beginning all of this slot is older than the window.
fn end(slot: Slot) -> Slot {
    slot + 1 + Slot::from(SLOTS)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_forgotten_when_all_of_it_is_old_enough() {
        let begun = Instant::now();
        let clock = Clock::new(MINUTE, begun);
        let at = |millis| begun + Duration::from_millis(millis);
        let mut window = Window::default();
        window.add(clock.slot(at(0)), 1);
        window.add(clock.slot(at(999)), 2);
        window.add(clock.slot(at(1_000)), 4);
        // What happened at 999 ms is a minute old at 60 999 ms.
        window.turn(clock.slot(at(60_999)));
        assert_eq!(window.total(), 7);
        assert_eq!(clock.until(window.forgotten(3).unwrap(), at(60_000)), Duration::from_secs(1));
        assert_eq!(clock.until(window.forgotten(4).unwrap(), at(60_000)), Duration::from_secs(2));
        assert_eq!(window.forgotten(8), None);
        window.turn(clock.slot(at(61_000)));
        assert_eq!(window.total(), 4);
        window.add(9_999, 3);
        assert_eq!(window.take_last(5), [(9_999, 3), (1, 2)]);
        window.take(1, 1);
        window.take(0, 1);
        assert_eq!(window.total(), 1);
    }

    proptest! {
        #[test]
        fn never_too_little_and_at_most_a_sixtieth_too_long(
            events in vec((0_u64..5_000, 0_u64..100), 1..60),
        ) {
            let begun = Instant::now();
            let clock = Clock::new(MINUTE, begun);
            let (mut window, mut now, mut log) = (Window::default(), 0_u64, Vec::new());
            for (pause, amount) in events {
                now += pause;
                let slot = clock.slot(begun + Duration::from_millis(now));
                window.turn(slot);
                window.add(slot, amount);
                log.push((now, amount));
                let within = |length: u64| -> u64 {
                    log.iter().filter(|(at, _)| at + length > now).map(|(_, amount)| amount).sum()
                };
                prop_assert!(window.total() >= within(60_000));
                prop_assert!(window.total() <= within(61_000));
            }
        }
    }
}
