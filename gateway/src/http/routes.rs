//! Which call is answered by what.

use axum::{
    Router,
    routing::{get, post},
};
use http::Method;
use tonic::Code;
use tower::util::BoxCloneSyncService;
use weft_runtime::{server::Routes, status::with_reason};

use super::{Desk, Refusal, chat, completions, embeddings, failure, models, moderations};

/// Everything that can be called here. Whatever else is called has a name of its own, so that labels stay few.
const OPERATIONS: [&str; 6] = [
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/moderations",
    "GET /v1/models",
    "GET /v1/models/{model}",
];
const UNKNOWN: &str = "unknown http";

/// The name of a call.
pub(super) fn operation(verb: &Method, path: &str) -> &'static str {
    let matches = |operation: &&str| {
        operation.split_once(' ').is_some_and(|(known, route)| {
            known == verb.as_str()
                && match route.strip_suffix("{model}") {
                    Some(start) => path.strip_prefix(start).is_some_and(|name| !name.is_empty()),
                    None => path == route,
                }
        })
    };
    OPERATIONS.into_iter().find(|operation| matches(operation)).unwrap_or(UNKNOWN)
}

/// The routes.
pub(super) fn routes(desk: Desk) -> Routes {
    let router = Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/moderations", post(moderations::moderate))
        .route("/v1/models", get(models::list))
        // Names of models may hold slashes.
        .route("/v1/models/{*model}", get(models::get))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .with_state(desk);
    BoxCloneSyncService::new(
        tower::ServiceBuilder::new()
            .map_response(|answer: axum::response::Response| answer.map(tonic::body::Body::new))
            .service(router),
    )
}

async fn unknown(request: axum::extract::Request) -> Refusal {
    let message = format!("there is no {} {} here", request.method(), request.uri().path());
    with_reason(Code::NotFound, failure::UNKNOWN_ROUTE, message).into()
}

async fn not_allowed(request: axum::extract::Request) -> Refusal {
    let message = format!("{} cannot be called with {}", request.uri().path(), request.method());
    with_reason(Code::Unimplemented, failure::METHOD_NOT_ALLOWED, message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_stands_for_a_method_that_a_key_can_be_bound_to() {
        for operation in OPERATIONS {
            let (_, path) = operation.split_once(" /").unwrap();
            assert!(crate::inbound::auth::same(path).is_some(), "{operation}");
        }
    }

    #[test]
    fn only_what_can_be_called_has_a_name_of_its_own() {
        assert_eq!(operation(&Method::POST, "/v1/chat/completions"), "POST /v1/chat/completions");
        assert_eq!(operation(&Method::GET, "/v1/models/a/b"), "GET /v1/models/{model}");
        for path in ["/v1/models/", "/", "/v1/chat", "/v1/models2"] {
            assert_eq!(operation(&Method::GET, path), UNKNOWN, "{path}");
        }
        assert_eq!(operation(&Method::GET, "/v1/chat/completions"), UNKNOWN);
    }
}
