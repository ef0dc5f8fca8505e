//! What is logged and traced: one filter for both.
//!
//! Filters of single layers can drop spans that another layer needs, so there is one global filter, and two things are
//! added to what the operator asks for: every span of ours passes, or a quiet log would end tracing; and what the
//! exporter itself is made of is silent, or it would trace and log itself.

use tracing_subscriber::{EnvFilter, filter::ParseError};

use super::fields;

/// Libraries below the exporter and the servers. Whoever names one in the filter hears it nevertheless.
const SILENT: [&str; 5] = ["h2", "hyper", "opentelemetry", "tonic", "tower"];

/// Reads a filter and adds to it.
pub(super) fn parse(text: &str) -> Result<EnvFilter, ParseError> {
    let mut directives = vec![text.to_owned(), format!("{}=info", fields::SPANS)];
    let named = |library: &str| text.split(',').any(|directive| directive.trim().starts_with(library));
    directives
        .extend(SILENT.into_iter().filter(|library| !named(library)).map(|library| format!("{library}=off")));
    EnvFilter::builder().parse(directives.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_means_nothing_is_refused() {
        assert!(parse("info").is_ok());
        assert!(parse("warn,weft_gateway=debug").is_ok());
        assert!(parse("info,weft=loudly").is_err());
    }
}
