//! Processes of this machine, named so that a pid that is used again is not taken for the old process.

use std::{fs, path::PathBuf, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

/// A process: its pid, and when it started. No two processes of one boot share both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The process id.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) started: u64,
}

/// What `/proc/PID/stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    started: u64,
}

impl Identity {
    /// Who has this pid now, if anyone. A zombie is nobody: it no longer runs.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = parse_stat(&fs::read_to_string(proc(pid, "stat")).ok()?)?;
        let gone = matches!(stat.state, 'Z' | 'X' | 'x');
        (!gone).then_some(Self { pid, started: stat.started })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if this very process still runs.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_running() {
            // It may end between the two lines; then there is nobody to tell, which is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// How long it has run.
    pub(crate) fn uptime(self) -> Option<Duration> {
        let ticks_per_second = u32::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let since_boot: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
        let started = Duration::from_secs(self.started) / ticks_per_second;
        Duration::try_from_secs_f64(since_boot).ok()?.checked_sub(started)
    }

    /// Memory that it has in RAM, in bytes.
    pub(crate) fn resident_bytes(self) -> Option<u64> {
        let status = fs::read_to_string(proc(self.pid, "status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    }
}

/// The name under which a process was started, without its folder.
pub(crate) fn program(pid: i32) -> Option<String> {
    let line = fs::read(proc(pid, "cmdline")).ok()?;
    let first = line.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(first).rsplit('/').next()?.to_owned();
    (!name.is_empty()).then_some(name)
}

fn proc(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// Reads `pid (name) state …`. The name may hold spaces and brackets, so fields are counted from the last bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `state` is field 3 and `starttime` field 22 of proc(5).
    let started = fields.nth(22 - 4)?.parse().ok()?;
    Some(Stat { state, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "4711 (a (strange) name) S 1 4711 4711 0 -1 4194304 152 0 0 0 1 2 3 4 20 0 1 0 987654 10 20 30";

    fn me() -> Identity {
        Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        assert_eq!(parse_stat(STAT), Some(Stat { state: 'S', started: 987_654 }));
    }

    #[test]
    fn a_cut_stat_line_is_nobody() {
        assert_eq!(parse_stat("4711 (weft) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_is_running() {
        assert!(me().is_running());
        assert!(me().uptime().is_some());
        assert!(me().resident_bytes().unwrap() > 0);
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_taken_for_the_old_one() {
        let earlier = Identity { started: me().started - 1, ..me() };
        assert!(!earlier.is_running());
    }

    #[test]
    fn a_dead_child_that_nobody_reaped_is_not_running() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(i32::try_from(child.id()).unwrap()).unwrap();
        identity.signal(Signal::SIGKILL);
        // Not reaped yet: the kernel keeps it as a zombie.
        while identity.is_running() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!identity.is_running());
    }
}
