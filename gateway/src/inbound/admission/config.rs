//! `[admission]`: how much is let in.

use std::time::Duration;

use weft_runtime::config::{FromConfig, Section, any, between, positive};

/// How much is let in at once, and who waits how long for it.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// Requests from their arrival to their last token, those that wait included.
    pub(crate) max_in_flight: usize,
    /// Requests that are worked on behind the gateway.
    pub(crate) max_running: usize,
    /// The most tokens of prompts and expected answers that are worked on.
    pub(crate) max_tokens_in_flight: u64,
    /// What that limit never falls below, however long inference lets requests wait.
    pub(crate) min_tokens_in_flight: u64,
    /// How long inference may let every request wait before less is sent to it.
    pub(crate) queue_target: Duration,
    /// Requests that may wait to be let in.
    pub(crate) max_waiting: usize,
    /// The longest that one of them may wait.
    pub(crate) max_wait: Duration,
    /// The longest that one may wait whose tenant is within its fair share, while there are others; never less than
    /// `max_wait`.
    pub(crate) max_wait_within_share: Duration,
    /// The share of the room that is kept for tenants within their fair share.
    pub(crate) reserve: f64,
    /// The share of the room that requests of negative priority may fill.
    pub(crate) background_share: f64,
    /// Tokens that an answer is expected to have before any was seen.
    pub(crate) expected_output_tokens: u32,
    /// When a refused caller is told to come back, as long as nothing was measured.
    pub(crate) retry_after: Duration,
}

impl FromConfig for Admission {
    fn from_config(section: &mut Section<'_>) -> Self {
        let tokens = || between(1, 1_000_000_000_u64);
        let this = Self {
            max_in_flight: section.value("max_in_flight", 256, between(1, 100_000)),
            // What inference's batch holds: whoever waits, waits here, where it costs nothing and can be told early.
            max_running: section.value("max_running", 64, between(1, 100_000)),
            // About what inference's cache holds of the default model.
            max_tokens_in_flight: section.value("max_tokens_in_flight", 24_576, tokens()),
            min_tokens_in_flight: section.value("min_tokens_in_flight", 4_096, tokens()),
            queue_target: section.value("queue_target", Duration::from_millis(100), positive()),
            max_waiting: section.value("max_waiting", 128, between(0, 10_000)),
            max_wait: section.value("max_wait", Duration::from_millis(200), any()),
            // A quiet tenant's burst is served by the next places that others leave, and is soon over.
            max_wait_within_share: section.value("max_wait_within_share", Duration::from_millis(500), any()),
            reserve: section.value("reserve", 0.05, between(0.0, 0.9)),
            background_share: section.value("background_share", 0.7, between(0.0, 1.0)),
            expected_output_tokens: section.value("expected_output_tokens", 256, between(1, 1_000_000)),
            retry_after: section.value("retry_after", Duration::from_secs(1), any()),
        };
        if this.min_tokens_in_flight > this.max_tokens_in_flight {
            let rule = format!("must be at most max_tokens_in_flight ({})", this.max_tokens_in_flight);
            section.problem("min_tokens_in_flight", this.min_tokens_in_flight, rule);
        }
        this
    }
}
