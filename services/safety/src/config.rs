//! The safety filter's own part of its TOML file.

use std::{path::PathBuf, time::Duration};

use weft_runtime::config::{FromConfig, Section, any, at_least, between};

use crate::detector::LONGEST_HEAD;

/// Everything that the service is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[policy]`
    pub policy: PolicyConfig,
    /// `[window]`
    pub window: WindowConfig,
    /// `[limits]`
    pub limits: Limits,
}

impl FromConfig for Config {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            policy: section.section("policy"),
            window: section.section("window"),
            limits: section.section("limits"),
        }
    }
}

/// `[policy]`: where the policies are.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// The file; relative to the working directory.
    pub file: PathBuf,
    /// How often the file is looked at, to take a changed one without a restart.
    pub check_every: Duration,
}

/// Short enough for an operator who waits for it, and one `stat` each.
const CHECK_EVERY: Duration = Duration::from_secs(5);

impl FromConfig for PolicyConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let often = between_durations(Duration::from_millis(100), Duration::from_secs(3600));
        Self {
            file: section.required("file", any()),
            check_every: section.value("check_every", CHECK_EVERY, often),
        }
    }
}

fn between_durations(least: Duration, most: Duration) -> weft_runtime::config::Rule<Duration> {
    weft_runtime::config::Rule {
        holds: |time, bounds| *time >= bounds[0] && *time <= bounds[1],
        words: format!("must be between {least:?} and {most:?}"),
        bounds: vec![least, most],
    }
}

/// `[window]`: how much text waits for a verdict.
#[derive(Clone, Copy, Debug)]
pub struct WindowConfig {
    /// The most bytes of one finding that are held back; a longer finding is reported, and acted upon, in parts.
    pub max_hold_bytes: usize,
}

/// A private key of 4096 bits is about 3 KiB as text: in one part, with room to spare.
const MAX_HOLD_BYTES: usize = 16 << 10;

impl FromConfig for WindowConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        // A detector that cannot read to the end of what it must recognise would have to guess.
        Self {
            max_hold_bytes: section.value("max_hold_bytes", MAX_HOLD_BYTES, between(LONGEST_HEAD, 1 << 20)),
        }
    }
}

/// `[limits]`: what one call may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text in a Screen, or in a ScreenStream from its first message to its last.
    pub max_text_bytes: usize,
    /// Streams that may be open; one more is answered UNAVAILABLE.
    pub max_streams: usize,
    /// Findings that Screen lists; all are acted upon.
    pub max_findings: usize,
}

/// Some 250,000 tokens of prose, as much as the tokenizer takes.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Each holds a few kilobytes: a hundred megabytes at the very most.
const MAX_STREAMS: usize = 4096;
/// Some 60 bytes each on the wire: far below the largest message.
const MAX_FINDINGS: usize = 4096;

impl FromConfig for Limits {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            max_text_bytes: section.value("max_text_bytes", MAX_TEXT_BYTES, at_least(1)),
            max_streams: section.value("max_streams", MAX_STREAMS, between(1, 1 << 20)),
            max_findings: section.value("max_findings", MAX_FINDINGS, at_least(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weft_runtime::config::parse;

    use super::*;

    #[test]
    fn the_shipped_configuration_is_usable() {
        let text = include_str!("../../../deploy/config/safety.toml");
        let config: Config = parse(text, &[]).unwrap();
        assert_eq!(config.policy.file, Path::new("deploy/config/policy.toml"));
        assert_eq!(config.window.max_hold_bytes, MAX_HOLD_BYTES);
    }

    #[test]
    fn every_mistake_is_reported_with_its_rule() {
        let text =
            "[window]\nmax_hold_bytes = 100\n[policy]\ncheck_every = \"1ms\"\n[limits]\nmax_steams = 1";
        let report = parse::<Config>(text, &[]).unwrap_err().to_string();
        for line in [
            "window.max_hold_bytes = 100",
            "must be between 4096 and 1048576",
            "policy.file",
            "policy.check_every",
            "must be between 100ms and 3600s",
            "did you mean `max_streams`?",
        ] {
            assert!(report.contains(line), "{line:?} is not in:\n{report}");
        }
    }
}
