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
