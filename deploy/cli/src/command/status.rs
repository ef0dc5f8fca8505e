//! `weft status`: health, versions, model, queue and KV use.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use futures::future::join_all;
use serde::Serialize;
use tonic::transport::Channel;

use super::Place;
use crate::{
    failure::{FAILED, NOT_RUNNING},
    grpc::{Call, connect, info},
    http::Http,
    mesh::{Layout, Member, readiness},
    metrics,
    ui::{Tone, Ui},
    units,
};

/// How long one service may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often `--watch` looks again.
const WATCH: Duration = Duration::from_secs(1);

/// Options of `weft status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON, on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Look again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// All that is known of a mesh.
#[derive(Debug, Serialize)]
struct Report {
    run_dir: String,
    /// Whether every service is serving.
    serving: bool,
    /// By name.
    services: BTreeMap<Member, Service>,
    jaeger: Option<Jaeger>,
    model: Option<info::Model>,
    engine: Option<info::Engine>,
}

/// All that is known of one service.
#[derive(Debug, Default, Serialize)]
struct Service {
    /// Its process, if `weft up` started it and it runs.
    pid: Option<i32>,
    uptime_seconds: Option<u64>,
    resident_bytes: Option<u64>,
    /// Where it listens.
    grpc: Option<String>,
    admin: Option<String>,
    version: Option<String>,
    /// `serving`, `not serving`, `unknown`, or `unreachable`.
    health: &'static str,
    /// Whether `/readyz` says so.
    ready: bool,
    /// Why not, if not.
    reason: Option<String>,
    /// Calls that it works on.
    in_flight: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Jaeger {
    pid: Option<i32>,
    uptime_seconds: Option<u64>,
    resident_bytes: Option<u64>,
    ready: bool,
    query: String,
    otlp: String,
}

/// Runs `weft status`.
///
/// # Errors
/// It is not known where the mesh listens, or the terminal is gone.
pub(crate) async fn run(ui: &Ui, place: &Place, args: &Args) -> anyhow::Result<ExitCode> {
    loop {
        let report = gather(place).await?;
        let shown = if args.json { serde_json::to_string_pretty(&report)? } else { report.render(ui) };
        if args.watch && ui.is_terminal() && !args.json {
            ui.print("\u{1b}[2J\u{1b}[H")?;
        }
        ui.line(shown)?;
        if !args.watch {
            return Ok(report.exit_code());
        }
        tokio::time::sleep(WATCH).await;
    }
}

async fn gather(place: &Place) -> anyhow::Result<Report> {
    let layout = place.layout()?;
    let http = Http::new();
    let services = join_all(Member::SERVICES.map(|member| service(place, &layout, &http, member)));
    let (services, jaeger) = tokio::join!(services, jaeger(place, &layout, &http));
    // Afterwards, or these questions would be counted among the calls in flight.
    let (model, engine) = inference(&layout).await;
    let services: BTreeMap<Member, Service> = Member::SERVICES.into_iter().zip(services).collect();
    Ok(Report {
        run_dir: place.run.path().display().to_string(),
        serving: services.values().all(|service| service.ready && service.health == "serving"),
        services,
        jaeger,
        model,
        engine,
    })
}

async fn service(place: &Place, layout: &Layout, http: &Http, member: Member) -> Service {
    let (word, in_flight, health) = tokio::join!(
        readiness::ask(http, layout, member),
        metrics::in_flight(http, layout, member),
        health(layout, member),
    );
    let process = place.run.running(member);
    let ports = layout.ports(member);
    Service {
        pid: process.map(|process| process.pid),
        uptime_seconds: process.and_then(|process| Some(process.uptime()?.as_secs())),
        resident_bytes: process.and_then(crate::mesh::Identity::resident_bytes),
        grpc: ports.map(|ports| ports.listen.to_string()),
        admin: ports.map(|ports| ports.admin.to_string()),
        version: word.as_ref().and_then(|word| word.version.clone()),
        health,
        ready: word.as_ref().is_some_and(|word| word.ready),
        reason: match word {
            Some(word) if word.ready => None,
            Some(word) => Some(word.reasons),
            None => Some(silence(place, member)),
        },
        in_flight,
    }
}

/// Why a member may not answer.
fn silence(place: &Place, member: Member) -> String {
    match (place.run.running(member), place.run.recorded(member)) {
        (Some(_), _) => "its admin port does not answer".to_owned(),
        (None, Some(ended)) => format!("its process {} has ended", ended.pid),
        (None, None) => "not started".to_owned(),
    }
}

/// What gRPC health says.
async fn health(layout: &Layout, member: Member) -> &'static str {
    let Some(channel) = channel(layout, member) else { return "unknown" };
    match tokio::time::timeout(PATIENCE, info::health(channel, Call::within(PATIENCE))).await {
        Ok(Ok(health)) => health,
        Ok(Err(_)) | Err(_) => "unreachable",
    }
}

async fn inference(layout: &Layout) -> (Option<info::Model>, Option<info::Engine>) {
    let Some(channel) = channel(layout, Member::Inference) else { return (None, None) };
    let call = Call::within(PATIENCE);
    let model = tokio::time::timeout(PATIENCE, info::model(channel.clone(), call));
    let engine = tokio::time::timeout(PATIENCE, info::engine(channel, call));
    let (model, engine) = tokio::join!(model, engine);
    (model.ok().and_then(Result::ok), engine.ok().and_then(Result::ok))
}

fn channel(layout: &Layout, member: Member) -> Option<Channel> {
    connect::channel(&layout.client_address(member)?, None).ok()
}

async fn jaeger(place: &Place, layout: &Layout, http: &Http) -> Option<Jaeger> {
    let ports = layout.jaeger?;
    let process = place.run.running(Member::Jaeger);
    Some(Jaeger {
        pid: process.map(|process| process.pid),
        uptime_seconds: process.and_then(|process| Some(process.uptime()?.as_secs())),
        resident_bytes: process.and_then(crate::mesh::Identity::resident_bytes),
        ready: readiness::ask(http, layout, Member::Jaeger).await.is_some_and(|word| word.ready),
        query: ports.query_endpoint(),
        otlp: ports.otlp_endpoint(),
    })
}

impl Report {
    fn exit_code(&self) -> ExitCode {
        let none =
            self.services.values().all(|service| service.pid.is_none() && service.health == "unreachable");
        match (self.serving, none) {
            (true, _) => ExitCode::SUCCESS,
            (false, true) => ExitCode::from(NOT_RUNNING),
            (false, false) => ExitCode::from(FAILED),
        }
    }

    fn render(&self, ui: &Ui) -> String {
        let mut table = table(&["service", "pid", "up", "version", "health", "memory", "in flight", "gRPC"]);
        for (member, service) in &self.services {
            table.add_row(service.row(*member));
        }
        if let Some(jaeger) = &self.jaeger {
            table.add_row(jaeger.row());
        }
        let mut lines: Vec<String> = table.lines().map(|line| colour(ui, line.trim_end())).collect();
        let reasons =
            self.services.iter().filter_map(|(member, service)| Some((member, service.reason.as_ref()?)));
        lines.extend(reasons.map(|(member, reason)| ui.paint(format!("{member}: {reason}"), Tone::Warn)));
        lines.extend(self.model.as_ref().map(|model| format!("\nmodel   {}", describe_model(model))));
        lines.extend(self.engine.as_ref().map(|engine| format!("engine  {}", describe_engine(engine))));
        lines.join("\n")
    }
}

/// A table without lines, numbers on the right.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty().set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for index in [1, 2, 5, 6] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Rows are coloured as whole lines: a table cannot measure text that carries colours.
fn colour(ui: &Ui, line: &str) -> String {
    let tone = if line.contains(SERVING) {
        return line.replacen(SERVING, &ui.paint(SERVING, Tone::Good), 1);
    } else if line.starts_with("service") {
        Tone::Dim
    } else {
        Tone::Bad
    };
    ui.paint(line, tone)
}

/// What stands in the table for a member that does its work.
const SERVING: &str = "✓ serving";

impl Service {
    fn row(&self, member: Member) -> Vec<String> {
        let serving = self.ready && self.health == "serving";
        let health = if serving { SERVING.to_owned() } else { format!("✗ {}", self.health) };
        vec![
            member.to_string(),
            cell(self.pid),
            cell(self.uptime_seconds.map(|s| units::time(Duration::from_secs(s)))),
            cell(self.version.as_deref()),
            health,
            cell(self.resident_bytes.map(units::bytes)),
            cell(self.in_flight),
            cell(self.grpc.as_deref()),
        ]
    }
}

impl Jaeger {
    fn row(&self) -> Vec<String> {
        vec![
            Member::Jaeger.to_string(),
            cell(self.pid),
            cell(self.uptime_seconds.map(|s| units::time(Duration::from_secs(s)))),
            cell(None::<u8>),
            if self.ready { SERVING.to_owned() } else { "✗ not serving".to_owned() },
            cell(self.resident_bytes.map(units::bytes)),
            cell(None::<u8>),
            self.query.clone(),
        ]
    }
}

fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn describe_model(model: &info::Model) -> String {
    format!(
        "{}  {}  {} parameters  {} on {}  context {}",
        model.id,
        model.architecture,
        units::count(model.parameters),
        model.dtype,
        model.device,
        model.context_length
    )
}

fn describe_engine(engine: &info::Engine) -> String {
    let used = engine.kv_blocks_total.saturating_sub(engine.kv_blocks_free);
    let percent = 100.0 * f64::from(used) / f64::from(engine.kv_blocks_total.max(1));
    format!(
        "running {}/{}  waiting {}/{}  KV {used}/{} blocks ({percent:.0} %)  {} tokens generated  {} preemptions",
        engine.running,
        engine.max_running,
        engine.waiting,
        engine.max_waiting,
        engine.kv_blocks_total,
        engine.generated_tokens,
        engine.preemptions
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(services: [Service; 4]) -> Report {
        Report {
            run_dir: String::new(),
            serving: services.iter().all(|service| service.ready),
            services: Member::SERVICES.into_iter().zip(services).collect(),
            jaeger: None,
            model: None,
            engine: None,
        }
    }

    fn serving() -> Service {
        Service { pid: Some(7), health: "serving", ready: true, ..Service::default() }
    }

    fn down() -> Service {
        Service { health: "unreachable", reason: Some("not started".to_owned()), ..Service::default() }
    }

    #[test]
    fn the_exit_code_tells_serving_from_degraded_from_absent() {
        let all = report([serving(), serving(), serving(), serving()]);
        let some = report([serving(), down(), serving(), serving()]);
        let none = report([down(), down(), down(), down()]);
        assert_eq!(all.exit_code(), ExitCode::SUCCESS);
        assert_eq!(some.exit_code(), ExitCode::from(FAILED));
        assert_eq!(none.exit_code(), ExitCode::from(NOT_RUNNING));
    }

    #[test]
    fn a_service_that_is_away_says_why() {
        let shown = report([serving(), down(), serving(), serving()]).render(&Ui::plain(100));
        let row = shown.lines().find(|line| line.starts_with("tokenizer")).unwrap();
        assert!(row.contains("✗ unreachable"), "{shown}");
        assert!(shown.lines().any(|line| line == "tokenizer: not started"), "{shown}");
    }
}
