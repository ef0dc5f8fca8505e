//! What a service's `/metrics` page says, as far as this program asks.

use std::time::Duration;

use crate::{
    http::Http,
    mesh::{Layout, Member},
};

/// How long the page may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The gauge that counts calls which have not ended.
const IN_FLIGHT: &str = "weft_rpc_server_calls_in_flight";

/// Calls that a service works on now, those of health checks and reflection not counted.
pub(crate) async fn in_flight(http: &Http, layout: &Layout, member: Member) -> Option<u64> {
    let page = http.get(&layout.admin_page(member, "/metrics")?, PATIENCE).await.ok()?;
    sum(&page.text, IN_FLIGHT)
}

/// The sum of a gauge over Weft's own methods, or `None` where the page does not have it. An open health watch is no
/// work.
fn sum(page: &str, name: &str) -> Option<u64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) if labels.contains("\"grpc.") => "0",
            Some(labels) => labels.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split(' ').next()?.parse::<u64>().ok()
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_summed_over_its_labels() {
        let page = "# TYPE a gauge\na{method=\"x } y\"} 2\na{method=\"z\"} 3\na{method=\"grpc.health.v1.Health/Watch\"} 1\na_total 9\nb 4\n";
        assert_eq!(sum(page, "a"), Some(5));
        assert_eq!(sum(page, "b"), Some(4));
        assert_eq!(sum(page, "c"), None);
    }
}
