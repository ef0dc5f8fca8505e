use std::fs;

use tempfile::TempDir;

use super::*;
use crate::verdict::{Action, Direction};

fn policy(action: &str) -> String {
    format!(
        "default = 'x'\n[policies.x.actions]\n'pii.email' = {{ prompt = '{action}', completion = '{action}' }}"
    )
}

struct Bench {
    folder: TempDir,
    source: Source,
    registry: weft_runtime::metrics::Metrics,
}

impl Bench {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("policy.toml");
        fs::write(&path, policy("flag")).unwrap();
        let registry = weft_runtime::metrics::Metrics::default();
        let source = Source::open(path, 1 << 14, Metrics::register(&registry)).await.unwrap();
        Self { folder, source, registry }
    }

    fn write(&self, text: &str) {
        fs::write(self.folder.path().join("policy.toml"), text).unwrap();
    }

    /// What is done about an e-mail address.
    fn action(&self) -> Action {
        let policies = self.source.in_force().load_full();
        let program = policies.find("").unwrap().program(Direction::Prompt);
        crate::window::screen(program, "ada@example.com").action()
    }

    fn metric(&self, line: &str) -> bool {
        self.registry.encode().lines().any(|found| found == line)
    }
}

#[tokio::test]
async fn a_changed_policy_file_is_taken() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.source.look().await, Look::Unchanged);
    bench.write(&policy("redact"));
    assert_eq!(bench.source.look().await, Look::Taken);
    assert_eq!(bench.action(), Action::Redact);
    assert!(bench.metric("weft_safety_policy_reloads_total{outcome=\"ok\"} 1"));
    let version = bench.source.in_force().load().version().to_owned();
    assert!(bench.metric(&format!("weft_safety_policy_version{{version=\"{version}\"}} 1")));
    assert_eq!(bench.registry.encode().matches("weft_safety_policy_version{").count(), 1);
}

#[tokio::test]
async fn garbage_keeps_the_policies_in_force_and_shows_in_the_metrics_until_it_is_gone() {
    let mut bench = Bench::new().await;
    bench.write("default = [");
    assert_eq!(bench.source.look().await, Look::Refused);
    assert_eq!(bench.source.look().await, Look::Unchanged);
    assert_eq!(bench.action(), Action::Flag);
    assert!(bench.metric("weft_safety_policy_stale 1"));
    assert!(bench.metric("weft_safety_policy_reloads_total{outcome=\"failed\"} 1"));
    fs::remove_file(bench.folder.path().join("policy.toml")).unwrap();
    assert_eq!(bench.source.look().await, Look::Refused);
    bench.write(&policy("block"));
    assert_eq!(bench.source.look().await, Look::Taken);
    assert_eq!(bench.action(), Action::Block);
    assert!(bench.metric("weft_safety_policy_stale 0"));
}

#[tokio::test]
async fn a_text_keeps_the_policies_that_it_started_with() {
    let mut bench = Bench::new().await;
    let before = bench.source.in_force().load_full();
    let mut window =
        crate::window::Window::new(Arc::clone(before.find("").unwrap().program(Direction::Prompt)));
    window.push("ada@exam");
    bench.write(&policy("block"));
    assert_eq!(bench.source.look().await, Look::Taken);
    assert_eq!(window.push("ple.com now").action(), Action::Flag);
}

#[tokio::test]
async fn a_file_that_is_missing_at_the_start_is_an_error_with_its_path() {
    let metrics = Metrics::register(&weft_runtime::metrics::Metrics::default());
    let error = Source::open("no/such/policy.toml".into(), 1 << 14, metrics).await.unwrap_err();
    assert!(error.to_string().starts_with("the policy file no/such/policy.toml cannot be read"), "{error}");
}
