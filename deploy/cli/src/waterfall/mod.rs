//! A trace as a picture for the terminal.
//!
//! Map: `jaeger` (reads what the query API answers), `tree` (who called whom, and whose time it was), `render` (draws it).
//! Pure: text in, text out.

pub(crate) mod jaeger;
mod render;
mod tree;

pub(crate) use jaeger::Trace;
pub(crate) use render::render;
