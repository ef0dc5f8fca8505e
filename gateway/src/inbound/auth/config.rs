//! `[auth]`: who is let in.

use weft_runtime::config::{FromConfig, Section, any, not_empty};

use super::{jwt::JwtConfig, pattern::Patterns};
use crate::inbound::watched::FileConfig;

/// Whether callers must say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everybody is let in.
    Off,
    /// Only who shows a valid credential of a kind that is configured.
    Required,
}

/// Who is let in.
#[derive(Clone, Debug)]
pub(crate) struct AuthConfig {
    pub(crate) mode: Mode,
    /// Calls that anybody may make.
    pub(crate) open: Patterns,
    /// `[auth.keys]`: API keys.
    pub(crate) keys: Option<FileConfig>,
    /// `[auth.jwt]`: JSON Web Tokens.
    pub(crate) jwt: Option<JwtConfig>,
    /// `[auth.certificates]`: client certificates.
    pub(crate) certificates: Option<CertificatesConfig>,
}

/// Probes of orchestrators have no keys, and reflection says no more than the repository does.
const OPEN: [&str; 4] = [
    "grpc.health.v1.Health/*",
    "grpc.reflection.*",
    "inference.GRPCInferenceService/ServerLive",
    "inference.GRPCInferenceService/ServerReady",
];

impl FromConfig for AuthConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let config = Self {
            mode: section.choice("mode", Mode::Off, &[("off", Mode::Off), ("required", Mode::Required)]),
            open: Patterns::read(section, "open_methods", &OPEN),
            keys: section.optional_section::<KeysConfig>("keys").map(|keys| keys.0),
            jwt: section.optional_section("jwt"),
            certificates: section.optional_section("certificates"),
        };
        let ways = config.keys.is_some() || config.jwt.is_some() || config.certificates.is_some();
        match (config.mode, ways) {
            (Mode::Required, false) => {
                section.problem(
                    "mode",
                    "\"required\"",
                    "must have [auth.keys], [auth.jwt] or [auth.certificates] below it",
                );
            }
            // Whoever writes down a way to be let in means it to be asked for.
            (Mode::Off, true) => {
                section.problem("mode", "\"off\"", "must be \"required\" with a way to be let in below it")
            }
            (Mode::Required, true) | (Mode::Off, false) => {}
        }
        config
    }
}

struct KeysConfig(FileConfig);

impl FromConfig for KeysConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self(FileConfig::required(section))
    }
}

/// How the names in client certificates become tenants.
#[derive(Clone, Debug)]
pub(crate) struct CertificatesConfig {
    /// Whether a name that is not listed is its own tenant; else it is not let in.
    pub(crate) unlisted: bool,
    /// `[[auth.certificates.names]]`.
    pub(crate) names: Vec<CertificateName>,
}

/// A name in a client certificate, and what it stands for.
#[derive(Clone, Debug)]
pub(crate) struct CertificateName {
    pub(crate) name: String,
    /// `None`: the name itself.
    pub(crate) tenant: Option<String>,
    pub(crate) methods: Patterns,
    pub(crate) models: Patterns,
}

impl FromConfig for CertificatesConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let config = Self { unlisted: section.value("unlisted", true, any()), names: section.list("names") };
        if !config.unlisted && config.names.is_empty() {
            section.problem(
                "unlisted",
                false,
                "must be true unless [[auth.certificates.names]] lists who is let in",
            );
        }
        config
    }
}

impl FromConfig for CertificateName {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self {
            name: section.required("name", not_empty()),
            tenant: section.optional("tenant", not_empty()),
            methods: Patterns::read(section, "methods", &["*"]),
            models: Patterns::read(section, "models", &["*"]),
        }
    }
}
