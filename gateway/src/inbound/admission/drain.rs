//! How fast the room empties.
//!
//! By Little's law a room that holds `n` requests for a time `t` each lets `n / t` go in a second. `t` is measured; so the
//! rate is right from the first busy moment on, where one that was counted would still be that of quieter times.

use std::time::Duration;

use super::load::Load;

/// Weight of the newest request in the running mean.
const NEWEST: f64 = 0.05;
/// Nobody is told to come back later than this.
const LONGEST: Duration = Duration::from_secs(60);

/// What is known of how long requests stay.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// In seconds.
    stay: Option<f64>,
    /// The part of it that was not spent in inference's queue.
    work: Option<f64>,
}

impl Drain {
    /// A request left that had stayed so long, of which it was `queued` in inference.
    pub(super) fn left(&mut self, stayed: Duration, queued: Duration) {
        for (mean, time) in [(&mut self.stay, stayed), (&mut self.work, stayed.saturating_sub(queued))] {
            let seconds = time.as_secs_f64();
            *mean = Some(mean.map_or(seconds, |mean| mean + NEWEST * (seconds - mean)));
        }
    }

    /// How long requests are worked on; `None` while nothing was measured.
    pub(super) fn work(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.work?).ok()
    }

    /// How long it takes until `load` of what is `used` has left; `None` while nothing was measured.
    pub(super) fn time_for(&self, load: Load, used: Load) -> Option<Duration> {
        let part = |load: u64, used: u64| if load == 0 { 0.0 } else { load as f64 / used.max(1) as f64 };
        let part = part(load.requests, used.requests).max(part(load.tokens, used.tokens));
        Some(Duration::try_from_secs_f64(self.stay? * part).map_or(LONGEST, |time| time.min(LONGEST)))
    }

    /// Tokens that leave in a second, of so many that are used.
    pub(super) fn tokens_per_second(&self, used: Load) -> f64 {
        self.stay.filter(|stay| *stay > 0.0).map_or(0.0, |stay| used.tokens as f64 / stay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_of_forty_that_stay_two_seconds_lets_twenty_go_in_one() {
        let used = Load { requests: 40, tokens: 4_000 };
        let mut drain = Drain::default();
        assert_eq!(drain.time_for(Load::of(10), used), None, "nothing was measured");
        drain.left(Duration::from_secs(2), Duration::from_millis(500));
        assert_eq!(drain.work(), Some(Duration::from_millis(1_500)));
        assert_eq!(
            drain.time_for(Load { requests: 10, tokens: 1_000 }, used),
            Some(Duration::from_millis(500))
        );
        let large = Load { requests: 1, tokens: 2_000 };
        assert_eq!(
            drain.time_for(large, used),
            Some(Duration::from_secs(1)),
            "the scarcer of the two decides"
        );
        assert_eq!(drain.time_for(Load::default(), used), Some(Duration::ZERO));
        assert!((drain.tokens_per_second(used) - 2_000.0).abs() < 1e-9);
    }
}
