//! Who is asking, and what they may do.

use std::{fs, path::PathBuf};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;
use weft_proto::gateway::v1::{ChatRequest, ListModelsRequest};
use weft_tests::{
    Answer, Brain, Mesh, Room,
    caller::{channel, chat, greedy},
    mesh::Plan,
};

use crate::soon;

/// A keys file that a test writes.
struct Keys {
    folder: TempDir,
}

impl Keys {
    fn new(entries: &str) -> Self {
        let keys = Self { folder: tempfile::tempdir().expect("a folder") };
        keys.write(entries);
        keys
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("keys.toml")
    }

    fn write(&self, entries: &str) {
        fs::write(self.file(), entries).expect("is written");
    }

    /// A mesh that lets in who has one of them.
    async fn mesh(&self) -> Mesh {
        let gateway = format!(
            "[auth]\nmode = \"required\"\n[auth.keys]\nfile = {:?}\ncheck_every = \"100ms\"\n",
            self.file()
        );
        Mesh::start(Plan {
            brain: Brain::Endless,
            inference: String::new(),
            gateway,
            runtime: Default::default(),
        })
        .await
    }
}

fn entry(id: &str, secret: &str, more: &str) -> String {
    let hash = Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("[[keys]]\nid = {id:?}\ntenant = {id:?}\nsha256 = {hash:?}\n{more}\n")
}

async fn ask(mesh: &Mesh, header: Option<(&'static str, &'static str)>) -> Result<Answer, Status> {
    let mut request = Request::new(chat("Hello?", greedy(4)));
    if let Some((name, value)) = header {
        request.metadata_mut().insert(name, value.parse().expect("is a header"));
    }
    soon("an answer", mesh.caller().answer(request)).await
}

/// Why a call is refused.
pub(crate) fn reason<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("is refused");
    let info = status.get_details_error_info().expect("has an ErrorInfo");
    assert_eq!(info.domain, "weft");
    (status.code(), info.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_shows_a_key_is_let_in() {
    let mesh = Keys::new(&entry("acme", "s-acme", "")).mesh().await;
    for header in [("authorization", "Bearer s-acme"), ("x-api-key", "s-acme")] {
        assert_eq!(ask(&mesh, Some(header)).await.unwrap().completion_tokens(), 4);
    }
    let unauthenticated = |reason: &str| (Code::Unauthenticated, reason.to_owned());
    assert_eq!(reason(ask(&mesh, None).await), unauthenticated("CREDENTIALS_MISSING"));
    let wrong = ask(&mesh, Some(("authorization", "Bearer s-wrong"))).await;
    assert!(!format!("{wrong:?}").contains("s-wrong"), "{wrong:?}");
    assert_eq!(reason(wrong), unauthenticated("CREDENTIALS_INVALID"));
    let basic = ask(&mesh, Some(("authorization", "Basic cy1hY21l"))).await;
    assert_eq!(reason(basic), unauthenticated("CREDENTIALS_MALFORMED"));

    let page = mesh.context(Room::Gateway).metrics.encode();
    for line in [
        r#"weft_gateway_authentications_total{way="key",outcome="accepted"} 2"#,
        r#"weft_gateway_authentications_total{way="key",outcome="invalid"} 1"#,
        r#"weft_gateway_authentications_total{way="nothing",outcome="missing"} 1"#,
        r#"weft_gateway_authentications_total{way="nothing",outcome="malformed"} 1"#,
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("s-acme") && !page.contains("s-wrong"), "a secret is on the page");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_need_no_key() {
    let mesh = Keys::new(&entry("acme", "s-acme", "")).mesh().await;
    let mut health = HealthClient::new(channel(mesh.connector(Room::Gateway).clone()));
    soon("an answer", health.check(HealthCheckRequest::default())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_can_be_closed() {
    let keys = Keys::new(&entry("acme", "s-acme", ""));
    let gateway =
        format!("[auth]\nmode = \"required\"\nopen_methods = []\n[auth.keys]\nfile = {:?}\n", keys.file());
    let mesh = Mesh::start(Plan {
        brain: Brain::Endless,
        inference: String::new(),
        gateway,
        runtime: Default::default(),
    })
    .await;
    let mut health = HealthClient::new(channel(mesh.connector(Room::Gateway).clone()));
    let status = soon("a refusal", health.check(HealthCheckRequest::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut request = Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("x-api-key", "s-acme".parse().unwrap());
    soon("an answer", health.check(request)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_the_methods_and_models_that_it_lists() {
    let entries = entry("lists", "s-lists", "methods = [\"weft.gateway.v1.GatewayService/List*\"]")
        + &entry("other", "s-other", "models = [\"other*\"]")
        + &entry("base", "s-base", "models = [\"smollm2\"]");
    let mesh = Keys::new(&entries).mesh().await;
    let denied = |reason: &str| (Code::PermissionDenied, reason.to_owned());
    assert_eq!(reason(ask(&mesh, Some(("x-api-key", "s-lists"))).await), denied("METHOD_NOT_ALLOWED"));
    assert_eq!(reason(ask(&mesh, Some(("x-api-key", "s-other"))).await), denied("MODEL_NOT_ALLOWED"));
    ask(&mesh, Some(("x-api-key", "s-base"))).await.unwrap();

    let models = async |key: &str| {
        let mut request = Request::new(ListModelsRequest {});
        request.metadata_mut().insert("x-api-key", key.parse().unwrap());
        let answer = soon("a list", mesh.caller().client.list_models(request)).await;
        answer.map(|answer| answer.into_inner().models.len())
    };
    assert_eq!(models("s-lists").await.unwrap(), 1);
    assert_eq!(models("s-other").await.unwrap(), 0, "a model that it may not use");

    let mut request = Request::new(ChatRequest {
        options: Some(weft_proto::gateway::v1::GenerationOptions {
            adapter_id: Some("mine".to_owned()),
            ..greedy(4)
        }),
        ..chat("Hello?", greedy(4))
    });
    request.metadata_mut().insert("x-api-key", "s-base".parse().unwrap());
    let adapter = soon("a refusal", mesh.caller().answer(request)).await;
    assert_eq!(reason(adapter), denied("MODEL_NOT_ALLOWED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_added_and_withdrawn_while_the_gateway_runs() {
    let keys = Keys::new(&entry("acme", "s-acme", ""));
    let mesh = keys.mesh().await;
    let key = |secret| Some(("x-api-key", secret));
    ask(&mesh, key("s-acme")).await.unwrap();
    keys.write("[[keys]]\nthis is no TOML");
    let metric =
        |outcome: &str| format!("weft_gateway_reloads_total{{file=\"API keys\",outcome=\"{outcome}\"}} 1");
    until_shown(&mesh, &metric("refused")).await;
    ask(&mesh, key("s-acme")).await.expect("the last usable file stays in force");
    keys.write(&entry("zenith", "s-zenith", ""));
    until_shown(&mesh, &metric("taken over")).await;
    ask(&mesh, key("s-zenith")).await.unwrap();
    assert_eq!(ask(&mesh, key("s-acme")).await.unwrap_err().code(), Code::Unauthenticated);
}

/// Waits until a line is on the gateway's metrics page.
pub(crate) async fn until_shown(mesh: &Mesh, line: &str) {
    let shown = async {
        while !mesh.context(Room::Gateway).metrics.encode().contains(line) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    soon(line, shown).await;
}
