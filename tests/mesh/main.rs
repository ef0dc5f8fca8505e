//! What the whole mesh promises. One binary, because libtorch links slowly.

mod answers;
mod auth;
mod drain;
mod faults;
mod quota;
mod refusals;
mod resume;
mod structured;
mod tokens;

use std::time::Duration;

/// Nothing here waits for a time, so whatever takes this long hangs.
const HANGS: Duration = Duration::from_secs(120);

/// Fails where a future hangs.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(HANGS, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} hangs"),
    }
}
