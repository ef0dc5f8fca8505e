//! What a quantized folder says of itself; its tensors, checked against that.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use half::f16;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Codes, Format, Group, QuantizedMatrix, Store, WeightsError,
    store::{halves, read_json, singles},
};

/// The manifest's name in a folder.
pub const MANIFEST: &str = "weft_quantization.json";

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// What a quantized folder says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// The format that was asked for; single tensors may have another.
    pub format: Format,
    /// What made it: name and version.
    pub made_by: String,
    /// The weights it was made from: each file's name, and its SHA-256 in lower-case hex.
    pub source: BTreeMap<String, String>,
    /// How far all quantized tensors together are from those they were made from.
    pub relative_error: f64,
    /// The tensors that were quantized, by name; all others are as they were.
    pub tensors: BTreeMap<String, Entry>,
}

/// A tensor that was quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its format.
    pub format: Format,
    /// `[outputs, inputs]`
    pub shape: [usize; 2],
    /// How far it is from the tensor it was made from: the length of the difference over that tensor's length.
    pub relative_error: f64,
}

impl Manifest {
    /// A manifest of this version.
    pub(crate) fn new(format: Format, source: BTreeMap<String, String>) -> Self {
        let made_by = format!("weft {}", env!("CARGO_PKG_VERSION"));
        Self { version: VERSION, format, made_by, source, relative_error: 0.0, tensors: BTreeMap::new() }
    }

    /// A folder's manifest; none where the folder is not quantized.
    ///
    /// # Errors
    /// It cannot be read, is of another version, or says what cannot be.
    pub fn read(folder: &Path) -> Result<Option<Self>, WeightsError> {
        let file = folder.join(MANIFEST);
        // The version comes first: another one may have other keys.
        let value: Value = match read_json(&file) {
            Err(WeightsError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let version = value.get("version").unwrap_or(&Value::Null);
        if version != &Value::from(VERSION) {
            let (value, rule) = (version.to_string(), format!("must be {VERSION}, the version that is read"));
            return Err(WeightsError::Manifest { file, key: "version".into(), value, rule });
        }
        let manifest: Self = serde_json::from_value(value)
            .map_err(|error| WeightsError::Json { file: file.clone(), reason: error.to_string() })?;
        manifest.check(file).map(Some)
    }

    fn check(self, file: PathBuf) -> Result<Self, WeightsError> {
        for (name, entry) in &self.tensors {
            let [outputs, inputs] = entry.shape;
            let rule = match entry.format {
                _ if outputs == 0 || inputs == 0 => "must not be empty".to_owned(),
                Format::Int4(group) if !inputs.is_multiple_of(group.size()) => {
                    format!("its inputs must divide into groups of {}", group.size())
                }
                _ => continue,
            };
            let key = format!("tensors.{name}.shape");
            return Err(WeightsError::Manifest { file, key, value: format!("{:?}", entry.shape), rule });
        }
        Ok(self)
    }

    /// The tensors that are so far from what they were made from that the model's answers are in doubt, the worst first.
    pub fn doubtful(&self) -> Vec<(&str, &Entry)> {
        let doubtful = self.tensors.iter().filter(|(_, entry)| entry.is_doubtful());
        let mut found: Vec<_> = doubtful.map(|(name, entry)| (name.as_str(), entry)).collect();
        found.sort_by(|a, b| b.1.relative_error.total_cmp(&a.1.relative_error));
        found
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings, numbers and maps of them are JSON") + "\n"
    }
}

impl Entry {
    /// Whether it is so far from the tensor it was made from that the model's answers are in doubt.
    pub fn is_doubtful(&self) -> bool {
        self.relative_error > self.format.doubtful_error()
    }

    /// Reads the tensor `name`.
    ///
    /// # Errors
    /// The entry has another shape than `shape`; one of its parts is missing, or has another shape or type than the entry
    /// says.
    pub fn read(
        &self,
        store: &Store,
        name: &str,
        shape: [usize; 2],
    ) -> Result<QuantizedMatrix, WeightsError> {
        if self.shape != shape {
            let file = store.listing().with_file_name(MANIFEST);
            let (key, value) = (format!("tensors.{name}.shape"), format!("{:?}", self.shape));
            let rule = format!("must be {shape:?}, as config.json says");
            return Err(WeightsError::Manifest { file, key, value, rule });
        }
        let [outputs, inputs] = self.shape;
        let codes = match self.format {
            Format::Int8 => Codes::Int8 {
                values: bytes(store, name, Dtype::I8, &[outputs, inputs])?
                    .into_iter()
                    .map(u8::cast_signed)
                    .collect(),
                scales: singles(&bytes(store, &Format::scale_of(name), Dtype::F32, &[outputs])?).collect(),
            },
            Format::Int4(group) => read_int4(store, name, self.shape, group)?,
        };
        Ok(QuantizedMatrix { outputs, inputs, codes })
    }
}

fn read_int4(store: &Store, name: &str, shape: [usize; 2], group: Group) -> Result<Codes, WeightsError> {
    let [outputs, inputs] = shape;
    let by_group = |name: &str| -> Result<Vec<f16>, WeightsError> {
        let bytes = bytes(store, name, Dtype::F16, &[outputs, inputs / group.size()])?;
        Ok(halves(&bytes).map(f16::from_bits).collect())
    };
    Ok(Codes::Int4 {
        codes: bytes(store, name, Dtype::U8, &[outputs, inputs / 2])?,
        scales: by_group(&Format::scale_of(name))?,
        mins: by_group(&Format::min_of(name))?,
        group,
    })
}

fn bytes(store: &Store, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Vec<u8>, WeightsError> {
    store.read(name, shape, &[dtype]).map(|(_, bytes)| bytes)
}
