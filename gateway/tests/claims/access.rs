//! What a key opens, whichever API it comes by.

use http::{Request, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::{
    gateway::v1::{GetModelRequest, ListModelsRequest},
    kserve::{
        ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest, ServerMetadataRequest,
        ServerReadyRequest,
    },
};

use crate::{
    doubles::inference::MODEL,
    exchange::exchange,
    front::{Front, ask},
};

/// The gateway, letting in these keys: their secrets (which are their ids, too) and what they are bound to.
async fn front(keys: &[(&str, &str)]) -> (Front, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let entry = |(secret, bound): &(&str, &str)| {
        let hash = hex::encode(Sha256::digest(secret));
        format!("[[keys]]\nid = {secret:?}\ntenant = \"acme\"\nsha256 = {hash:?}\n{bound}\n")
    };
    std::fs::write(&file, keys.iter().map(entry).collect::<String>()).unwrap();
    let config = format!("[auth]\nmode = \"required\"\n[auth.keys]\nfile = {file:?}\n");
    (Front::with(&config).await, folder)
}

fn with<T>(key: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("x-api-key", key.parse().unwrap());
    request
}

/// What a call by HTTP is answered. Its body is one that is refused by whoever reads it.
async fn http(front: &Front, key: &str, verb: &str, path: &str) -> (StatusCode, Value) {
    let call = Request::builder().method(verb).uri(path).header("x-api-key", key);
    exchange(front, call, &json!({})).await
}

fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn no_api_tells_of_a_model_to_a_key_of_others() {
    let (front, _folder) = front(&[("others", "models = [\"other*\"]"), ("ours", "")]).await;
    let (mut grpc, mut kserve) = (front.client.clone(), front.kserve());
    let denied = (Code::PermissionDenied, "MODEL_NOT_ALLOWED".to_owned());
    let get = GetModelRequest { model: MODEL.to_owned() };
    grpc.get_model(with("ours", get.clone())).await.unwrap();
    assert_eq!(reason(&grpc.get_model(with("others", get)).await.unwrap_err()), denied);
    // In this protocol, a model without a name is the only one.
    for name in [MODEL, ""] {
        let metadata = ModelMetadataRequest { name: name.to_owned(), ..Default::default() };
        kserve.model_metadata(with("ours", metadata.clone())).await.unwrap();
        assert_eq!(reason(&kserve.model_metadata(with("others", metadata)).await.unwrap_err()), denied);
        for (key, expected) in [("ours", true), ("others", false)] {
            let ready = ModelReadyRequest { name: name.to_owned(), ..Default::default() };
            let answer = kserve.model_ready(with(key, ready)).await.unwrap().into_inner();
            assert_eq!(answer.ready, expected, "{name:?} to {key}");
        }
    }
    let path = format!("/v1/models/{MODEL}");
    assert_eq!(http(&front, "ours", "GET", &path).await.1["id"], MODEL);
    let (status, told) = http(&front, "others", "GET", &path).await;
    assert_eq!((status, &told["error"]["code"]), (StatusCode::FORBIDDEN, &json!("model_not_allowed")));

    for (key, expected) in [("ours", 1), ("others", 0)] {
        let list = grpc.list_models(with(key, ListModelsRequest {})).await.unwrap().into_inner();
        assert_eq!(list.models.len(), expected);
        let (status, list) = http(&front, key, "GET", "/v1/models").await;
        assert_eq!((status, list["data"].as_array().unwrap().len()), (StatusCode::OK, expected));
    }
}

/// Whether a key may make a call at all; what comes of it is another matter.
fn lets_in(status: &Status) -> bool {
    reason(status) != (Code::PermissionDenied, "METHOD_NOT_ALLOWED".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_method_opens_what_stands_for_it_in_every_api() {
    let own = "methods = [\"weft.gateway.v1.GatewayService/";
    let chat = format!("{own}Chat\"]");
    let complete = format!("{own}Complete\"]");
    let models = format!("{own}GetModel\", \"weft.gateway.v1.GatewayService/ListModels\"]");
    let screen = "methods = [\"weft.safety.v1.SafetyService/Screen\"]";
    let (front, _folder) = front(&[
        ("chat", &chat),
        ("complete", &complete),
        ("models", &models),
        ("screen", screen),
        ("http", "methods = [\"v1/*\"]"),
    ])
    .await;
    for (verb, path, allowed) in [
        ("POST", "/v1/chat/completions", ["chat", "http"]),
        ("POST", "/v1/completions", ["complete", "http"]),
        ("POST", "/v1/moderations", ["screen", "http"]),
        ("GET", "/v1/models", ["models", "http"]),
        ("GET", "/v1/models/m", ["models", "http"]),
    ] {
        for key in ["chat", "complete", "models", "screen", "http"] {
            let (status, told) = http(&front, key, verb, path).await;
            let denied = status == StatusCode::FORBIDDEN && told["error"]["code"] == "method_not_allowed";
            assert_eq!(denied, !allowed.contains(&key), "{key}: {path}: {told}");
        }
    }
    let (_, told) = http(&front, "models", "POST", "/v1/chat/completions").await;
    let message = "\"models\" may not call v1/chat/completions (weft.gateway.v1.GatewayService/Chat)";
    assert_eq!(told["error"]["message"], message);

    let mut kserve = front.kserve();
    for (key, infers, lists) in [("complete", true, false), ("models", false, true), ("http", false, false)] {
        let infer = kserve.model_infer(with(key, ModelInferRequest::default())).await.unwrap_err();
        assert_eq!(lets_in(&infer), infers, "{key}: {infer:?}");
        let metadata = kserve.server_metadata(with(key, ServerMetadataRequest {})).await;
        assert_eq!(metadata.is_ok(), lists, "{key}: {metadata:?}");
        let chat = front.client.clone().chat(with(key, ask(""))).await.unwrap_err();
        assert!(!lets_in(&chat), "{key}: {chat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_of_the_open_inference_protocol_need_no_key() {
    let (front, _folder) = front(&[("ours", "")]).await;
    let mut kserve = front.kserve();
    assert!(kserve.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(kserve.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let metadata = kserve.server_metadata(ServerMetadataRequest {}).await.unwrap_err();
    assert_eq!(reason(&metadata), (Code::Unauthenticated, "CREDENTIALS_MISSING".to_owned()));
    let ready = kserve.model_ready(ModelReadyRequest::default()).await.unwrap_err();
    assert_eq!(ready.code(), Code::Unauthenticated);
}
