//! What `weft up` says when it cannot do what it was asked. The mesh that it starts is tested in `tests/`.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Runs `weft` in a folder of its own.
fn weft(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(line.split(' ')).current_dir(folder).env("CI", "true");
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Config files that say nothing: every service has its documented port.
fn empty_configs(folder: &Path) -> PathBuf {
    let configs = folder.join("configs");
    fs::create_dir(&configs).unwrap();
    for service in ["gateway", "tokenizer", "inference", "safety"] {
        fs::write(configs.join(service).with_extension("toml"), "").unwrap();
    }
    configs
}

#[test]
fn a_taken_port_is_named_with_its_service_and_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let configs = empty_configs(folder.path());
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    fs::write(configs.join("safety.toml"), format!("[server]\nlisten = \"127.0.0.1:{port}\"")).unwrap();
    let output = weft(folder.path(), "up --config-dir configs --run-dir run --no-jaeger");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("port {port} (gRPC of safety, 127.0.0.1:{port}) is taken by ")), "{said}");
    assert!(said.contains(&format!("(pid {})", std::process::id())), "{said}");
    assert!(said.contains("--port-offset"), "{said}");
    assert!(!folder.path().join("run/gateway.pid").exists(), "nothing may be started: {said}");
}

#[test]
fn a_missing_config_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = weft(folder.path(), "up --config-dir nowhere --run-dir run");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nowhere/gateway.toml cannot be read"), "{said}");
    assert!(said.contains("--config-dir"), "{said}");
}

/// Configs of the repository where `weft` looks for them, on ports that are free now.
fn configs_on_free_ports(folder: &Path) -> PathBuf {
    let configs = folder.join("deploy/config");
    fs::create_dir_all(&configs).unwrap();
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config"));
    // All are held until all are found, or one would be found twice.
    let held: Vec<TcpListener> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let mut free = held.iter().map(|listener| listener.local_addr().unwrap());
    for service in ["gateway", "tokenizer", "inference", "safety"] {
        let file = Path::new(service).with_extension("toml");
        let mut config: toml::Table = fs::read_to_string(repository.join(&file)).unwrap().parse().unwrap();
        let server = config["server"].as_table_mut().unwrap();
        for key in ["listen", "admin"] {
            server.insert(key.to_owned(), free.next().unwrap().to_string().into());
        }
        fs::write(configs.join(file), config.to_string()).unwrap();
    }
    fs::copy(repository.join("policy.toml"), configs.join("policy.toml")).unwrap();
    configs
}

/// The services' executables stand beside `weft` once `cargo build --bins` has run, as `make test` does first.
fn need_services() {
    for service in ["gateway", "tokenizer", "inference", "safety"] {
        let path = Path::new(env!("CARGO_BIN_EXE_weft")).with_file_name(format!("weft-{service}"));
        assert!(path.is_file(), "{} is missing: run `cargo build --bins` first", path.display());
    }
}

#[test]
fn every_problem_of_every_config_is_named_and_nothing_is_started() {
    need_services();
    let folder = tempfile::tempdir().unwrap();
    let configs = configs_on_free_ports(folder.path());
    for service in ["safety", "gateway"] {
        let path = configs.join(service).with_extension("toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}\n[drian]\nlimit = \"1s\"\n")).unwrap();
    }
    let output = weft(folder.path(), "up --run-dir run --no-jaeger");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("gateway.toml is not usable") && said.contains("safety.toml is not usable"),
        "{said}"
    );
    assert_eq!(said.matches("did you mean `drain`?").count(), 2, "{said}");
    assert!(!folder.path().join("run/tokenizer.pid").exists(), "{said}");
}

#[test]
fn a_service_that_dies_while_starting_is_shown_with_its_log_and_the_others_are_stopped() {
    need_services();
    let folder = tempfile::tempdir().unwrap();
    configs_on_free_ports(folder.path());
    fs::create_dir(folder.path().join("no-model")).unwrap();
    let output = weft(folder.path(), "up --run-dir run --no-jaeger --model no-model");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("exited with code 1") && said.contains("lines of run/"), "{said}");
    assert!(said.contains("no-model"), "the log names what is missing: {said}");
    let mut run = fs::read_dir(folder.path().join("run")).unwrap().map(|entry| entry.unwrap().path());
    let left = run.find(|path| path.extension().is_some_and(|end| end == "pid"));
    assert_eq!(left, None, "nobody may be left running: {said}");
}

#[test]
fn stopping_what_does_not_run_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let output = weft(folder.path(), "down --run-dir run");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing is running"));
}

#[test]
fn the_status_of_no_mesh_has_an_exit_code_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let configs = empty_configs(folder.path());
    // Ports that nobody has: they are free now, and no test of this machine counts on them.
    for (index, service) in ["gateway", "tokenizer", "inference", "safety"].into_iter().enumerate() {
        let ports = [1, 2].map(|port| u16::try_from(index * 2 + port).unwrap());
        let text =
            format!("[server]\nlisten = \"127.0.0.1:{}\"\nadmin = \"127.0.0.1:{}\"", ports[0], ports[1]);
        fs::write(configs.join(service).with_extension("toml"), text).unwrap();
    }
    let output = weft(folder.path(), "status --json --config-dir configs --run-dir run");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["serving"], false);
    assert_eq!(report["services"]["safety"]["health"], "unreachable");
    assert_eq!(report["services"]["safety"]["reason"], "not started");
}

#[test]
fn a_chat_without_a_gateway_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = weft(folder.path(), "chat -p hello --address http://127.0.0.1:1 --run-dir run");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("http://127.0.0.1:1 cannot answer") && said.contains("UNAVAILABLE"), "{said}");
    assert!(said.contains("weft up"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("run")).unwrap();
    fs::write(folder.path().join("run/gateway.log"), "a line of a log\n".repeat(100_000)).unwrap();
    let command =
        format!("'{}' logs gateway -n 100000 --run-dir run | head -n 1", env!("CARGO_BIN_EXE_weft"));
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &command])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(stderr(&output), "");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"a line of a log\n");
}
