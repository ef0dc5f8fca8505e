//! `weft logs`: the logs of the mesh, merged by time.

use std::{collections::BTreeMap, convert::Infallible, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;

use super::Place;
use crate::{
    failure::Failure,
    log_file::{self, Follower},
    mesh::Member,
    ui::{Tone, Ui},
};

/// How often files are looked at for new lines.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Options of `weft logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whose logs; all if none is named
    #[arg(value_name = "SERVICE", value_enum)]
    members: Vec<Member>,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many lines of the past
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: usize,
}

/// A line of a log, with what it is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    time: String,
    member: Member,
    text: String,
}

/// Runs `weft logs`.
///
/// # Errors
/// There is no log, or one cannot be read.
pub(crate) async fn run(ui: &Ui, place: &Place, args: &Args) -> anyhow::Result<ExitCode> {
    let asked: &[Member] = if args.members.is_empty() { &Member::ALL } else { &args.members };
    let sources: BTreeMap<Member, PathBuf> =
        asked.iter().map(|member| (*member, place.run.log(*member))).collect();
    // Followers start before the past is read: a line in between shows twice rather than not at all.
    let followed = args.follow.then(|| followers(&sources));
    if !args.follow && !sources.values().any(|path| path.exists()) {
        let what = format!("there are no logs in {}", place.run.path().display());
        return Err(Failure::new(what).next("start the mesh with `weft up`").into());
    }
    let past = past(&sources, args.lines)?;
    show(ui, &past, sources.len() > 1)?;
    match followed {
        Some(followed) => follow_from(ui, followed).await.map(|never| match never {}),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Shows what is written to these logs from now on, for as long as it is polled.
///
/// # Errors
/// A log cannot be read, or the terminal is gone.
pub(crate) async fn follow(ui: &Ui, sources: &BTreeMap<Member, PathBuf>) -> anyhow::Result<Infallible> {
    follow_from(ui, followers(sources)).await
}

fn followers(sources: &BTreeMap<Member, PathBuf>) -> Vec<(Member, Follower)> {
    sources.iter().map(|(member, path)| (*member, Follower::from_end(path.clone()))).collect()
}

async fn follow_from(ui: &Ui, mut followers: Vec<(Member, Follower)>) -> anyhow::Result<Infallible> {
    let several = followers.len() > 1;
    loop {
        let mut lines = Vec::new();
        for (member, follower) in &mut followers {
            let new = follower.new_lines().with_context(|| format!("the log of {member} cannot be read"))?;
            lines.extend(timed(*member, new));
        }
        lines.sort_by(|a, b| a.time.cmp(&b.time));
        show(ui, &lines, several)?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn past(sources: &BTreeMap<Member, PathBuf>, count: usize) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (member, path) in sources.iter().filter(|(_, path)| path.exists()) {
        let last = log_file::last_lines(path, count)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        lines.extend(timed(*member, last));
    }
    lines.sort_by(|a, b| a.time.cmp(&b.time));
    Ok(lines.split_off(lines.len().saturating_sub(count)))
}

/// Gives each line its time. A line without one belongs to the line before it.
fn timed(member: Member, texts: Vec<String>) -> Vec<Line> {
    let mut last = String::new();
    let line = |text: String| {
        if let Some(time) = time(&text) {
            time.clone_into(&mut last);
        }
        Line { time: last.clone(), member, text }
    };
    texts.into_iter().map(line).collect()
}

/// The time of a line, at its start or as `"timestamp"` or `"ts"` of a JSON object: RFC 3339 in UTC, so that it sorts as text.
fn time(line: &str) -> Option<&str> {
    let json = ["\"timestamp\":\"", "\"ts\":\""].into_iter().find_map(|key| Some(line.split_once(key)?.1));
    let candidate = json.unwrap_or(line);
    let end = candidate.find(|c: char| !c.is_ascii_digit() && !matches!(c, '-' | ':' | '.' | 'T'));
    let time = &candidate[..end.unwrap_or(candidate.len())];
    let shape = "0000-00-00T00:00:00";
    let fits =
        |(found, wanted): (char, char)| if wanted == '0' { found.is_ascii_digit() } else { found == wanted };
    (time.len() >= shape.len() && time.chars().zip(shape.chars()).all(fits)).then_some(time)
}

fn show(ui: &Ui, lines: &[Line], several: bool) -> std::io::Result<()> {
    for line in lines {
        if several {
            ui.print(ui.paint(format_args!("{:<10} ", line.member), Tone::Accent(line.member.index())))?;
        }
        ui.print_foreign(&line.text)?;
        ui.print("\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_in_text_and_in_json() {
        assert_eq!(time("2026-01-02T03:04:05.678901Z  INFO x"), Some("2026-01-02T03:04:05.678901"));
        assert_eq!(
            time(r#"{"timestamp":"2026-01-02T03:04:05Z","level":"INFO"}"#),
            Some("2026-01-02T03:04:05")
        );
        assert_eq!(time("  at line 3"), None);
        assert_eq!(time("2026"), None);
    }

    #[test]
    fn a_line_without_a_time_stays_with_the_one_before_it() {
        let lines =
            ["2026-01-02T03:04:05Z error", "  because", "2026-01-02T03:04:06Z next"].map(str::to_owned);
        let times: Vec<String> =
            timed(Member::Safety, lines.to_vec()).into_iter().map(|line| line.time).collect();
        assert_eq!(times, ["2026-01-02T03:04:05", "2026-01-02T03:04:05", "2026-01-02T03:04:06"]);
    }

    #[test]
    fn logs_are_merged_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let sources = BTreeMap::from([
            (Member::Gateway, write("a", "2026-01-02T03:04:05Z one\n2026-01-02T03:04:07Z three\n")),
            (Member::Safety, write("b", "2026-01-02T03:04:06Z two\n")),
        ]);
        let texts: Vec<String> = past(&sources, 2).unwrap().into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["2026-01-02T03:04:06Z two", "2026-01-02T03:04:07Z three"]);
    }
}
