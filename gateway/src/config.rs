//! The gateway's part of its configuration file. `deploy/config/gateway.toml` explains every key.

mod balance;
mod hedge;
mod resume;

use std::time::Duration;

pub(crate) use balance::Balance;
pub(crate) use hedge::Hedge;
pub(crate) use resume::Resume;
use weft_runtime::{
    client::ClientConfig,
    config::{FromConfig, Rule, Section, any, at_least, between, not_empty},
};

use crate::{
    discovery,
    inbound::{admission::config::Admission, auth::AuthConfig, quota::QuotaConfig},
};

/// What the gateway is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[tokenizer]`: how the tokenizer is called.
    pub(crate) tokenizer: ClientConfig,
    /// `[inference]`: how inference is called.
    pub(crate) inference: ClientConfig,
    /// `[safety]`: how the safety filter is called.
    pub(crate) safety: ClientConfig,
    /// `[auth]`: who is let in.
    pub(crate) auth: AuthConfig,
    /// `[quota]`: how much a tenant may use.
    pub(crate) quota: QuotaConfig,
    /// `[http]`: the door for OpenAI's HTTP API.
    pub(crate) http: crate::http::config::Http,
    /// `[admission]`: how much is let in.
    pub(crate) admission: Admission,
    /// `[limits]`: how large a request may be.
    pub(crate) limits: Limits,
    /// `[safety_filter]`: what is screened how.
    pub(crate) safety_filter: SafetyFilter,
    /// `[pipeline]`: how far its stages run ahead of each other.
    pub(crate) pipeline: Pipeline,
    /// `[retry]`: when a call is made again.
    pub(crate) retry: Retry,
    /// `[balance]`: how generations are spread over replicas.
    pub(crate) balance: Balance,
    /// `[hedge]`: when a short call is made twice.
    pub(crate) hedge: Hedge,
    /// `[resume]`: when an answer goes on at another replica.
    pub(crate) resume: Resume,
    /// `[readiness]`: how often the services behind the gateway are looked at.
    pub(crate) readiness: Readiness,
}

impl FromConfig for Config {
    fn from_config(section: &mut Section<'_>) -> Self {
        let config = Self {
            tokenizer: section.section("tokenizer"),
            inference: section.section("inference"),
            safety: section.section("safety"),
            auth: section.section("auth"),
            quota: section.section("quota"),
            http: section.section("http"),
            admission: section.section("admission"),
            limits: section.section("limits"),
            safety_filter: section.section("safety_filter"),
            pipeline: section.section("pipeline"),
            retry: section.section("retry"),
            balance: section.section("balance"),
            hedge: section.section("hedge"),
            resume: section.section("resume"),
            readiness: section.section("readiness"),
        };
        discovery::check(section, "tokenizer.address", &config.tokenizer);
        discovery::check(section, "inference.address", &config.inference);
        discovery::check(section, "safety.address", &config.safety);
        config
    }
}

/// How large a request may be. What the contract itself bounds is not repeated here.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Messages in a conversation.
    pub(crate) max_messages: usize,
    /// Tools that a conversation may offer.
    pub(crate) max_tools: usize,
    /// All texts of a request together.
    pub(crate) max_text_bytes: usize,
    /// Stop strings.
    pub(crate) max_stop_strings: usize,
    /// Bytes of one stop string.
    pub(crate) max_stop_string_bytes: usize,
    /// Prompts in one request of the HTTP API.
    pub(crate) max_prompts: usize,
    /// Answers to one prompt.
    pub(crate) max_answers: u32,
    /// Texts in one Embed.
    pub(crate) max_embed_inputs: usize,
}

impl FromConfig for Limits {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            max_messages: section.value("max_messages", 1_024, at_least(1)),
            max_tools: section.value("max_tools", 128, any()),
            max_text_bytes: section.value("max_text_bytes", 1 << 20, at_least(1)),
            // The contract's own bounds: a deployment may be stricter, never laxer.
            max_stop_strings: section.value("max_stop_strings", 16, between(0, 16)),
            max_stop_string_bytes: section.value("max_stop_string_bytes", 256, between(1, 256)),
            max_prompts: section.value("max_prompts", 64, between(1, 1_024)),
            // Each has its own stages and calls here, and its own place in inference's batch.
            max_answers: section.value("max_answers", 16, between(1, 128)),
            max_embed_inputs: section.value("max_embed_inputs", 256, between(1, 256)),
        }
    }
}

/// What is screened how.
#[derive(Clone, Debug)]
pub(crate) struct SafetyFilter {
    /// The policy of requests that name none; `None` leaves the choice to the safety service.
    pub(crate) default_policy: Option<String>,
    /// Whether inference waits for the verdict on a prompt.
    pub(crate) verdict_first: bool,
}

impl FromConfig for SafetyFilter {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            default_policy: section.optional("default_policy", not_empty()),
            verdict_first: section.value("verdict_first", false, any()),
        }
    }
}

/// How far the stages of the pipeline run ahead of each other.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    /// Pieces of one answer that may be on their way to and from one service.
    pub(crate) window: usize,
}

impl FromConfig for Pipeline {
    fn from_config(section: &mut Section<'_>) -> Self {
        // Enough to hide a round trip behind several tokens, few enough that a slow reader holds almost nothing.
        Self { window: section.value("window", 32, between(1, 4_096)) }
    }
}

/// When a call is made again. Only `UNAVAILABLE`, only before its first message, never beyond the deadline.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    /// Attempts in all, the first one included.
    pub(crate) max_attempts: u32,
    /// The pause before the second attempt; each further one doubles.
    pub(crate) first_pause: Duration,
    /// Retries that each call pays for: 0.1 lets a tenth of the calls be made twice.
    pub(crate) budget_ratio: f64,
    /// Retries that are allowed before the budget has earned any.
    pub(crate) budget_reserve: u32,
}

impl FromConfig for Retry {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            max_attempts: section.value("max_attempts", 3, between(1, 10)),
            first_pause: section.value("first_pause", Duration::from_millis(25), any()),
            budget_ratio: section.value("budget_ratio", 0.1, between(0.0, 1.0)),
            budget_reserve: section.value("budget_reserve", 16, between(0, 10_000)),
        }
    }
}

/// How often the services behind the gateway are looked at.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    /// Between two looks at a service that is well.
    pub(crate) interval: Duration,
    /// Between two looks at a service that is not.
    pub(crate) retry_interval: Duration,
    /// How long one look may take.
    pub(crate) timeout: Duration,
    /// The part of a service's replicas that must be fit; one always must.
    pub(crate) min_fit_share: f64,
    /// Whether inference may serve a model whose vocabulary it cannot tell.
    pub(crate) allow_unknown_vocabulary: bool,
}

impl FromConfig for Readiness {
    fn from_config(section: &mut Section<'_>) -> Self {
        // A loop without a pause would be the load that it looks for.
        let some_time = || Rule {
            holds: |value, bounds| *value >= bounds[0],
            bounds: vec![Duration::from_millis(10)],
            words: "must be at least 10ms".to_owned(),
        };
        Self {
            interval: section.value("interval", Duration::from_secs(1), some_time()),
            retry_interval: section.value("retry_interval", Duration::from_millis(200), some_time()),
            // Long, because a machine that is merely busy is not broken.
            timeout: section.value("timeout", Duration::from_secs(5), some_time()),
            min_fit_share: section.value("min_fit_share", 0.0, between(0.0, 1.0)),
            // Ids that mean something else are text that nobody wrote.
            allow_unknown_vocabulary: section.value("allow_unknown_vocabulary", false, any()),
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_runtime::config::parse;

    use super::*;

    const SERVICES: &str = r#"
        [tokenizer]
        address = "http://127.0.0.1:50061"
        [inference]
        address = "http://127.0.0.1:50062"
        [safety]
        address = "http://127.0.0.1:50063"
    "#;

    #[test]
    fn the_commented_file_says_the_defaults() {
        let file: Config = parse(include_str!("../../deploy/config/gateway.toml"), &[]).unwrap();
        let defaults: Config = parse(SERVICES, &[]).unwrap();
        assert_eq!(format!("{file:#?}"), format!("{defaults:#?}"));
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let lines = r#"
            [tokenizer]
            address = "kubernetes://weft/tokenizer"
            [auth]
            mode = "required"
            [quota]
            window = "1ms"
            [admission]
            max_in_flight = 0
            min_tokens_in_flight = 50_000
            [limits]
            max_stop_strings = 17
            [safety_filter]
            default_policy = " "
            [pipeline]
            windows = 3
            [retry]
            budget_ratio = 2.0
            [readiness]
            interval = "1ms"
        "#;
        let problems = parse::<Config>(lines, &[]).unwrap_err().to_string();
        for path in [
            "tokenizer.address",
            "inference.address",
            "safety.address",
            "auth.mode",
            "quota.window",
            "admission.max_in_flight",
            "admission.min_tokens_in_flight",
            "limits.max_stop_strings",
            "safety_filter.default_policy",
            "pipeline.windows",
            "retry.budget_ratio",
            "readiness.interval",
        ] {
            assert!(problems.contains(path), "{path} is not in\n{problems}");
        }
    }
}
