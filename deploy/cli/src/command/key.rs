//! `weft key`: API keys for the gateway.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{cli::duration, ui::Ui};

/// Options of `weft key`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    work: Work,
}

/// What can be done with keys.
#[derive(Debug, clap::Subcommand)]
enum Work {
    /// Make a key: 256 random bits, printed once, and the lines for the gateway's keys file
    ///
    /// The file holds the key's SHA-256 only. The gateway takes a changed file within seconds; a key is withdrawn by taking
    /// its lines out.
    Create(Create),
}

/// Options of `weft key create`.
#[derive(Debug, clap::Args)]
struct Create {
    /// Whose key it is: what is used with it is charged to this tenant
    #[arg(long, value_parser = name)]
    tenant: String,
    /// What the key is called in errors and in the file [default: the tenant and four random digits]
    #[arg(long, value_parser = name)]
    id: Option<String>,
    /// A gRPC method that may be called, such as weft.gateway.v1.GatewayService/Chat; may end with * [default: all]
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// A model that may be used, or MODEL:ADAPTER; may end with * [default: all]
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// How long the key works, such as 90d [default: until it is taken out]
    #[arg(long, value_parser = duration)]
    expires: Option<Duration>,
    /// Append the lines to this file, and print the key alone
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

fn name(text: &str) -> Result<String, String> {
    let fits = !text.trim().is_empty() && text.len() <= 128;
    if fits { Ok(text.to_owned()) } else { Err("must have 1 to 128 bytes".to_owned()) }
}

/// Runs `weft key`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn run(ui: &Ui, args: &Args) -> anyhow::Result<ExitCode> {
    let Work::Create(args) = &args.work;
    create(ui, args)
}

fn create(ui: &Ui, args: &Create) -> anyhow::Result<ExitCode> {
    let key = format!("weft_{}", hex::encode(rand::random::<[u8; 32]>()));
    let entry = entry(args, &key)?;
    let mut out = std::io::stdout().lock();
    match &args.file {
        Some(file) => {
            append(file, &entry).with_context(|| format!("{} cannot be written", file.display()))?;
            writeln!(out, "{key}")?;
        }
        None => writeln!(out, "{key}\n\n{entry}")?,
    }
    ui.note("the key is shown this once; keep it where secrets are kept");
    Ok(ExitCode::SUCCESS)
}

/// The lines for the keys file.
fn entry(args: &Create, key: &str) -> anyhow::Result<String> {
    let text = |text: &str| toml::Value::from(text).to_string();
    let id = args.id.clone().unwrap_or_else(|| format!("{}-{:04x}", args.tenant, rand::random::<u16>()));
    let mut lines = vec![
        "[[keys]]".to_owned(),
        format!("id = {}", text(&id)),
        format!("tenant = {}", text(&args.tenant)),
        format!("sha256 = {}", text(&hex::encode(Sha256::digest(key)))),
    ];
    for (name, patterns) in [("methods", &args.methods), ("models", &args.models)] {
        if !patterns.is_empty() {
            lines.push(format!("{name} = {}", toml::Value::from(patterns.clone())));
        }
    }
    if let Some(time) = args.expires {
        let end = SystemTime::now().checked_add(time).and_then(|end| Timestamp::try_from(end).ok());
        let end = end.context("the key would expire after the year 9999")?;
        lines.push(format!("expires = {}", text(&end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())));
    }
    Ok(lines.join("\n"))
}

fn append(file: &Path, entry: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    // In one write, so that the gateway never reads half of it.
    file.write_all(format!("\n{entry}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(expires: Option<Duration>) -> Create {
        Create {
            tenant: "ac\"me".to_owned(),
            id: None,
            methods: vec!["weft.gateway.v1.GatewayService/Chat".to_owned()],
            models: Vec::new(),
            expires,
            file: None,
        }
    }

    #[test]
    fn the_lines_are_toml_without_the_key() {
        let entry = entry(&args(Some(Duration::from_secs(90 * 86_400))), "weft_secret").unwrap();
        assert!(!entry.contains("secret"), "{entry}");
        let table: toml::Table = entry.parse().unwrap();
        let key = &table["keys"][0];
        assert_eq!(key["tenant"].as_str(), Some("ac\"me"));
        assert!(key["id"].as_str().is_some_and(|id| id.starts_with("ac\"me-")));
        assert_eq!(key["sha256"].as_str(), Some(hex::encode(Sha256::digest("weft_secret")).as_str()));
        assert_eq!(key["methods"][0].as_str(), Some("weft.gateway.v1.GatewayService/Chat"));
        assert!(key["expires"].as_str().unwrap().parse::<Timestamp>().unwrap() > Timestamp::now());
        assert!(key.get("models").is_none());
    }

    #[test]
    fn keys_are_appended_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.toml");
        for _ in 0..2 {
            append(&file, &entry(&args(None), "weft_secret").unwrap()).unwrap();
        }
        let table: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        assert_eq!(table["keys"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn a_time_that_no_clock_reaches_is_refused() {
        assert!(entry(&args(Some(Duration::from_secs(u64::MAX))), "weft_secret").is_err());
    }
}
