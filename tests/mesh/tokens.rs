//! JSON Web Tokens of an issuer: who is let in, as whom, and until when.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use weft_proto::gateway::v1::ListModelsRequest;
use weft_tests::{
    Answer, Brain, Mesh, Room,
    caller::{chat, greedy},
    mesh::Plan,
};

use crate::{
    auth::{reason, until_shown},
    soon,
};

const ISSUER: &str = "https://issuer.example";

/// Whoever makes tokens, with the key of this id.
struct Issuer {
    kid: &'static str,
    key: Ed25519KeyPair,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self { kid, key: Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("is a key") }
    }

    fn key_set(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x}]}).to_string()
    }

    /// A token that ends in so many seconds.
    fn token(&self, seconds: i64, scope: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": "weft", "sub": "robot", "exp": now.saturating_add_signed(seconds), "scope": scope,
            "org": "acme",
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(json!({"alg": "EdDSA", "kid": self.kid})), part(claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes())))
    }
}

/// A mesh that lets in who has a token of this issuer, and counts what `acme` uses.
async fn mesh(issuer: &Issuer) -> (Mesh, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let (keys, limits) = (folder.path().join("jwks.json"), folder.path().join("quota.toml"));
    fs::write(&keys, issuer.key_set()).expect("is written");
    fs::write(&limits, "[[limits]]\ntenant = \"acme\"\nrequests = 100\n").expect("is written");
    let gateway = format!(
        "[quota]\nfile = {limits:?}\nwindow = \"1day\"\n[auth]\nmode = \"required\"\n\
         [auth.jwt]\nfile = {keys:?}\ncheck_every = \"100ms\"\nissuer = {ISSUER:?}\naudiences = [\"weft\"]\n\
         tenant_claim = \"org\"\n\
         [[auth.jwt.scopes]]\nname = \"ask\"\nmethods = [\"weft.gateway.v1.GatewayService/Chat\"]\n"
    );
    let plan = Plan { brain: Brain::Endless, inference: String::new(), gateway, runtime: Default::default() };
    (Mesh::start(plan).await, folder)
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("is a header"));
    request
}

async fn ask(mesh: &Mesh, token: &str) -> Result<Answer, Status> {
    soon("an answer", mesh.caller().answer(with(token, chat("Hello?", greedy(4))))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_issuer_lets_its_bearer_in_as_its_tenant() {
    let issuer = Issuer::new("one");
    let (mesh, _folder) = mesh(&issuer).await;
    let good = issuer.token(600, "ask more");
    assert_eq!(ask(&mesh, &good).await.expect("is let in").completion_tokens(), 4);
    let list = soon("a refusal", mesh.caller().client.list_models(with(&good, ListModelsRequest {}))).await;
    assert_eq!(reason(list), (Code::PermissionDenied, "METHOD_NOT_ALLOWED".to_owned()));
    assert_eq!(reason(ask(&mesh, &issuer.token(600, "more")).await).0, Code::PermissionDenied);

    let unauthenticated = |reason: &str| (Code::Unauthenticated, reason.to_owned());
    assert_eq!(reason(ask(&mesh, &issuer.token(-600, "ask")).await), unauthenticated("CREDENTIALS_EXPIRED"));
    let forged = Issuer::new("one").token(600, "ask");
    assert_eq!(reason(ask(&mesh, &forged).await), unauthenticated("CREDENTIALS_INVALID"));
    assert_eq!(reason(ask(&mesh, "no-token").await), unauthenticated("CREDENTIALS_INVALID"));

    let page = mesh.context(Room::Gateway).metrics.encode();
    for line in [
        r#"weft_gateway_authentications_total{way="token",outcome="accepted"} 3"#,
        r#"weft_gateway_authentications_total{way="token",outcome="expired"} 1"#,
        r#"weft_gateway_authentications_total{way="token",outcome="invalid"} 1"#,
        r#"weft_gateway_quota_used{tenant="acme",model="smollm2",limit="requests"} 1"#,
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_changes_its_keys_while_the_gateway_runs() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let (mesh, folder) = mesh(&old).await;
    let file = folder.path().join("jwks.json");
    assert_eq!(reason(ask(&mesh, &new.token(600, "ask")).await).0, Code::Unauthenticated);
    let metric =
        |outcome: &str| format!("weft_gateway_reloads_total{{file=\"token keys\",outcome=\"{outcome}\"}} 1");
    fs::write(&file, "{}").expect("is written");
    until_shown(&mesh, &metric("refused")).await;
    ask(&mesh, &old.token(600, "ask")).await.expect("the last usable key set stays in force");
    fs::write(&file, new.key_set()).expect("is written");
    until_shown(&mesh, &metric("taken over")).await;
    ask(&mesh, &new.token(600, "ask")).await.expect("the new key is in force");
    assert_eq!(reason(ask(&mesh, &old.token(600, "ask")).await).0, Code::Unauthenticated);
}
