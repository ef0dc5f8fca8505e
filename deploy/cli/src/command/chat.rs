//! `weft chat`: talk to the model.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use rustyline::{DefaultEditor, error::ReadlineError};
use tokio::time::Instant;

use super::Place;
use crate::{
    answer::{self, Answer},
    cli::duration,
    failure::{self, Failure, INTERRUPTED},
    grpc::{
        Call, Generation, Refusal,
        answer::{Gateway, Question, Speaker, Turn},
        connect,
    },
    mesh::Member,
    trace_context::TraceContext,
    ui::{Tone, Ui},
};

/// Options of `weft chat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask this and leave; `-` or nothing reads it from standard input when that is not a terminal
    #[arg(short, long)]
    prompt: Option<String>,
    /// Instructions for the model
    #[arg(long)]
    system: Option<String>,
    /// The model; else the only one that is served
    #[arg(long, default_value = "")]
    model: String,
    /// 0 is greedy; else the model's own default
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the smallest set of tokens whose probability reaches this
    #[arg(long, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// At most this many tokens in an answer
    #[arg(long)]
    max_tokens: Option<u32>,
    /// Make sampling repeatable
    #[arg(long)]
    seed: Option<u64>,
    /// A text that ends the answer; may be repeated
    #[arg(long)]
    stop: Vec<String>,
    /// A file with a JSON schema that every answer holds to
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// How long an answer may take
    #[arg(long, value_parser = duration, default_value = "120s")]
    timeout: Duration,
    /// The gateway; else the one that `weft up` started
    #[arg(long, value_name = "URI")]
    address: Option<String>,
    /// Authorities to trust, as PEM, for an https address
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A conversation that is going on.
struct Conversation<'a> {
    ui: &'a Ui,
    gateway: Gateway,
    generation: Generation,
    timeout: Duration,
    turns: Vec<Turn>,
}

/// How asking went.
enum Outcome {
    Answered(Box<Answer>),
    Cancelled,
}

/// Runs `weft chat`.
///
/// # Errors
/// The gateway refuses (when asked once), or the terminal is gone.
pub(crate) async fn run(ui: &Ui, place: &Place, args: Args) -> anyhow::Result<ExitCode> {
    let prompt = prompt(args.prompt.as_deref())?;
    let address = place.address(args.address.as_deref(), Member::Gateway);
    let channel = connect::channel(&address, args.ca.as_deref())?;
    let system = args.system.map(|text| Turn { speaker: Speaker::System, text });
    let conversation = Conversation {
        ui,
        gateway: Gateway::new(channel, args.model),
        generation: Generation {
            temperature: args.temperature,
            top_p: args.top_p,
            seed: args.seed,
            max_tokens: args.max_tokens,
            stop: args.stop,
            ignore_eos: false,
            json_schema: args.json_schema.as_deref().map(schema).transpose()?,
        },
        timeout: args.timeout,
        turns: system.into_iter().collect(),
    };
    match prompt {
        Some(prompt) => conversation.once(prompt, &address, place).await,
        None => conversation.go_on(&address).await,
    }
}

/// The text of a schema's file. What is wrong with the schema itself is for the gateway to say.
fn schema(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("--json-schema {} cannot be read", file.display()))
}

/// What to ask once: the option, else standard input if it is not a terminal.
fn prompt(option: Option<&str>) -> anyhow::Result<Option<String>> {
    let piped = match option {
        Some("-") => true,
        Some(text) => return Ok(Some(text.to_owned())),
        None => !io::stdin().is_terminal(),
    };
    if !piped {
        return Ok(None);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("standard input cannot be read as UTF-8")?;
    if text.trim().is_empty() {
        return Err(Failure::new("standard input has no prompt").next("ask with -p \"…\"").into());
    }
    Ok(Some(text))
}

impl Conversation<'_> {
    async fn once(mut self, prompt: String, address: &str, place: &Place) -> anyhow::Result<ExitCode> {
        match self.ask(prompt).await {
            Ok(Outcome::Answered(answer)) => {
                Ok(if answer.ending.is_some() { ExitCode::SUCCESS } else { ExitCode::from(failure::FAILED) })
            }
            Ok(Outcome::Cancelled) => Ok(ExitCode::from(INTERRUPTED)),
            Err(error) => Err(advise(error, address, place)),
        }
    }

    async fn go_on(mut self, address: &str) -> anyhow::Result<ExitCode> {
        self.ui
            .note(self.ui.paint(format!("{address} · Ctrl-C cancels an answer, Ctrl-D leaves"), Tone::Dim));
        let mut editor = DefaultEditor::new().context("the terminal cannot be used")?;
        loop {
            // Reading blocks; the connection lives on meanwhile.
            let read = tokio::task::spawn_blocking(move || (editor.readline("you: "), editor));
            let (line, returned) = read.await.context("the terminal cannot be read")?;
            editor = returned;
            let line = match line {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(error).context("the terminal cannot be read"),
            };
            // In memory only: for the arrow keys, not for the disk.
            let _ = editor.add_history_entry(line.as_str());
            if let Err(error) = self.ask(line).await {
                let refusal = error.downcast::<Refusal>()?;
                self.ui.note(format_args!("{} {refusal}", self.ui.paint("error:", Tone::Bad)));
            }
        }
    }

    /// Asks, and keeps question and answer for the next turn. A question that was refused or cancelled before any text
    /// came is forgotten.
    async fn ask(&mut self, prompt: String) -> anyhow::Result<Outcome> {
        let trace = TraceContext::random(true);
        self.turns.push(Turn { speaker: Speaker::User, text: prompt });
        let answer = tokio::select! {
            answer = listen(self.ui, &self.gateway, (&self.turns, &self.generation), (trace, self.timeout)) => answer,
            _ = tokio::signal::ctrl_c() => {
                self.turns.pop();
                self.ui.note(self.ui.paint("\ncancelled", Tone::Warn));
                return Ok(Outcome::Cancelled);
            }
        };
        let answer = answer.inspect_err(|_| drop(self.turns.pop()))?;
        self.ui.line("")?;
        self.ui.note(
            answer.summary(self.ui) + &self.ui.paint(format!(" · trace {}", trace.trace_id()), Tone::Dim),
        );
        self.turns.push(Turn { speaker: Speaker::Assistant, text: answer.text.clone() });
        Ok(Outcome::Answered(Box::new(answer)))
    }
}

async fn listen(
    ui: &Ui,
    gateway: &Gateway,
    (turns, generation): (&[Turn], &Generation),
    (trace, timeout): (TraceContext, Duration),
) -> anyhow::Result<Answer> {
    let call = Call { trace: Some(trace), timeout: Some(timeout) };
    let asked = Instant::now();
    let pieces = gateway.ask(Question::Chat(turns.to_vec()), generation, call).await?;
    answer::print(ui, pieces, asked).await
}

/// Says what to do about a gateway that is not there.
fn advise(error: anyhow::Error, address: &str, place: &Place) -> anyhow::Error {
    match error.downcast_ref::<Refusal>() {
        Some(refusal) if refusal.is_unavailable() => {
            let advice =
                format!("see `{}`, or start it with `{}`", place.command("status"), place.command("up"));
            error.context(Failure::new(format!("{address} cannot answer")).next(advice))
        }
        _ => error,
    }
}
