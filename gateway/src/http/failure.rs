//! Failures in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, with the HTTP status that its clients act
//! on. They try again after 408, 409, 429 and 5xx, and wait as long as `retry-after` says.

use std::time::Duration;

use http::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderValue},
};
use serde::Serialize;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use weft_runtime::status::{self, reason};

/// Reasons of ours that say more than their code.
pub(super) const UNKNOWN_ROUTE: &str = "UNKNOWN_ROUTE";
pub(super) const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";
const CONTENT_FILTER: &str = "CONTENT_FILTER";
const UNKNOWN_MODEL: &str = "UNKNOWN_MODEL";
const ADAPTER_NOT_LOADED: &str = "ADAPTER_NOT_LOADED";

/// A failure, as the caller reads it.
#[derive(Debug, Serialize)]
pub(super) struct Shape {
    error: Told,
}

#[derive(Debug, Serialize)]
struct Told {
    message: String,
    r#type: &'static str,
    param: Option<String>,
    code: Option<String>,
}

/// The words of a failure.
pub(super) fn shape(status: &Status) -> Shape {
    let http = http_status(status);
    let param = status.get_details_bad_request().and_then(|wrong| {
        wrong.field_violations.into_iter().next().map(|violation| our_names(&violation.field))
    });
    Shape {
        error: Told {
            message: our_names(status.message()),
            r#type: kind(http),
            param: param.or_else(|| reason_is(status, UNKNOWN_MODEL).then(|| "model".to_owned())),
            code: code(status),
        },
    }
}

/// A failure instead of an answer. What a layer said in headers of its own (such as its quota) stays.
pub(super) fn answer(status: &Status, said: &HeaderMap) -> Response<Body> {
    let json = serde_json::to_vec(&shape(status)).unwrap_or_default();
    let mut response = Response::new(Body::new(http_body_util::Full::from(json)));
    *response.status_mut() = http_status(status);
    let headers = response.headers_mut();
    let of_grpc = |name: &str| name.starts_with("grpc-") || name.starts_with("content-");
    for (name, value) in said.iter().filter(|(name, _)| !of_grpc(name.as_str())) {
        headers.append(name.clone(), value.clone());
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    if let Some(after) = retry {
        // Whole seconds are what HTTP has; OpenAI's clients read the other one first.
        insert(headers, "retry-after", seconds(after));
        insert(headers, "retry-after-ms", after.as_millis());
    }
    response
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: impl ToString) {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        headers.insert(name, value);
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn reason_is(status: &Status, reason: &str) -> bool {
    status::reason_of(status).as_deref() == Some(reason)
}

fn http_status(status: &Status) -> StatusCode {
    match status.code() {
        Code::Ok => StatusCode::OK,
        Code::Unimplemented if reason_is(status, METHOD_NOT_ALLOWED) => StatusCode::METHOD_NOT_ALLOWED,
        Code::ResourceExhausted if reason_is(status, reason::MESSAGE_TOO_LARGE) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        // What the policy refuses is wrong with the request, as OpenAI sees it.
        Code::PermissionDenied if reason_is(status, CONTENT_FILTER) => StatusCode::BAD_REQUEST,
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::Unimplemented => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn kind(http: StatusCode) -> &'static str {
    match http {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        _ if http.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

/// A word for programs: OpenAI's own where it has one.
fn code(status: &Status) -> Option<String> {
    Some(match status::reason_of(status)?.as_str() {
        // An adapter is a model, as OpenAI sees it.
        UNKNOWN_MODEL | ADAPTER_NOT_LOADED => "model_not_found".to_owned(),
        ours => ours.to_ascii_lowercase(),
    })
}

/// Our contract's names of fields, as this API has them.
fn our_names(text: &str) -> String {
    const NAMES: [(&str, &str); 10] = [
        ("options.sampling.", ""),
        ("options.stop_strings", "stop"),
        ("options.stop.", ""),
        ("options.", ""),
        ("].parameters_json_schema", "].function.parameters"),
        ("].arguments_json", "].function.arguments"),
        ("].name", "].function.name"),
        ("tool_choice.name", "tool_choice.function.name"),
        ("inputs[", "input["),
        ("`inputs`", "`input`"),
    ];
    NAMES.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_names_of_this_api() {
        let wrong = status::violation("options.sampling.temperature", "is 200; must be from 0 to 100");
        let told = shape(&wrong).error;
        assert_eq!(told.param.as_deref(), Some("temperature"));
        assert_eq!(told.message, "`temperature` is 200; must be from 0 to 100");
        assert_eq!(our_names("`tools[2].name`"), "`tools[2].function.name`");
        assert_eq!(our_names("options.stop_strings[1]"), "stop[1]");
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let full = status::unavailable("GATEWAY_FULL", "full", Some(Duration::from_millis(1_500)));
        let answer = answer(&full, &HeaderMap::new());
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "2");
        assert_eq!(answer.headers()["retry-after-ms"], "1500");
        let told = shape(&full).error;
        assert_eq!((told.r#type, told.code.as_deref()), ("server_error", Some("gateway_full")));
    }
}
