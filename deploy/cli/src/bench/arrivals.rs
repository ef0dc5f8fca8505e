//! When the requests of an open loop should be sent: a Poisson process, as many independent users make it.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// When requests should be sent, from the start of the measurement until `duration`: `rate` a second on average.
pub(crate) fn poisson(rate: f64, duration: Duration, seed: u64) -> Vec<Duration> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut at = 0.0;
    let next = move || {
        // The time between two arrivals is exponential; `1 - u` is never 0.
        at += -(1.0 - rng.random::<f64>()).ln() / rate;
        Duration::try_from_secs_f64(at).ok()
    };
    std::iter::from_fn(next).take_while(|at| *at < duration).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        assert_eq!(poisson(5.0, HOUR, 7), poisson(5.0, HOUR, 7));
        assert_ne!(poisson(5.0, HOUR, 7), poisson(5.0, HOUR, 8));
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "counts here are small")]
    fn arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let arrivals = poisson(10.0, HOUR, 1);
        // 36,000 are expected with a standard deviation of 190; five of those are never passed by chance.
        assert!((35_050..36_950).contains(&arrivals.len()), "{}", arrivals.len());
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The deviation of an exponential distribution is its mean; that of an even beat is 0.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn arrivals_are_in_order_and_end_with_the_duration() {
        let arrivals = poisson(100.0, Duration::from_secs(10), 3);
        assert!(arrivals.is_sorted());
        assert!(arrivals.last().is_some_and(|last| *last < Duration::from_secs(10)));
    }
}
