//! How the mesh is stopped: the front door first, so that what it still has to say finds the services behind it
//! alive; the traces last, so that the last spans arrive.

use std::{cell::RefCell, time::Duration};

use futures::future::join_all;
use nix::sys::signal::Signal;

use super::{Layout, Member, RunDir, Running};
use crate::{http::Http, metrics, ui::Progress};

/// Who is stopped together, in order.
const STAGES: [&[Member]; 3] =
    [&[Member::Gateway], &[Member::Tokenizer, Member::Inference, Member::Safety], &[Member::Jaeger]];

/// How often those who remain are counted.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long the kernel may take to end a killed process (one that is being swapped or dumped, say).
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How members end.
#[derive(Debug)]
pub(crate) struct Stopping<'a> {
    /// Where their pid files are.
    pub(crate) run: &'a RunDir,
    /// Where they listen, if that is known.
    pub(crate) layout: Option<&'a Layout>,
    /// Where to say how far it is.
    pub(crate) progress: &'a RefCell<Progress>,
    /// How long a member may take to finish its work.
    pub(crate) limit: Duration,
}

impl Stopping<'_> {
    /// Stops these members and gives those that had to be killed.
    pub(crate) async fn stop(&self, members: Vec<Running>) -> Vec<Member> {
        let mut members = members;
        let mut killed = Vec::new();
        for stage in STAGES {
            let (now, later) = members.into_iter().partition(|running| stage.contains(&running.member));
            members = later;
            let now: Vec<Running> = now;
            let outcomes = join_all(now.into_iter().map(|running| self.stop_one(running))).await;
            killed.extend(outcomes.into_iter().flatten());
        }
        // If the state stays, the next command is only told of a mesh that does not run.
        let _ = self.run.forget_state();
        killed
    }

    /// Gives the member if it had to be killed.
    async fn stop_one(&self, mut running: Running) -> Option<Member> {
        let (member, name) = (running.member, running.member.name());
        running.identity.signal(Signal::SIGTERM);
        self.progress.borrow_mut().says(name, "draining");
        let drained = tokio::time::timeout(self.limit, async {
            tokio::select! {
                exit = running.exited() => exit,
                never = self.count_remaining(member) => match never {},
            }
        });
        let drained = drained.await;
        if drained.is_err() {
            running.identity.signal(Signal::SIGKILL);
            let _ = tokio::time::timeout(KILL_LIMIT, running.exited()).await;
        }
        // If the pid file stays, the next command finds that its process does not run.
        let _ = self.run.forget(member);
        match drained {
            Ok(_) => {
                self.progress.borrow_mut().done(name, "stopped");
                None
            }
            Err(_) => {
                let word = format!("killed: it was not done after {:?}", self.limit);
                self.progress.borrow_mut().failed(name, word);
                Some(member)
            }
        }
    }

    /// Says how many requests a member still works on, for as long as it takes.
    async fn count_remaining(&self, member: Member) -> std::convert::Infallible {
        let http = Http::new();
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let Some(layout) = self.layout else { continue };
            if let Some(count) = metrics::in_flight(&http, layout, member).await {
                self.progress.borrow_mut().says(member.name(), format_args!("draining, {count} in flight"));
            }
        }
    }
}
