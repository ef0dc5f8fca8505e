//! When a member may be used: what its admin port says at `/readyz`, and that it lives until then.

use std::{cell::RefCell, time::Duration};

use futures::future::try_join_all;
use http::StatusCode;
use serde::Deserialize;

use super::{Layout, Member, RunDir, Running};
use crate::{failure::Failure, http::Http, log_file, ui::Progress};

/// How often `/readyz` is asked. Often enough that a quick start looks quick.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of a dead service's log is shown.
const LAST_LINES: usize = 20;

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Whether it takes work.
    pub(crate) ready: bool,
    /// Why not, in one line; empty where it does.
    pub(crate) reasons: String,
    /// Its version, where it tells.
    pub(crate) version: Option<String>,
}

/// What `/readyz` answers.
#[derive(Deserialize)]
struct Report {
    version: String,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    name: String,
    reason: Option<String>,
}

/// Asks a member whether it is ready; `None` if it does not answer.
pub(crate) async fn ask(http: &Http, layout: &Layout, member: Member) -> Option<Word> {
    let page = match layout.jaeger {
        Some(ports) if member == Member::Jaeger => ports.health_page(),
        _ => layout.admin_page(member, "/readyz")?,
    };
    let page = http.get(&page, PATIENCE).await.ok()?;
    Some(Word::new(page.status == StatusCode::OK, &page.text))
}

impl Word {
    /// Jaeger's health page has another form than ours: then the status code is all that is known.
    fn new(ready: bool, body: &str) -> Self {
        let report: Option<Report> = serde_json::from_str(body).ok();
        let conditions = report.as_ref().map_or(&[][..], |report| &report.conditions);
        let reasons = conditions.iter().filter_map(|c| Some(format!("{}: {}", c.name, c.reason.as_ref()?)));
        let reasons = if ready { String::new() } else { reasons.collect::<Vec<_>>().join("; ") };
        let unknown = !ready && reasons.is_empty();
        let reasons = if unknown { "starting".to_owned() } else { reasons };
        Self { ready, reasons, version: report.map(|report| report.version) }
    }
}

/// Waits until every member is ready.
///
/// # Errors
/// One ends before; its exit and its last log lines are part of the error.
pub(crate) async fn all_ready(
    members: &mut [Running],
    layout: &Layout,
    run: &RunDir,
    progress: &RefCell<Progress>,
) -> anyhow::Result<()> {
    let http = Http::new();
    try_join_all(members.iter_mut().map(|running| one_ready(running, layout, run, progress, &http))).await?;
    Ok(())
}

async fn one_ready(
    running: &mut Running,
    layout: &Layout,
    run: &RunDir,
    progress: &RefCell<Progress>,
    http: &Http,
) -> anyhow::Result<()> {
    let member = running.member;
    let name = member.name();
    if running.is_new() {
        progress.borrow_mut().says(name, "starting");
    }
    tokio::select! {
        exit = running.exited() => {
            progress.borrow_mut().failed(name, &exit);
            Err(died(member, &exit, run).into())
        }
        () = until_ready(http, layout, member, progress) => {
            progress.borrow_mut().done(name, format_args!("ready (pid {})", running.identity.pid));
            Ok(())
        }
    }
}

async fn until_ready(http: &Http, layout: &Layout, member: Member, progress: &RefCell<Progress>) {
    loop {
        match ask(http, layout, member).await {
            Some(word) if word.ready => return,
            Some(word) => progress.borrow_mut().says(member.name(), word.reasons),
            None => {}
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// The error for a member that ended while it was needed.
pub(crate) fn died(member: Member, exit: &str, run: &RunDir) -> Failure {
    let log = run.log(member);
    let lines = log_file::last_lines(&log, LAST_LINES).unwrap_or_default();
    let heading = match lines.len() {
        0 => format!("its log {} is empty", log.display()),
        n => format!("the last {n} lines of {}:", log.display()),
    };
    let lines = lines.into_iter().map(|line| format!("  {line}"));
    Failure::new(format!("{member} {exit}")).details(std::iter::once(heading).chain(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_that_does_not_hold_is_a_reason() {
        let body = r#"{"service":"gateway","version":"1.2.3","ready":false,"conditions":[
            {"name":"start","holds":true,"reason":null},
            {"name":"tokenizer","holds":false,"reason":"is not reachable"},
            {"name":"safety","holds":false,"reason":"is not serving"}]}"#;
        let word = Word::new(false, body);
        assert_eq!(word.reasons, "tokenizer: is not reachable; safety: is not serving");
        assert_eq!(word.version.as_deref(), Some("1.2.3"));
    }

    #[test]
    fn a_page_of_another_form_tells_by_its_status_alone() {
        assert_eq!(Word::new(true, "{}"), Word { ready: true, reasons: String::new(), version: None });
        assert_eq!(Word::new(false, "?").reasons, "starting");
    }
}
