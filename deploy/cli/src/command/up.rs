//! `weft up`: start what is not running, wait until it is ready, prove it with a real answer.

use std::{cell::RefCell, collections::BTreeMap, io, path::PathBuf, process::ExitCode, time::Duration};

use futures::future::try_join_all;
use tokio::time::Instant;

use super::{Place, logs};
use crate::{
    answer,
    cli::duration,
    failure::{self, CONFIG, Failure, INTERRUPTED},
    grpc::{
        Call, Generation,
        answer::{Gateway, Question, Speaker, Turn},
        connect,
    },
    mesh::{
        Flags, Identity, Layout, Member, RunDir, Running, Settings, State, jaeger, launch::Program, ports,
        readiness, settings::Override, signals::Interrupt, stop::Stopping,
    },
    trace_context::TraceContext,
    ui::{Progress, Tone, Ui},
    units,
};

/// How long members that were started in vain may take to end.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);
/// What is asked to prove that the mesh answers.
const PROOF: &str = "What does a loom do? Answer in one sentence.";
/// How long the proof may be, in tokens.
const PROOF_TOKENS: u32 = 64;
/// How long the proof may take.
const PROOF_LIMIT: Duration = Duration::from_secs(60);

/// Options of `weft up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model to serve, as a Hugging Face folder; else the one that the configs name
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// The type of the weights in memory: f32, bf16 or f16
    #[arg(long)]
    dtype: Option<String>,
    /// Set a key of a service's config, such as inference.scheduler.max_sequences=8; may be repeated
    #[arg(long, value_name = "SERVICE.SECTION.KEY=VALUE", value_parser = Override::parse)]
    set: Vec<Override>,
    /// Add this to every port, so that several meshes can run side by side (each with its own --run-dir)
    #[arg(long, value_name = "N")]
    port_offset: Option<u16>,
    /// Do without Jaeger, also if it was built; spans then go nowhere
    #[arg(long)]
    no_jaeger: bool,
    /// How long the services may take to be ready
    #[arg(long, value_parser = duration, default_value = "180s")]
    timeout: Duration,
    /// Stay, show the logs, and stop everything at Ctrl-C or when a service ends
    #[arg(long)]
    foreground: bool,
}

/// What `up` has to do.
struct Plan {
    settings: Settings,
    layout: Layout,
    running: Vec<(Member, Identity)>,
    missing: Vec<Member>,
}

/// Runs `weft up`.
///
/// # Errors
/// A port is taken, an executable is missing, a service ended while starting, or the mesh does not answer.
pub(crate) async fn run(ui: &Ui, place: &Place, args: &Args) -> anyhow::Result<ExitCode> {
    let lock = place.run.lock()?;
    let mut interrupt = Interrupt::listen()?;
    let plan = Plan::make(&place.run, &flags(place, args))?;
    plan.check_ports()?;
    plan.announce(ui, args);
    let mut members = plan.start(&place.run).await?;
    let started = plan.missing.clone();
    let progress = RefCell::new(Progress::new(ui));
    let ready = ready(&mut members, &plan.layout, place, (args.timeout, &progress));
    let outcome = tokio::select! {
        outcome = ready => outcome,
        () = interrupt.next() => Err(Failure::new("interrupted").code(INTERRUPTED).into()),
    };
    if let Err(error) = outcome {
        return give_up(ui, place, &plan.layout, (members, started), error).await;
    }
    let trace = prove(ui, place, &plan.layout).await?;
    summary(ui, place, &plan, &trace)?;
    drop(lock);
    if args.foreground {
        supervise(ui, place, &plan.layout, members, interrupt).await
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

fn flags(place: &Place, args: &Args) -> Flags {
    Flags {
        config_dir: place.config_dir.clone(),
        port_offset: args.port_offset,
        no_jaeger: args.no_jaeger,
        model: args.model.clone(),
        dtype: args.dtype.clone(),
        set: args.set.clone(),
    }
}

impl Plan {
    fn make(run: &RunDir, flags: &Flags) -> anyhow::Result<Self> {
        let running = run.all_running();
        let before = if running.is_empty() { None } else { run.state()? };
        let (settings, layout) = match before {
            // A mesh that runs keeps its ports, also if the files changed meanwhile.
            Some(before) => (before.settings.confirmed(flags)?, before.layout),
            None => {
                let settings = Settings::fresh(flags)?;
                let layout = Layout::read(&settings)?;
                (settings, layout)
            }
        };
        let wanted =
            Member::ALL.into_iter().filter(|member| *member != Member::Jaeger || layout.jaeger.is_some());
        let missing = wanted.filter(|member| !running.iter().any(|(runs, _)| runs == member)).collect();
        Ok(Self { settings, layout, running, missing })
    }

    /// Every port that is taken is named at once.
    fn check_ports(&self) -> anyhow::Result<()> {
        let mut taken = Vec::new();
        let mut ours = false;
        for member in &self.missing {
            for (what, address) in self.layout.addresses(*member) {
                let Err(error) = ports::probe(address) else { continue };
                let holder = ports::holder(address.port());
                ours |= holder.as_ref().is_some_and(ports::Holder::is_weft);
                let why = match (error.kind(), holder) {
                    (io::ErrorKind::AddrInUse, Some(holder)) => format!("is taken by {holder}"),
                    (io::ErrorKind::AddrInUse, None) => "is taken by a process of another user".to_owned(),
                    _ => format!("cannot be used: {error}"),
                };
                taken.push(format!("port {} ({what} of {member}, {address}) {why}", address.port()));
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        let move_away = "move this mesh with --port-offset 100 and a --run-dir of its own";
        let advice = if ours {
            format!("another mesh is running: stop it with `weft down` and its --run-dir, or {move_away}")
        } else {
            format!("end that process, or {move_away}")
        };
        let what = format!("{} cannot be started: ports are taken", self.names());
        Err(Failure::new(what).details(taken).next(advice).into())
    }

    fn names(&self) -> String {
        self.missing.iter().map(|member| member.name()).collect::<Vec<_>>().join(", ")
    }

    fn announce(&self, ui: &Ui, args: &Args) {
        match (self.missing.as_slice(), self.running.is_empty()) {
            ([], _) => ui.note("already up"),
            (_, true) => ui.note(format_args!("starting {}", self.names())),
            (_, false) => ui.note(format_args!("starting {} beside what already runs", self.names())),
        }
        if self.layout.jaeger.is_none() && !args.no_jaeger {
            ui.note(ui.paint(format!("no traces: Jaeger is not there; {}", jaeger::HOW_TO_GET), Tone::Warn));
        }
    }

    /// Starts what is missing and gives all members. Nothing is started unless everything can be.
    async fn start(&self, run: &RunDir) -> anyhow::Result<Vec<Running>> {
        // Jaeger first: who starts after it need not try twice to reach it.
        let order = self.missing.iter().rev();
        let programs = order.map(|member| Program::of(*member, &self.settings, &self.layout, run));
        let programs: Vec<Program> = programs.collect::<anyhow::Result<_>>()?;
        check_configs(&programs).await?;
        run.write_state(&State {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: self.settings.clone(),
            layout: self.layout.clone(),
        })?;
        let mut members: Vec<Running> =
            self.running.iter().map(|(member, identity)| Running::adopted(*member, *identity)).collect();
        for program in programs {
            members.push(program.start(run)?);
        }
        members.sort_by_key(|running| running.member);
        Ok(members)
    }
}

/// Every problem of every config is named at once.
async fn check_configs(programs: &[Program]) -> anyhow::Result<()> {
    let problems = try_join_all(programs.iter().map(Program::config_problems)).await?.concat();
    if problems.is_empty() {
        return Ok(());
    }
    let what = "nothing was started: not every configuration is usable";
    Err(Failure::new(what).details(problems).code(CONFIG).into())
}

async fn ready(
    members: &mut [Running],
    layout: &Layout,
    place: &Place,
    (limit, progress): (Duration, &RefCell<Progress>),
) -> anyhow::Result<()> {
    let all = readiness::all_ready(members, layout, &place.run, progress);
    tokio::time::timeout(limit, all).await.unwrap_or_else(|_| {
        let what = format!("not everything was ready within {}", units::time(limit));
        let late = progress.borrow().unfinished();
        let advice = "give it more time with --timeout, or read its log";
        Err(Failure::new(what).details(late).next(advice).into())
    })
}

/// Stops what was started in vain; what ran before goes on.
async fn give_up(
    ui: &Ui,
    place: &Place,
    layout: &Layout,
    (members, started): (Vec<Running>, Vec<Member>),
    error: anyhow::Error,
) -> anyhow::Result<ExitCode> {
    let in_vain = members.into_iter().filter(|running| started.contains(&running.member)).collect();
    ui.note("stopping what was started");
    let progress = RefCell::new(Progress::new(ui));
    let stopping =
        Stopping { run: &place.run, layout: Some(layout), progress: &progress, limit: CLEAN_UP_LIMIT };
    stopping.stop(in_vain).await;
    Err(error)
}

/// Streams one real answer and gives the id of its trace.
async fn prove(ui: &Ui, place: &Place, layout: &Layout) -> anyhow::Result<String> {
    let address = place.address(layout.client_address(Member::Gateway).as_deref(), Member::Gateway);
    let gateway = Gateway::new(connect::channel(&address, None)?, String::new());
    let generation =
        Generation { temperature: Some(0.0), max_tokens: Some(PROOF_TOKENS), ..Generation::default() };
    let trace = TraceContext::random(true);
    ui.line(format_args!("\n{} {PROOF}", ui.paint("you:", Tone::Accent(0))))?;
    ui.print(format_args!("{} ", ui.paint("weft:", Tone::Accent(1))))?;
    let question = Question::Chat(vec![Turn { speaker: Speaker::User, text: PROOF.to_owned() }]);
    let asked = Instant::now();
    let call = Call { trace: Some(trace), timeout: Some(PROOF_LIMIT) };
    let failed = |error: anyhow::Error| {
        let advice = format!("read `{}`; the mesh is still running", place.command("logs gateway inference"));
        error.context(Failure::new("the mesh is up, but it did not answer").next(advice))
    };
    let pieces = gateway.ask(question, &generation, call).await.map_err(|refusal| failed(refusal.into()))?;
    let answer = answer::print(ui, pieces, asked).await.map_err(failed)?;
    ui.line(format_args!("\n{}\n", answer.summary(ui)))?;
    if answer.ending.is_none() || answer.text.is_empty() {
        return Err(failed(anyhow::anyhow!("the answer has no text")));
    }
    Ok(trace.trace_id())
}

fn summary(ui: &Ui, place: &Place, plan: &Plan, trace: &str) -> io::Result<()> {
    let row = |name: &str, value: &str, note: &str| {
        ui.line(format_args!("  {name:<10} {value:<28} {}", ui.paint(note, Tone::Dim)))
    };
    ui.line(ui.paint("Weft is up", Tone::Strong))?;
    for member in Member::SERVICES {
        let Some(ports) = plan.layout.ports(member) else { continue };
        let http = ports.http.map(|address| format!("OpenAI's HTTP API on {address}; "));
        let note = format!("gRPC; {}metrics and health on {}", http.unwrap_or_default(), ports.admin);
        row(member.name(), &ports.listen.to_string(), &note)?;
    }
    if let Some(jaeger) = &plan.layout.jaeger {
        row("jaeger", &jaeger.query_endpoint(), &format!("trace of this answer: {trace}"))?;
    }
    ui.line("next")?;
    let mut next = vec![("chat", "talk to it"), ("status", "how it is"), ("bench", "how fast it is")];
    if plan.layout.jaeger.is_some() {
        next.push(("trace", "where the time of that answer went"));
    }
    next.extend([("logs -f", "what it writes"), ("down", "stop it")]);
    let next = next.into_iter().map(|(words, what)| (place.command(words), what)).collect::<Vec<_>>();
    let width = next.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    for (command, what) in next {
        ui.line(format_args!("  {command:<width$}  {}", ui.paint(what, Tone::Dim)))?;
    }
    Ok(())
}

/// Shows the logs until an interruption or until a member ends, then stops everything.
async fn supervise(
    ui: &Ui,
    place: &Place,
    layout: &Layout,
    mut members: Vec<Running>,
    mut interrupt: Interrupt,
) -> anyhow::Result<ExitCode> {
    let ended = async {
        let exits = members
            .iter_mut()
            .map(|running| Box::pin(async move { (running.member, running.exited().await) }));
        futures::future::select_all(exits).await.0
    };
    let sources: BTreeMap<Member, PathBuf> =
        Member::ALL.into_iter().map(|member| (member, place.run.log(member))).collect();
    let outcome: anyhow::Result<()> = tokio::select! {
        (member, exit) = ended => Err(readiness::died(member, &exit, &place.run).into()),
        shown = logs::follow(ui, &sources) => shown.map(|never| match never {}),
        () = interrupt.next() => Ok(()),
    };
    let progress = RefCell::new(Progress::new(ui));
    let limit = super::down::DEFAULT_LIMIT;
    let stopping = Stopping { run: &place.run, layout: Some(layout), progress: &progress, limit };
    let killed = stopping.stop(members).await;
    outcome?;
    Ok(if killed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(failure::FAILED) })
}
