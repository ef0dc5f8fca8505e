//! `weft trace`: a trace from Jaeger as a waterfall.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::StatusCode;

use super::Place;
use crate::{
    cli::duration,
    failure::Failure,
    http::{Http, Page},
    mesh::{Member, jaeger},
    ui::{Tone, Ui},
    units,
    waterfall::{self, Trace},
};

/// How long Jaeger may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a trace that has not arrived is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How many of the newest traces are looked through for one of a request.
const NEWEST: usize = 50;

/// Options of `weft trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A trace id, as `weft chat` prints it; else the newest
    id: Option<String>,
    /// List this many of the newest traces
    #[arg(long, value_name = "N", conflicts_with = "id")]
    last: Option<usize>,
    /// How long to wait for a trace that has not arrived: services hand in their spans every few seconds
    #[arg(long, value_parser = duration, default_value = "10s")]
    wait: Duration,
    /// Jaeger's query API; else the one that `weft up` started
    #[arg(long, value_name = "URI")]
    jaeger: Option<String>,
    /// As Jaeger's own JSON
    #[arg(long)]
    json: bool,
}

/// Runs `weft trace`.
///
/// # Errors
/// Jaeger is not there, or has no such trace.
pub(crate) async fn run(ui: &Ui, place: &Place, args: &Args) -> anyhow::Result<ExitCode> {
    let jaeger = Jaeger { http: Http::new(), address: address(place, args) };
    if let Some(count) = args.last {
        let traces = jaeger.newest(count).await?;
        list(ui, &traces)?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = match &args.id {
        Some(id) => checked(id)?,
        None => jaeger.newest_request().await?,
    };
    let (page, trace) = jaeger.wait_for(&id, args.wait).await?;
    ui.line(if args.json { page.text } else { waterfall::render(ui, &trace) })?;
    Ok(ExitCode::SUCCESS)
}

fn address(place: &Place, args: &Args) -> String {
    let of_mesh = || Some(place.layout().ok()?.jaeger?.query_endpoint());
    let typed = args.jaeger.as_ref().map(|address| address.trim_end_matches('/').to_owned());
    typed.or_else(of_mesh).unwrap_or_else(|| jaeger::Ports::default().query_endpoint())
}

/// A trace id goes into an address, so it must be one.
fn checked(id: &str) -> anyhow::Result<String> {
    let valid = (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !valid {
        return Err(Failure::new(format!("`{id}` is no trace id: must be up to 32 hex digits")).into());
    }
    Ok(id.to_lowercase())
}

struct Jaeger {
    http: Http,
    address: String,
}

impl Jaeger {
    async fn get(&self, path: &str) -> anyhow::Result<Page> {
        self.http.get(&format!("{}{path}", self.address), PATIENCE).await.map_err(|error| {
            let failure = Failure::new(format!("Jaeger does not answer at {}", self.address));
            error.context(failure.next(format!("{}, then `weft up`", jaeger::HOW_TO_GET)))
        })
    }

    async fn newest(&self, count: usize) -> anyhow::Result<Vec<Trace>> {
        let service = Member::Gateway.service_name();
        let page = self.get(&format!("/api/traces?service={service}&limit={count}")).await?;
        let mut traces = waterfall::jaeger::parse(&page.text)?;
        traces.sort_by_key(|trace| std::cmp::Reverse(trace.start()));
        traces.truncate(count);
        Ok(traces)
    }

    async fn newest_request(&self) -> anyhow::Result<String> {
        let traces = self.newest(NEWEST).await?;
        let newest = traces.into_iter().find(Trace::is_request).map(|trace| trace.id);
        newest.ok_or_else(|| {
            Failure::new(format!("Jaeger at {} has no trace of a request", self.address))
                .next("ask something with `weft chat -p \"…\"`, and try again in a few seconds")
                .into()
        })
    }

    /// Gets a trace, asking again until it has arrived and has stopped growing.
    async fn wait_for(&self, id: &str, limit: Duration) -> anyhow::Result<(Page, Trace)> {
        let started = tokio::time::Instant::now();
        let mut before = 0;
        loop {
            let page = self.get(&format!("/api/traces/{id}")).await?;
            let found = if page.status == StatusCode::OK {
                waterfall::jaeger::parse(&page.text)?
            } else {
                Vec::new()
            };
            let late = started.elapsed() >= limit;
            match found.into_iter().next() {
                Some(trace) if late || settled(&trace, before) => return Ok((page, trace)),
                Some(trace) => before = trace.spans.len(),
                None if late => {
                    let what = format!("Jaeger at {} has no trace {id}", self.address);
                    let next = "list what it has with `weft trace --last 10`";
                    return Err(Failure::new(what).next(next).into());
                }
                None => {}
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// How long after its end a trace may still grow: services hand in their spans in batches.
const SETTLING: Duration = Duration::from_secs(6);

/// Whether a trace is whole: it ended a while ago, or everything that is known to be part of it has arrived.
fn settled(trace: &Trace, spans_before: usize) -> bool {
    let end = Duration::from_micros(trace.start().saturating_add(trace.duration()));
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(end);
    let orphans = trace.spans.iter().filter(|span| {
        !span.parent.as_ref().is_some_and(|parent| trace.spans.iter().any(|other| other.id == *parent))
    });
    // One orphan is the outermost span, whose parent is the client's. More mean that something is on its way.
    age > SETTLING || (orphans.count() == 1 && trace.spans.len() == spans_before && age > ASK_AGAIN)
}

fn list(ui: &Ui, traces: &[Trace]) -> std::io::Result<()> {
    if traces.is_empty() {
        ui.note("no traces");
    }
    for trace in traces {
        let root = trace.root().map_or("", |root| root.name.as_str());
        let ago = Duration::from_micros(trace.start());
        let ago = SystemTime::now().duration_since(UNIX_EPOCH + ago).unwrap_or_default();
        let errors = if trace.errors() > 0 { ui.paint("✗", Tone::Bad) } else { " ".to_owned() };
        let time = units::time(Duration::from_micros(trace.duration()));
        ui.line(format_args!(
            "{} {errors} {:>8} ago {time:>8} {:>3} spans  {root}",
            trace.id,
            units::time(ago),
            trace.spans.len()
        ))?;
    }
    Ok(())
}
