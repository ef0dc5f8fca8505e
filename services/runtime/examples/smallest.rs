//! The smallest service: a configuration of one key, health, reflection, drain. `--help` says how to start it.

use std::process::ExitCode;

use weft_runtime::{
    BoxError, Context, Services,
    config::{FromConfig, Section, not_empty},
};

struct Config {
    greeting: String,
}

impl FromConfig for Config {
    fn from_config(root: &mut Section<'_>) -> Self {
        Self { greeting: root.value("greeting", "hello".to_owned(), not_empty()) }
    }
}

async fn start(config: Config, context: Context) -> Result<Services, BoxError> {
    tracing::info!(service = context.service, greeting = config.greeting, "started");
    Ok(Services::new())
}

fn main() -> ExitCode {
    weft_runtime::main("smallest", start)
}
