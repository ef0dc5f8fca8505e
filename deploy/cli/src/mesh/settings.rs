//! What was asked for when the mesh was started. A repair (`weft up` beside a mesh that runs in part) uses it again.

use std::{
    collections::BTreeMap,
    env,
    path::{self, Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{Member, jaeger};
use crate::failure::Failure;

/// Where config files are, from the folder that holds `deploy/`.
pub(crate) const CONFIG_DIR: &str = "deploy/config";

/// What a command line says about the mesh; what it leaves out is decided by the mesh that runs, else by defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// The folder of the services' config files.
    pub(crate) config_dir: Option<PathBuf>,
    /// Added to every port.
    pub(crate) port_offset: Option<u16>,
    /// Whether to leave Jaeger out.
    pub(crate) no_jaeger: bool,
    /// The folder of the model, for the tokenizer and for inference.
    pub(crate) model: Option<PathBuf>,
    /// The type of its weights in memory.
    pub(crate) dtype: Option<String>,
    /// Keys of a service's config.
    pub(crate) set: Vec<Override>,
}

/// `SERVICE.SECTION.KEY=VALUE`: one key of one service's config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    member: Member,
    variable: String,
    value: String,
}

/// What the mesh was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The folder from which the services are started: relative paths in their configs start here.
    pub(crate) working_dir: PathBuf,
    /// The folder of their config files.
    pub(crate) config_dir: PathBuf,
    /// Added to every port.
    pub(crate) port_offset: u16,
    /// Whether Jaeger belongs to the mesh.
    pub(crate) jaeger: bool,
    /// Environment of one service, beside what it inherits.
    pub(crate) overrides: BTreeMap<Member, BTreeMap<String, String>>,
}

impl Settings {
    /// What the flags ask for, on a machine where nothing runs yet.
    ///
    /// # Errors
    /// The working directory is gone.
    pub(crate) fn fresh(flags: &Flags) -> anyhow::Result<Self> {
        let working_dir = env::current_dir().context("the working directory is not known")?;
        let config_dir = flags.config_dir.as_deref().unwrap_or(Path::new(CONFIG_DIR));
        Ok(Self {
            config_dir: path::absolute(config_dir).context("the config folder is not known")?,
            port_offset: flags.port_offset.unwrap_or(0),
            jaeger: !flags.no_jaeger && jaeger::is_built(&working_dir),
            overrides: overrides(flags)?,
            working_dir,
        })
    }

    /// What the flags ask for beside a mesh that runs (in part) with `self`.
    ///
    /// # Errors
    /// They ask for something else than what runs.
    pub(crate) fn confirmed(self, flags: &Flags) -> anyhow::Result<Self> {
        let mut conflicts = Vec::new();
        let asked = Self::fresh(flags)?;
        if flags.config_dir.is_some() && asked.config_dir != self.config_dir {
            conflicts.push(format!("its config folder is {}", self.config_dir.display()));
        }
        if flags.port_offset.is_some() && asked.port_offset != self.port_offset {
            conflicts.push(format!("its port offset is {}", self.port_offset));
        }
        if flags.no_jaeger && self.jaeger {
            conflicts.push("it has Jaeger".to_owned());
        }
        for (member, asked) in &asked.overrides {
            let running = self.overrides.get(member);
            let differs =
                asked.iter().filter(|(key, value)| running.and_then(|r| r.get(*key)) != Some(*value));
            conflicts.extend(differs.map(|(key, value)| format!("{member} does not run with {key}={value}")));
        }
        if conflicts.is_empty() {
            return Ok(self);
        }
        let what = "a mesh with other settings is running";
        Err(Failure::new(what)
            .details(conflicts)
            .next("stop it with `weft down`, or use another --run-dir")
            .into())
    }
}

fn overrides(flags: &Flags) -> anyhow::Result<BTreeMap<Member, BTreeMap<String, String>>> {
    let mut all: BTreeMap<Member, BTreeMap<String, String>> = BTreeMap::new();
    let mut set = |member, key: &str, value: &str| {
        all.entry(member).or_default().insert(key.to_owned(), value.to_owned());
    };
    if let Some(folder) = &flags.model {
        let folder = path::absolute(folder).context("the model folder is not known")?;
        set(Member::Inference, "WEFT__MODEL__FOLDER", &folder.to_string_lossy());
        set(Member::Tokenizer, "WEFT__TOKENIZER__FOLDER", &folder.to_string_lossy());
    }
    if let Some(dtype) = &flags.dtype {
        set(Member::Inference, "WEFT__MODEL__DTYPE", dtype);
    }
    for one in &flags.set {
        set(one.member, &one.variable, &one.value);
    }
    Ok(all)
}

impl Override {
    /// Reads `SERVICE.SECTION.KEY=VALUE`.
    ///
    /// # Errors
    /// In words for the command line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let form = "must have the form SERVICE.SECTION.KEY=VALUE, such as inference.kv_cache.block_size=32";
        let (path, value) = text.split_once('=').ok_or(form)?;
        let (service, key) = path.split_once('.').ok_or(form)?;
        let member =
            Member::SERVICES.into_iter().find(|member| member.name() == service).ok_or_else(|| {
                format!(
                    "`{service}` is no service; must be one of {}",
                    Member::SERVICES.map(Member::name).join(", ")
                )
            })?;
        if key.split('.').any(str::is_empty) || !key.contains('.') {
            return Err(form.to_owned());
        }
        let variable = format!("WEFT__{}", key.replace('.', "__").to_uppercase());
        Ok(Self { member, variable, value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_becomes_a_variable_of_its_service() {
        let one = Override::parse("inference.kv_cache.block_size=32").unwrap();
        assert_eq!(one.member, Member::Inference);
        assert_eq!((one.variable.as_str(), one.value.as_str()), ("WEFT__KV_CACHE__BLOCK_SIZE", "32"));
    }

    #[test]
    fn an_override_that_is_none_says_what_one_looks_like() {
        for text in ["inference", "inference.model=x", "inference.a..b=x", "=x"] {
            assert!(Override::parse(text).unwrap_err().contains("SERVICE.SECTION.KEY=VALUE"), "{text}");
        }
        assert!(Override::parse("engine.a.b=x").unwrap_err().contains("`engine` is no service"));
    }

    #[test]
    fn a_repair_keeps_the_settings_of_the_mesh_that_runs() {
        let flags = Flags {
            port_offset: Some(7),
            dtype: Some("f32".to_owned()),
            no_jaeger: true,
            ..Flags::default()
        };
        let running = Settings::fresh(&flags).unwrap();
        assert_eq!(running.clone().confirmed(&Flags::default()).unwrap(), running);
        assert_eq!(running.clone().confirmed(&flags).unwrap(), running);
    }

    #[test]
    fn a_repair_with_other_settings_is_refused() {
        let running = Settings::fresh(&Flags { no_jaeger: true, ..Flags::default() }).unwrap();
        let other = Flags { port_offset: Some(7), dtype: Some("f32".to_owned()), ..Flags::default() };
        let error = running.confirmed(&other).unwrap_err();
        let shown = format!("{:?}", error.downcast_ref::<Failure>().unwrap());
        assert!(
            shown.contains("its port offset is 0") && shown.contains("WEFT__MODEL__DTYPE=f32"),
            "{shown}"
        );
    }
}
