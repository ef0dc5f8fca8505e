//! What a measurement found, for people and for programs.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::measure::{Measurements, Times};
use crate::units;

/// The form of the JSON. Grows when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// What was measured, and how. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    weft_version: &'static str,
    /// What was asked for.
    settings: Settings,
    requests: Requests,
    /// From the first request to the end of the last answer, in seconds; warm-up excluded.
    duration_s: f64,
    throughput: Throughput,
    tokens: Tokens,
    /// Time to the first text or token.
    ttft_ms: Option<Distribution>,
    /// Between one message with text or tokens and the next.
    itl_ms: Option<Distribution>,
    /// Per output token after the first, by request.
    tpot_ms: Option<Distribution>,
    /// From the moment at which a request should have been sent until its end.
    e2e_ms: Option<Distribution>,
    /// Seconds of one core that this load generator itself used.
    generator_cpu_s: Option<f64>,
    /// The slowest request's trace, where traces were recorded.
    slowest_trace: Option<String>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    /// `complete`, `chat` or `inference`.
    pub(crate) target: &'static str,
    /// Where.
    pub(crate) address: String,
    /// `closed` or `open`.
    pub(crate) mode: &'static str,
    /// Requests in flight, in a closed loop.
    pub(crate) concurrency: Option<usize>,
    /// Requests a second, in an open loop.
    pub(crate) rate: Option<f64>,
    /// Length of the prompts that was aimed at, in tokens.
    pub(crate) prompt_tokens: usize,
    /// Whether the tokenizer made them exactly that long.
    pub(crate) exact_prompts: bool,
    /// At most this many new tokens.
    pub(crate) max_tokens: u32,
    /// Whether generation went on past end tokens.
    pub(crate) ignore_eos: bool,
    /// 0 is greedy.
    pub(crate) temperature: f32,
    /// Of prompts and arrivals.
    pub(crate) seed: u64,
    /// Requests before the measurement began.
    pub(crate) warm_up: usize,
}

#[derive(Debug, Serialize)]
struct Requests {
    total: u64,
    ok: u64,
    failed: u64,
    by_code: BTreeMap<&'static str, u64>,
    /// What the first refusal of each code said.
    reasons: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct Throughput {
    requests_per_s: f64,
    output_tokens_per_s: f64,
    total_tokens_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Tokens {
    prompt: u64,
    completion: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Distribution {
    count: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Distribution {
    fn of(times: &Times) -> Option<Self> {
        let quantile = |share| rounded(times.quantile_ms(share));
        (times.count() > 0).then(|| Self {
            count: times.count(),
            mean: rounded(times.mean_ms()),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: quantile(1.0),
        })
    }
}

/// To microseconds: no clock here knows more.
fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

impl Report {
    /// What was found in `duration`.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
    pub(crate) fn new(
        settings: Settings,
        found: Measurements,
        duration: Duration,
        cpu: Option<Duration>,
    ) -> Self {
        let seconds = duration.as_secs_f64().max(1e-9);
        let rate = |count: u64| rounded(count as f64 / seconds);
        Self {
            schema: SCHEMA,
            weft_version: env!("CARGO_PKG_VERSION"),
            requests: Requests {
                total: found.requests(),
                ok: found.succeeded(),
                failed: found.requests() - found.succeeded(),
                by_code: found.by_code.clone(),
                reasons: found.reasons.clone(),
            },
            duration_s: rounded(duration.as_secs_f64()),
            throughput: Throughput {
                requests_per_s: rate(found.succeeded()),
                output_tokens_per_s: rate(found.completion_tokens),
                total_tokens_per_s: rate(found.completion_tokens + found.prompt_tokens),
            },
            tokens: Tokens { prompt: found.prompt_tokens, completion: found.completion_tokens },
            ttft_ms: Distribution::of(&found.first),
            itl_ms: Distribution::of(&found.gap),
            tpot_ms: Distribution::of(&found.per_token),
            e2e_ms: Distribution::of(&found.total),
            generator_cpu_s: cpu.map(|cpu| rounded(cpu.as_secs_f64())),
            slowest_trace: found.slowest.map(|(_, trace)| trace),
            settings,
        }
    }

    /// Whether anything was answered.
    pub(crate) fn has_answers(&self) -> bool {
        self.requests.ok > 0
    }

    /// The trace of the slowest request.
    pub(crate) fn slowest_trace(&self) -> Option<&str> {
        self.slowest_trace.as_deref()
    }

    /// The report for a terminal.
    pub(crate) fn render(&self) -> String {
        let mut lines = vec![self.heading(), self.outcome()];
        lines.extend(self.requests.reasons.iter().map(|(code, why)| format!("  {code}, the first: {why}")));
        lines.push(self.speed());
        lines.extend(self.generator_cpu_s.map(|cpu| format!("generator  {cpu:.2} s of one core")));
        lines.push(String::new());
        lines.extend(self.table().lines().map(|line| line.trim_end().to_owned()));
        lines.join("\n")
    }

    fn heading(&self) -> String {
        let settings = &self.settings;
        let load = match (settings.concurrency, settings.rate) {
            (Some(concurrency), _) => format!("closed loop, {concurrency} in flight"),
            (None, rate) => format!("open loop, {} requests/s", rate.unwrap_or_default()),
        };
        let about = if settings.exact_prompts { "" } else { "about " };
        format!(
            "{load} · {} at {} · {about}{} tokens in, up to {} out · seed {}",
            settings.target, settings.address, settings.prompt_tokens, settings.max_tokens, settings.seed
        )
    }

    fn outcome(&self) -> String {
        let time = units::time(Duration::try_from_secs_f64(self.duration_s).unwrap_or_default());
        let Requests { ok, failed, by_code, .. } = &self.requests;
        let codes =
            by_code.iter().filter(|(code, _)| **code != "OK").map(|(code, n)| format!(" · {code} {n}"));
        format!("requests   {ok} answered, {failed} failed in {time}{}", codes.collect::<String>())
    }

    fn speed(&self) -> String {
        let Throughput { requests_per_s, output_tokens_per_s, total_tokens_per_s } = self.throughput;
        let Tokens { prompt, completion } = self.tokens;
        format!(
            "throughput {output_tokens_per_s:.1} output tokens/s · {requests_per_s:.2} requests/s · \
             {total_tokens_per_s:.1} tokens/s in all ({prompt} in, {completion} out)"
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        table.set_header(["milliseconds", "mean", "p50", "p90", "p99", "max"]);
        let rows = [
            ("time to first token", self.ttft_ms),
            ("between tokens", self.itl_ms),
            ("per output token", self.tpot_ms),
            ("whole request", self.e2e_ms),
        ];
        for (name, distribution) in rows {
            let numbers = distribution.map(|d| [d.mean, d.p50, d.p90, d.p99, d.max]);
            let cells =
                numbers.map_or([const { String::new() }; 5], |numbers| numbers.map(|n| format!("{n:.1}")));
            table.add_row([name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>());
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if index > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tonic::Status;

    use super::*;
    use crate::bench::measure::Sample;

    fn settings() -> Settings {
        Settings {
            target: "complete",
            address: "http://127.0.0.1:50051".to_owned(),
            mode: "closed",
            concurrency: Some(2),
            rate: None,
            prompt_tokens: 16,
            exact_prompts: true,
            max_tokens: 3,
            ignore_eos: false,
            temperature: 0.0,
            seed: 0,
            warm_up: 1,
        }
    }

    fn report() -> Report {
        let mut found = Measurements::new().unwrap();
        let ms = Duration::from_millis;
        for n in 1..=4 {
            let empty = Sample::unanswered("OK", Instant::now());
            let gaps = vec![ms(10), ms(10)];
            found.add(Sample {
                first: Some(ms(20 * n)),
                gaps,
                total: ms(100 * n),
                prompt_tokens: 16,
                completion_tokens: 3,
                ..empty
            });
        }
        for why in ["no room", "still no room"] {
            found.add(Sample::refused(&Status::unavailable(why).into(), Instant::now()));
        }
        Report::new(settings(), found, Duration::from_secs(2), None)
    }

    #[test]
    fn the_table_has_a_row_for_each_time_and_names_what_failed() {
        let shown = report().render();
        let words: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(
            shown.contains(
                "4 answered, 2 failed in 2.00s · UNAVAILABLE 2\n  UNAVAILABLE, the first: no room\n"
            ),
            "{shown}"
        );
        assert!(shown.contains("6.0 output tokens/s · 2.00 requests/s · 38.0 tokens/s"), "{shown}");
        let row = |name: &str| words.iter().find(|row| row.join(" ").starts_with(name)).unwrap().clone();
        assert_close(&row("time to first token")[4..], [50.0, 40.0, 80.0, 80.0, 80.0]);
        assert_close(&row("per output token")[3..], [10.0; 5]);
        assert_close(&row("whole request")[2..], [250.0, 200.0, 400.0, 400.0, 400.0]);
    }

    /// A distribution keeps three digits.
    fn assert_close(shown: &[&str], wanted: [f64; 5]) {
        let shown: Vec<f64> = shown.iter().map(|cell| cell.parse().unwrap()).collect();
        assert_eq!(shown.len(), wanted.len());
        let close = |(shown, wanted): (&f64, f64)| (shown - wanted).abs() / wanted < 0.002;
        assert!(shown.iter().zip(wanted).all(close), "{shown:?} {wanted:?}");
    }

    #[test]
    fn the_json_has_what_programs_read() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["requests"]["by_code"]["UNAVAILABLE"], 2);
        assert_eq!(json["requests"]["reasons"]["UNAVAILABLE"], "no room");
        assert_eq!(json["tokens"]["completion"], 12);
        assert_eq!(json["throughput"]["output_tokens_per_s"], 6.0);
        assert!((json["tpot_ms"]["p50"].as_f64().unwrap() - 10.0).abs() < 0.02);
        assert_eq!(json["itl_ms"]["count"], 8);
    }

    #[test]
    fn what_was_not_measured_is_not_shown_as_zero() {
        let nothing = Report::new(settings(), Measurements::new().unwrap(), Duration::from_secs(1), None);
        assert!(!nothing.has_answers());
        assert!(serde_json::to_value(nothing).unwrap()["ttft_ms"].is_null());
    }
}
