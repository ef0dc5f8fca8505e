//! A whole process, on sockets and signals: the example `smallest`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn program() -> Command {
    let tests = std::env::current_exe().unwrap();
    let program: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples/smallest");
    assert!(program.exists(), "{} is missing: cargo builds it with the tests", program.display());
    Command::new(program)
}

fn run(config: &str, arguments: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config).unwrap();
    program().arg("--config").arg(file.path()).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_bad_configuration_is_told_plainly_and_ends_with_64() {
    let output = run("greeting = 7\n[server]\nlisten = \"nowhere\"\n[drian]\n", &[]);
    assert_eq!(output.status.code(), Some(64));
    let told = stderr(&output);
    let lines: Vec<_> =
        told.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "server.listen = \"nowhere\" must be an address and port such as \"127.0.0.1:50051\"",
        "greeting = 7 must be a text",
        "drian unknown key; did you mean `drain`?",
    ];
    assert_eq!(lines, expected, "{told}");
}

#[test]
fn a_configuration_can_be_checked_and_a_wrong_argument_is_64_too() {
    let good = "[server]\nlisten = \"127.0.0.1:0\"\n";
    let output = run(good, &["--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(" is usable\n"));
    assert_eq!(run("nonsense = 1", &["--check"]).status.code(), Some(64));
    assert_eq!(run(good, &["--wrong"]).status.code(), Some(64));
    assert_eq!(program().output().unwrap().status.code(), Some(64), "no configuration at all");
    let version = program().arg("--version").output().unwrap();
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("weft-smallest {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = run(&format!("[server]\nlisten = \"{address}\"\n"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("server.listen = {address} is in use")), "{}", stderr(&output));
}

/// A process that runs, and what it says.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
    _config: tempfile::NamedTempFile,
}

impl Running {
    fn start(config: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let mut command = program();
        command.arg("--config").arg(file.path()).env("RUST_BACKTRACE", "0").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, _config: file }
    }

    /// The next line with this in it; the process is killed by the drop if it never comes.
    fn line(&mut self, with: &str) -> String {
        let mut said = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.contains(with) {
                return line;
            }
            said.push(line);
        }
        panic!("it ended without saying {with:?}, but: {said:#?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn ends_with(mut self) -> i32 {
        for line in self.lines.by_ref() {
            line.unwrap();
        }
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// The value after `key=` in a line of the log.
fn field(line: &str, key: &str) -> String {
    let value = line.split(&format!("{key}=")).nth(1).unwrap_or_else(|| panic!("no {key} in {line}"));
    value.split_whitespace().next().unwrap().trim_matches('"').to_owned()
}

const PORTS: &str = "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n";

#[test]
fn a_process_says_where_it_listens_serves_its_admin_port_and_drains_on_sigterm() {
    let mut running = Running::start(&format!("{PORTS}[drain]\nannounce = \"0s\"\n"));
    let line = running.line("starting");
    assert_eq!(
        (field(&line, "service"), field(&line, "version")),
        ("smallest".into(), env!("CARGO_PKG_VERSION").into())
    );
    running.line("started");
    let mut admin = TcpStream::connect(field(&line, "admin")).unwrap();
    admin.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
    TcpStream::connect(field(&line, "listen")).unwrap();
    running.signal(Signal::SIGTERM);
    running.line("stopped");
    assert_eq!(running.ends_with(), 0);
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut running = Running::start(&format!("{PORTS}[drain]\nannounce = \"10m\"\n"));
    running.line("started");
    running.signal(Signal::SIGINT);
    running.line("Announcing");
    running.signal(Signal::SIGTERM);
    running.line("stopped at once by a second signal, SIGTERM");
    assert_eq!(running.ends_with(), 1);
}

#[test]
fn a_collector_that_is_not_there_costs_nothing_but_spans() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let telemetry = format!("[telemetry]\notlp_endpoint = \"http://{nobody}\"\nlog_format = \"json\"\n");
    let mut running = Running::start(&format!("{PORTS}[drain]\nannounce = \"0s\"\n{telemetry}"));
    let line: serde_json::Value = serde_json::from_str(&running.line("started")).unwrap();
    assert_eq!(line["greeting"], "hello");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ends_with(), 0);
}
