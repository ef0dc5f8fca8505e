//! Logs and traces: one global filter, one exporter, names that are constants.

pub mod fields;
