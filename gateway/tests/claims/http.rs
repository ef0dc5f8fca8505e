//! OpenAI's HTTP API, as a plain HTTP client sees it.
//!
//! Map: `client` (who asks), `chat`, `tools`, `completions`, `models` (what is answered), `stream` (events, byte by byte),
//! `refusals` (what is refused), `hostile` (bytes that no client sends), `secure` (TLS), `drain` (the end).

mod chat;
mod client;
mod completions;
mod drain;
mod hostile;
mod models;
mod refusals;
mod secure;
mod stream;
mod tools;
