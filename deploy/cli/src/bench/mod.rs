//! Load, and what it measures.
//!
//! Map: `arrivals` (when requests should be sent), `prompts` (what they ask), `target` (whom they ask), `load` (keeps them
//! in flight), `measure` (what one request, and all of them, took), `report` (table and JSON).
//!
//! Rules: the same seed gives the same prompts and arrivals; time counts from the moment at which a request should have
//! been sent; what was not measured is not in the report.

pub(crate) mod arrivals;
pub(crate) mod load;
pub(crate) mod measure;
pub(crate) mod prompts;
pub(crate) mod report;
pub(crate) mod target;
