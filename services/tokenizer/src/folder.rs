//! A Hugging Face model folder: which files are read, and what each must hold.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::error::LoadError;

/// The tokens that transformers hands to a chat template by name.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// One template of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSource {
    /// The file that holds it.
    pub path: PathBuf,
    /// Its name; `default` where it has none.
    pub name: String,
    /// The Jinja source.
    pub source: String,
}

/// A model folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if !path.is_dir() {
            return Err(LoadError::NoFolder { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The path of a file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The bytes of `tokenizer.json`.
    ///
    /// # Errors
    /// If it is missing or unreadable.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, LoadError> {
        let path = self.join("tokenizer.json");
        let expected = "the tokenizer in the `tokenizers` library's format";
        read(&path)?.ok_or(LoadError::NoFile { path, expected })
    }

    /// The tokens that templates know by name (`bos_token`, ...), from `tokenizer_config.json`.
    ///
    /// # Errors
    /// If the file is garbled or a token is neither a text nor an object with `content`.
    pub fn named_tokens(&self) -> Result<BTreeMap<String, String>, LoadError> {
        let Some(file) = self.tokenizer_config()? else { return Ok(BTreeMap::new()) };
        let mut tokens = BTreeMap::new();
        for key in NAMED_TOKENS {
            let token = match file.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::String(token)) => token,
                Some(Value::Object(object)) => match object.get("content") {
                    Some(Value::String(token)) => token,
                    other => return Err(file.wrong(format!("{key}.content"), other, "a text")),
                },
                other => return Err(file.wrong(key, other, "a text or an object with `content`")),
            };
            tokens.insert(key.to_owned(), token.clone());
        }
        Ok(tokens)
    }

    /// The chat templates: those in files of their own if there are any, else those of `tokenizer_config.json`.
    ///
    /// # Errors
    /// If a file is garbled, or the templates are neither a text nor a list of `{name, template}`.
    pub fn chat_templates(&self) -> Result<Vec<TemplateSource>, LoadError> {
        let in_files = self.template_files()?;
        if !in_files.is_empty() {
            return Ok(in_files);
        }
        let Some(file) = self.tokenizer_config()? else { return Ok(Vec::new()) };
        let of_file = |name: &str, source: &str| TemplateSource {
            path: file.path.clone(),
            name: name.to_owned(),
            source: source.to_owned(),
        };
        match file.get("chat_template") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(source)) => Ok(vec![of_file("default", source)]),
            Some(Value::Array(list)) => list
                .iter()
                .enumerate()
                .map(|(index, item)| match (&item["name"], &item["template"]) {
                    (Value::String(name), Value::String(source)) => Ok(of_file(name, source)),
                    _ => {
                        let key = format!("chat_template[{index}]");
                        Err(file.wrong(key, Some(item), "an object with the texts `name` and `template`"))
                    }
                })
                .collect(),
            other => Err(file.wrong("chat_template", other, "a text or a list of named templates")),
        }
    }

    /// The ids that end a text: `eos_token_id` of `generation_config.json`, else of `config.json`; `None` where
    /// neither says.
    ///
    /// # Errors
    /// If a file is garbled, or the value is neither an id nor a list of ids.
    pub fn end_token_ids(&self) -> Result<Option<Vec<u32>>, LoadError> {
        for name in ["generation_config.json", "config.json"] {
            let Some(file) = self.json(name)? else { continue };
            let value = match file.get("eos_token_id") {
                None | Some(Value::Null) => continue,
                Some(value) => value,
            };
            let listed = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            let ids: Option<Vec<u32>> = listed.iter().map(as_u32).collect();
            let wrong = || file.wrong("eos_token_id", Some(value), "an id or a list of ids");
            return ids.map(Some).ok_or_else(wrong);
        }
        Ok(None)
    }

    /// The rows of the model's embedding, from `config.json`; `None` where it does not say.
    ///
    /// # Errors
    /// If the file is garbled or the value is no whole number.
    pub fn model_vocabulary_size(&self) -> Result<Option<u32>, LoadError> {
        let Some(file) = self.json("config.json")? else { return Ok(None) };
        match file.get("vocab_size") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let wrong = || file.wrong("vocab_size", Some(value), "a whole number below 2^32");
                as_u32(value).map(Some).ok_or_else(wrong)
            }
        }
    }

    fn tokenizer_config(&self) -> Result<Option<JsonFile>, LoadError> {
        self.json("tokenizer_config.json")
    }

    /// `chat_template.jinja` and `additional_chat_templates/NAME.jinja`.
    fn template_files(&self) -> Result<Vec<TemplateSource>, LoadError> {
        let mut files = vec![("default".to_owned(), self.join("chat_template.jinja"))];
        let more = self.join("additional_chat_templates");
        let listed = match fs::read_dir(&more) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let listed = listed.map_err(|source| LoadError::Unreadable { path: more, source })?;
        let mut named: Vec<PathBuf> = listed.into_iter().map(|entry| entry.path()).collect();
        named.retain(|path| path.extension().is_some_and(|extension| extension == "jinja"));
        named.sort();
        let name_of = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        files.extend(named.into_iter().map(|path| (name_of(&path), path)));

        let mut templates = Vec::new();
        for (name, path) in files {
            let Some(bytes) = read(&path)? else { continue };
            match String::from_utf8(bytes) {
                Ok(source) => templates.push(TemplateSource { path, name, source }),
                Err(error) => {
                    let problem = error.utf8_error().to_string();
                    return Err(LoadError::Garbled { path, problem, expected: "a chat template in UTF-8" });
                }
            }
        }
        Ok(templates)
    }

    fn json(&self, name: &str) -> Result<Option<JsonFile>, LoadError> {
        let path = self.join(name);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(object) => Ok(Some(JsonFile { path, object })),
            Err(error) => {
                Err(LoadError::Garbled { path, problem: error.to_string(), expected: "a JSON object" })
            }
        }
    }
}

/// A file that holds a JSON object.
struct JsonFile {
    path: PathBuf,
    object: Map<String, Value>,
}

impl JsonFile {
    fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key)
    }

    fn wrong(&self, key: impl Into<String>, found: Option<&Value>, expected: &'static str) -> LoadError {
        let found = match found {
            None => "missing".to_owned(),
            Some(value @ (Value::Null | Value::Bool(_) | Value::Number(_))) => value.to_string(),
            Some(Value::String(_)) => "a text".to_owned(),
            Some(Value::Array(_)) => "a list".to_owned(),
            Some(Value::Object(_)) => "an object".to_owned(),
        };
        LoadError::WrongValue { path: self.path.clone(), key: key.into(), found, expected }
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// The bytes of a file, or `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Unreadable { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
