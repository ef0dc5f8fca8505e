//! How long steps take, as measured, and what follows: how much of a prompt may stand beside decodes, and whether a
//! deadline can be met at all.
//!
//! A step costs what its decodes cost alone, and a price for each row of a prompt beside them. Both are running means:
//! the first by how many decodes there are (a mean for each doubling), the second over all steps with prompts.
//!
//! # Why each waiting prompt stretches the step
//! Streams that run should hardly feel a long prompt, so it may stretch a step only so far. But where many prompts wait
//! and few streams run, as after a burst of arrivals, sparing the few would starve the many, and the engine with them:
//! it is most productive with a full batch. So each prompt brings the same share of time with it.

use std::time::Duration;

use super::plan::Load;

/// How steps are bounded by time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pacing {
    /// How much longer than its decodes alone a step may take for each prompt that waits: 2 is twice as long for one,
    /// three times for two. `None`: no bound.
    pub step_stretch: Option<f64>,
    /// Whether requests are refused that cannot have their first token before their deadline.
    pub refuse_hopeless: bool,
}

/// Weight of a measurement in the running means.
const NEWEST: f64 = 0.2;
/// Rows of a prompt whose measurement has that weight; fewer weigh less, since the step's own jitter is spread over them.
const FULL_ROWS: f64 = 32.0;
/// A step has at least so many rows of prompts, whatever they cost, so that a long one comes to its end.
const LEAST_ROWS: usize = 12;
/// After so many steps without one of decodes alone, the next is one, as a measurement.
const MEASURE_EVERY: u64 = 64;
/// Of the time that a prompt would take by measure, so much is taken for granted.
const CERTAIN: f64 = 0.5;
/// Numbers of decodes are told apart by their power of two.
const CLASSES: usize = 16;

/// What was measured.
#[derive(Debug)]
pub(super) struct Tempo {
    pacing: Pacing,
    /// Seconds of a step of decodes alone, and when it was measured last.
    decodes: [Option<(f64, u64)>; CLASSES],
    /// Seconds that a row of a prompt adds.
    prompt_row: Option<f64>,
    steps: u64,
}

impl Tempo {
    /// Nothing measured.
    pub(super) fn new(pacing: Pacing) -> Self {
        Self { pacing, decodes: [None; CLASSES], prompt_row: None, steps: 0 }
    }

    /// Notes how long a step of this load took.
    pub(super) fn note(&mut self, load: Load, took: Duration) {
        let seconds = took.as_secs_f64();
        self.steps += 1;
        if load.prompt_rows == 0 {
            let measured = &mut self.decodes[class(load.decodes)];
            let mean = measured.map_or(seconds, |(mean, _)| mean + NEWEST * (seconds - mean));
            *measured = Some((mean, self.steps));
            return;
        }
        // A prompt alone reads the weights too, as the smallest of steps does.
        let base = self.decode_step(load.decodes.max(1)).unwrap_or(0.0);
        let each = (seconds - base).max(0.0) / load.prompt_rows as f64;
        let weight = NEWEST * (load.prompt_rows as f64 / FULL_ROWS).min(1.0);
        self.prompt_row = Some(self.prompt_row.map_or(each, |mean| mean + weight * (each - mean)));
    }

    /// How many rows of prompts may stand beside this many decodes, where `prompts` wait for theirs.
    pub(super) fn prompt_rows_beside(&self, decodes: usize, prompts: usize) -> usize {
        let Some(stretch) = self.pacing.step_stretch.filter(|_| decodes > 0) else { return usize::MAX };
        let measured = self.decodes[class(decodes)];
        let Some((step, _)) = measured.filter(|(_, at)| self.steps - at < MEASURE_EVERY) else { return 0 };
        let Some(each) = self.prompt_row else { return usize::MAX };
        // A quotient beyond the type's end becomes its end.
        ((step * (stretch - 1.0) * prompts as f64 / each) as usize).max(LEAST_ROWS)
    }

    /// The least time in which a prompt of `rows` rows has its first token, if it had the engine to itself. `None` where
    /// nobody asks, or nothing was measured.
    pub(super) fn least_time(&self, rows: usize) -> Option<Duration> {
        let rows_take = self.prompt_row.filter(|_| self.pacing.refuse_hopeless)? * rows as f64;
        let step = self.decode_step(1).unwrap_or(0.0);
        Duration::try_from_secs_f64(CERTAIN * rows_take.max(step)).ok()
    }

    /// Seconds of a step of this many decodes alone, or of the nearest number below that was measured.
    fn decode_step(&self, decodes: usize) -> Option<f64> {
        self.decodes[..=class(decodes)].iter().rev().flatten().map(|(mean, _)| *mean).next()
    }
}

fn class(decodes: usize) -> usize {
    (decodes.max(1).ilog2() as usize).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn tempo() -> Tempo {
        Tempo::new(Pacing { step_stretch: Some(2.0), refuse_hopeless: true })
    }

    fn load(decodes: usize, prompt_rows: usize) -> Load {
        Load { decodes, prompt_rows }
    }

    #[test]
    fn an_engine_without_decodes_gives_a_prompt_all_it_has() {
        assert_eq!(tempo().prompt_rows_beside(0, 1), usize::MAX);
    }

    #[test]
    fn a_prompt_beside_decodes_takes_as_long_as_they_do_and_several_take_several_times_that() {
        let mut tempo = tempo();
        tempo.note(load(0, 512), 512 * MILLI);
        assert_eq!(tempo.prompt_rows_beside(8, 1), 0, "the decodes are measured first");
        tempo.note(load(8, 0), 20 * MILLI);
        assert_eq!(tempo.prompt_rows_beside(8, 1), 20);
        assert_eq!(tempo.prompt_rows_beside(8, 3), 60);
        assert_eq!(tempo.prompt_rows_beside(9, 1), 20, "near enough");
        assert_eq!(tempo.prompt_rows_beside(16, 1), 0, "not measured");
    }

    #[test]
    fn a_prompt_whose_rows_are_dear_goes_on_all_the_same() {
        let mut tempo = tempo();
        tempo.note(load(0, 32), 3200 * MILLI);
        tempo.note(load(8, 0), 20 * MILLI);
        assert_eq!(tempo.prompt_rows_beside(8, 1), LEAST_ROWS, "not none of 100 ms each");
    }

    #[test]
    fn the_price_of_a_row_follows_what_rows_cost_beside_decodes() {
        let mut tempo = tempo();
        tempo.note(load(0, 512), 512 * MILLI);
        tempo.note(load(8, 0), 100 * MILLI);
        for _ in 0..50 {
            let rows = tempo.prompt_rows_beside(8, 1);
            tempo.note(load(8, rows), 100 * MILLI + 2 * MILLI * rows as u32);
        }
        assert_eq!(tempo.prompt_rows_beside(8, 1), 50, "at 2 ms a row");
    }

    #[test]
    fn decodes_are_measured_again_from_time_to_time() {
        let mut tempo = tempo();
        tempo.note(load(8, 0), 20 * MILLI);
        let alone = (0..3 * MEASURE_EVERY).filter(|_| {
            let rows = tempo.prompt_rows_beside(8, 1).min(100);
            tempo.note(load(8, rows), 20 * MILLI + MILLI * rows as u32);
            rows == 0
        });
        assert_eq!(alone.count(), 3 - 1);
    }

    #[test]
    fn only_half_of_what_was_measured_is_taken_for_granted() {
        let mut tempo = tempo();
        assert_eq!(tempo.least_time(1000), None, "nothing was measured");
        tempo.note(load(0, 100), 100 * MILLI);
        assert_eq!(tempo.least_time(1000), Some(500 * MILLI));
        tempo.note(load(1, 0), 30 * MILLI);
        assert_eq!(tempo.least_time(1), Some(15 * MILLI), "a step is the least");
        tempo.pacing.refuse_hopeless = false;
        assert_eq!(tempo.least_time(1000), None);
    }
}
