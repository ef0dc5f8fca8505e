//! Fact 8, readiness, reflection and the admin port.

use axum::body::{Body, to_bytes};
use futures::StreamExt as _;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tower::ServiceExt as _;
use weft_runtime::{Context, RuntimeConfig, Services, admin, status};

use crate::support::{Served, encode, server};

const NAME: &str = "weft.tokenizer.v1.TokenizerService";

async fn check(served: &Served, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(served.outgoing()).check(request).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

/// Fact 8: tonic's reporter starts the empty name as SERVING.
#[tokio::test]
async fn nothing_is_serving_before_the_start_is_over_and_every_condition_holds() {
    let (go, started) = tokio::sync::oneshot::channel();
    let served = Served::starting(RuntimeConfig::default(), async {
        let _: () = started.await?;
        Ok(Services::new().add(server()))
    });
    let model = served.context.health.condition("model", "warming up");
    assert_eq!(check(&served, "").await, Ok(ServingStatus::NotServing));
    assert_eq!(check(&served, NAME).await, Ok(ServingStatus::NotServing));
    let early = served.client().encode(encode("a")).await.unwrap_err();
    assert_eq!((early.code(), status::reason_of(&early).as_deref()), (Code::Unavailable, Some("STARTING")));

    go.send(()).unwrap();
    // The first answer of the service itself: it has started, but its model is not warm.
    while served.client().encode(encode("a")).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(check(&served, "").await, Ok(ServingStatus::NotServing));
    assert_eq!(check(&served, "nobody").await, Err(Code::NotFound));

    model.holds();
    assert_eq!(check(&served, "").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&served, NAME).await, Ok(ServingStatus::Serving));
    model.fails("out of memory");
    assert_eq!(check(&served, "").await, Ok(ServingStatus::NotServing));
}

async fn get(context: &Context, path: &str) -> (u16, String) {
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let response = admin::router(context).oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn readiness_says_which_condition_fails_and_why() {
    let served = Served::new().await;
    let model = served.context.health.condition("model", "warming up");
    let (code, page) = get(&served.context, "/readyz").await;
    let report: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!((code, &report["ready"]), (503, &false.into()));
    let failing: Vec<_> =
        report["conditions"].as_array().unwrap().iter().filter(|one| one["holds"] == false).collect();
    assert_eq!(failing.len(), 1);
    assert_eq!((&failing[0]["name"], &failing[0]["reason"]), (&"model".into(), &"warming up".into()));

    model.holds();
    assert_eq!(get(&served.context, "/readyz").await.0, 200);
    assert_eq!(get(&served.context, "/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(get(&served.context, "/nowhere").await.0, 404);
    let (code, page) = get(&served.context, "/metrics").await;
    assert_eq!(code, 200);
    assert!(page.contains("weft_build_info{service=\"tokenizer\"") && page.ends_with("# EOF\n"), "{page}");
}

#[tokio::test]
async fn reflection_lists_the_contracts_and_describes_health_too() {
    let served = Served::new().await;
    let ask = async |question: MessageRequest| {
        let request = ServerReflectionRequest { message_request: Some(question), ..Default::default() };
        let mut client = ServerReflectionClient::new(served.outgoing());
        let stream = futures::stream::iter([request]).chain(futures::stream::pending());
        let answer =
            client.server_reflection_info(stream).await.unwrap().into_inner().message().await.unwrap();
        answer.unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in [NAME, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(names.contains(&name), "{names:?}");
        let symbol = ask(MessageRequest::FileContainingSymbol(name.to_owned())).await;
        assert!(matches!(symbol, MessageResponse::FileDescriptorResponse(_)), "{name}: {symbol:?}");
    }
}
