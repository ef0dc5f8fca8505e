//! Chat templates: a conversation becomes the text that the model was trained on.
//!
//! The Jinja dialect is transformers': see `environment`. A template comes with the model, so it is not trusted to
//! end: it runs on a budget of work.

mod environment;
mod python_json;

use std::collections::BTreeMap;

use minijinja::{Environment, ErrorKind, Value, value::Serde};
use serde_json::Map;

use crate::{
    error::{Error, LoadError},
    folder::TemplateSource,
};

/// The template for a conversation without tools, and for one with tools where there is no better.
const DEFAULT: &str = "default";
/// The template for a conversation with tools.
const TOOL_USE: &str = "tool_use";

/// A model's templates, compiled.
#[derive(Debug)]
pub struct ChatTemplates {
    environment: Environment<'static>,
    fuel: u64,
}

impl ChatTemplates {
    /// Compiles a model's templates; `None` if it has none. `named_tokens` are what a
    /// template may call `bos_token` and so on; `fuel` bounds the work of one rendering.
    ///
    /// # Errors
    /// A template that does not compile (file, name, line), or templates of which none is the default.
    pub fn compile(
        sources: Vec<TemplateSource>,
        named_tokens: BTreeMap<String, String>,
        fuel: u64,
    ) -> Result<Option<Self>, LoadError> {
        let Some(first) = sources.first() else { return Ok(None) };
        if !sources.iter().any(|template| template.name == DEFAULT) {
            let names = sources.iter().map(|template| template.name.clone()).collect();
            return Err(LoadError::NoDefaultTemplate { path: first.path.clone(), names });
        }
        let mut environment = environment::like_transformers(fuel);
        for (name, token) in named_tokens {
            environment.add_global(name, token);
        }
        for TemplateSource { path, name, source } in sources {
            let source = environment::without_generation_tags(&source);
            environment.add_template_owned(name.clone(), source).map_err(|source| LoadError::Template {
                path,
                name,
                source,
            })?;
        }
        Ok(Some(Self { environment, fuel }))
    }

    /// Renders a conversation's variables (`messages`, `tools`, `add_generation_prompt`).
    ///
    /// # Errors
    /// What the template raises, what it cannot work with, or that it ran out of fuel.
    pub fn render(&self, variables: Map<String, serde_json::Value>) -> Result<String, Error> {
        let with_tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        let tool_use = with_tools.then(|| self.environment.get_template(TOOL_USE).ok()).flatten();
        let template = match tool_use {
            Some(template) => template,
            None => self.environment.get_template(DEFAULT).map_err(Error::Unrenderable)?,
        };
        template.render(Value::from(Serde(variables))).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: minijinja::Error) -> Error {
        if let Some(message) = environment::raised(&error) {
            return Error::Refused(message);
        }
        match error.kind() {
            ErrorKind::OutOfFuel => Error::OutOfFuel { fuel: self.fuel },
            _ => Error::Unrenderable(error),
        }
    }
}

#[cfg(test)]
mod tests;
