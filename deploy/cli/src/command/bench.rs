//! `weft bench`: put load on the mesh and measure it.

use std::{cell::RefCell, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use super::Place;
use crate::{
    bench::{
        arrivals,
        load::Load,
        measure::Measurements,
        prompts::Prompts,
        report::{Report, Settings},
        target::{Prompt, Target},
    },
    cli::duration,
    failure::{FAILED, Failure},
    grpc::{Call, Generation, answer::Gateway, connect, ids::Inference, info, text::Tokenizer},
    mesh::Member,
    ui::{Progress, Ui},
};

/// How long a question about the mesh may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Prompts that are made at once.
const PROMPTS_AT_ONCE: usize = 8;
/// Set apart from the measured requests, so that none finds its prompt in a cache.
const WARM_UP_INDEX: u64 = 1 << 40;
/// How often progress is shown.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Whom to put the load on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Whom {
    /// The gateway, and so all four services
    Gateway,
    /// Inference alone, with random token ids: what the rooms around it cost is the difference
    Inference,
}

/// Which call of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Api {
    /// Continue a text: the prompt has exactly the tokens that were asked for
    Complete,
    /// Answer a message: the chat template adds its tokens to the prompt
    Chat,
}

/// Options of `weft bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Closed loop: how many requests are in flight
    #[arg(short, long, default_value_t = 8, value_parser = at_least_one)]
    concurrency: usize,
    /// Closed loop: how many requests in all
    #[arg(short = 'n', long, default_value_t = 64, value_parser = at_least_one)]
    requests: usize,
    /// Open loop: requests a second, arriving at random
    #[arg(long, value_parser = positive, conflicts_with_all = ["concurrency", "requests"])]
    rate: Option<f64>,
    /// Open loop: how long requests arrive
    #[arg(long, value_parser = duration, default_value = "30s", requires = "rate")]
    duration: Duration,
    /// Length of a prompt in tokens (exact where the tokenizer answers, else in words)
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    prompt_tokens: usize,
    /// At most this many tokens in an answer
    #[arg(long, default_value_t = 64)]
    max_tokens: u32,
    /// Go on past the model's end tokens, so that every answer has --max-tokens tokens
    #[arg(long)]
    ignore_eos: bool,
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Makes prompts and arrivals repeatable
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Requests before the measurement, in a closed loop [default: --concurrency, at most 8]
    #[arg(long)]
    warm_up: Option<usize>,
    /// Whom to put the load on
    #[arg(long, value_enum, default_value = "gateway")]
    target: Whom,
    /// Which call of the gateway
    #[arg(long, value_enum, default_value = "complete")]
    api: Api,
    /// The model; else the only one that is served
    #[arg(long, default_value = "")]
    model: String,
    /// How long one request may take
    #[arg(long, value_parser = duration, default_value = "120s")]
    timeout: Duration,
    /// Record a trace of every request and name that of the slowest
    #[arg(long)]
    trace: bool,
    /// Where the target is; else what `weft up` started
    #[arg(long, value_name = "URI")]
    address: Option<String>,
    /// Authorities to trust, as PEM, for an https address
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Write the report as JSON; `-` is standard output, instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "must be a whole number".to_owned())?;
    if number == 0 { Err("must be at least 1".to_owned()) } else { Ok(number) }
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("must be more than 0".to_owned()) }
}

/// Runs `weft bench`.
///
/// # Errors
/// The target cannot be asked, or the report cannot be written.
pub(crate) async fn run(ui: &Ui, place: &Place, args: Args) -> anyhow::Result<ExitCode> {
    let bench = Bench::prepare(place, args)?;
    let progress = RefCell::new(Progress::new(ui));
    let source = bench.source(place).await?;
    bench.warm_up(&source, &progress).await?;
    let cpu_before = cpu_time();
    let (found, time) = bench.measure(&source, &progress).await?;
    let cpu = cpu_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    let report = Report::new(bench.settings(&source), found, time, cpu);
    bench.publish(ui, place, &report)?;
    Ok(if report.has_answers() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// A measurement that can begin.
struct Bench {
    args: Args,
    address: String,
    load: Load,
    prompts: Prompts,
}

/// Where prompts come from.
enum Source {
    /// Texts of the exact length.
    Exact(Tokenizer),
    /// Texts with a word for a token: the tokenizer is not there.
    Words,
    /// Token ids, for inference.
    Ids { vocabulary_size: u32, end_ids: Vec<u32> },
}

impl Bench {
    fn prepare(place: &Place, args: Args) -> anyhow::Result<Self> {
        let member = match args.target {
            Whom::Gateway => Member::Gateway,
            Whom::Inference => Member::Inference,
        };
        let address = place.address(args.address.as_deref(), member);
        let channel = connect::channel(&address, args.ca.as_deref())?;
        let target = match (args.target, args.api) {
            (Whom::Inference, _) => Target::Inference(Inference::new(channel)),
            (Whom::Gateway, Api::Complete) => Target::Complete(Gateway::new(channel, args.model.clone())),
            (Whom::Gateway, Api::Chat) => Target::Chat(Gateway::new(channel, args.model.clone())),
        };
        let generation = Generation {
            temperature: Some(args.temperature),
            max_tokens: Some(args.max_tokens),
            seed: (args.temperature > 0.0).then_some(args.seed),
            ignore_eos: args.ignore_eos,
            ..Generation::default()
        };
        let load = Load { target, generation, timeout: args.timeout, traced: args.trace };
        let prompts = Prompts { seed: args.seed, tokens: args.prompt_tokens };
        Ok(Self { args, address, load, prompts })
    }

    /// Finds out how prompts of the wanted length are made.
    async fn source(&self, place: &Place) -> anyhow::Result<Source> {
        let call = Call::within(PATIENCE);
        if self.args.target == Whom::Inference {
            let channel = connect::channel(&self.address, self.args.ca.as_deref())?;
            let advice = format!("see `{}`", place.command("status"));
            let failure =
                || Failure::new(format!("inference at {} cannot be asked", self.address)).next(advice);
            let model = info::model(channel, call).await.with_context(failure)?;
            return Ok(Source::Ids { vocabulary_size: model.vocabulary_size, end_ids: model.end_token_ids });
        }
        let address = place.address(None, Member::Tokenizer);
        let tokenizer = Tokenizer::new(connect::channel(&address, None)?, call);
        // A gateway elsewhere hides its tokenizer; words will have to do, and the report says so.
        Ok(if tokenizer.encode("a").await.is_ok() { Source::Exact(tokenizer) } else { Source::Words })
    }

    async fn prompt(&self, source: &Source, index: u64) -> anyhow::Result<Prompt> {
        Ok(match source {
            Source::Exact(tokenizer) => Prompt::Text(self.prompts.exact(index, tokenizer).await?),
            Source::Words => Prompt::Text(self.prompts.words(index)),
            Source::Ids { vocabulary_size, end_ids } => {
                Prompt::Ids(self.prompts.ids(index, *vocabulary_size, end_ids))
            }
        })
    }

    /// Made before the clock starts: the tokenizer's work for us must not slow the mesh that is measured.
    async fn make_prompts(&self, source: &Source, first: u64, count: usize) -> anyhow::Result<Vec<Prompt>> {
        let prompts = stream::iter((first..).take(count)).map(|index| self.prompt(source, index));
        prompts.buffered(PROMPTS_AT_ONCE).try_collect().await
    }

    fn warm_up_requests(&self) -> usize {
        self.args.warm_up.unwrap_or(if self.args.rate.is_some() { 1 } else { self.args.concurrency.min(8) })
    }

    async fn warm_up(&self, source: &Source, progress: &RefCell<Progress>) -> anyhow::Result<()> {
        let count = self.warm_up_requests();
        if count == 0 {
            return Ok(());
        }
        progress.borrow_mut().says("bench", "warming up");
        let prompts = self.make_prompts(source, WARM_UP_INDEX, count).await?;
        let found = self.load.closed(prompts, self.args.concurrency, |_| {}).await?;
        if found.succeeded() > 0 {
            return Ok(());
        }
        let codes: Vec<String> = found.by_code.iter().map(|(code, n)| format!("{n} × {code}")).collect();
        let what = format!("no request of the warm-up was answered by {}", self.address);
        let next = "see `weft status`, or try the same with `weft chat` to read the reason";
        Err(Failure::new(what).details(codes).next(next).into())
    }

    async fn measure(
        &self,
        source: &Source,
        progress: &RefCell<Progress>,
    ) -> anyhow::Result<(Measurements, Duration)> {
        let arrivals = self.args.rate.map(|rate| arrivals::poisson(rate, self.args.duration, self.args.seed));
        let count = arrivals.as_ref().map_or(self.args.requests, Vec::len);
        progress.borrow_mut().says("bench", format_args!("making {count} prompts"));
        let prompts = self.make_prompts(source, 0, count).await?;
        let tell = teller(progress, count);
        let start = Instant::now();
        let found = match arrivals {
            Some(arrivals) => self.load.open(arrivals.into_iter().zip(prompts).collect(), tell).await?,
            None => self.load.closed(prompts, self.args.concurrency, tell).await?,
        };
        let time = start.elapsed();
        progress.borrow_mut().done("bench", format_args!("{count} requests"));
        Ok((found, time))
    }

    fn settings(&self, source: &Source) -> Settings {
        let args = &self.args;
        Settings {
            target: match (args.target, args.api) {
                (Whom::Inference, _) => "inference",
                (Whom::Gateway, Api::Complete) => "complete",
                (Whom::Gateway, Api::Chat) => "chat",
            },
            address: self.address.clone(),
            mode: if args.rate.is_some() { "open" } else { "closed" },
            concurrency: args.rate.is_none().then_some(args.concurrency),
            rate: args.rate,
            prompt_tokens: args.prompt_tokens,
            exact_prompts: !matches!(source, Source::Words),
            max_tokens: args.max_tokens,
            ignore_eos: args.ignore_eos,
            temperature: args.temperature,
            seed: args.seed,
            warm_up: self.warm_up_requests(),
        }
    }

    fn publish(&self, ui: &Ui, place: &Place, report: &Report) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(report)? + "\n";
        match &self.args.json {
            Some(file) if file.as_os_str() == "-" => ui.print(json)?,
            Some(file) => {
                ui.line(report.render())?;
                fs::write(file, json).with_context(|| format!("{} cannot be written", file.display()))?;
            }
            None => ui.line(report.render())?,
        }
        if let Some(trace) = report.slowest_trace() {
            ui.note(format_args!("the slowest request: {}", place.command(&format!("trace {trace}"))));
        }
        Ok(())
    }
}

/// Shows how many are done, seldom enough to cost nothing.
fn teller(progress: &RefCell<Progress>, count: usize) -> impl FnMut(usize) + '_ {
    let mut last = Instant::now();
    move |done| {
        if last.elapsed() >= TELL_EVERY {
            last = Instant::now();
            progress.borrow_mut().says("bench", format_args!("{done} of {count} requests"));
        }
    }
}

/// Time that this thread, which does everything, has spent on a core.
fn cpu_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}
