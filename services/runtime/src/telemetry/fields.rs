//! Names of spans and of their fields. What is not here is not recorded, prompt text least of all.

/// The target of every span: it is always let through the log filter, so that a quiet log does not end tracing.
///
/// `tracing::info_span!(target: fields::SPANS, "prefill", ...)`.
pub const SPANS: &str = "weft::span";

/// A call, incoming or outgoing.
pub const RPC: &str = "rpc";
/// A call by plain HTTP, incoming.
pub const HTTP: &str = "http";
/// `POST`.
pub const HTTP_METHOD: &str = "http.request.method";
/// `/v1/chat/completions`.
pub const HTTP_ROUTE: &str = "http.route";
/// `grpc`.
pub const RPC_SYSTEM: &str = "rpc.system.name";
/// The fully qualified method: `weft.tokenizer.v1.TokenizerService/Encode`.
pub const RPC_METHOD: &str = "rpc.method";
/// The code with which the call ended: `DEADLINE_EXCEEDED`.
pub const RPC_STATUS: &str = "rpc.response.status_code";
/// The code again, where it is a failure.
pub const ERROR_TYPE: &str = "error.type";
/// What is left of the call's deadline when it begins, in milliseconds.
pub const DEADLINE_MS: &str = "weft.deadline_ms";
/// The name of the peer that is called.
pub const PEER: &str = "weft.peer";
