//! The weights of a folder, taken tensor by tensor, each checked against the shape that config.json leads to. Matrices come
//! as the folder holds them, or in fewer bits where the configuration asks for that.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tch::{Kind, Tensor};
use weft_weights::{Dtype, Entry, Format, MANIFEST, Manifest, QuantizedMatrix, Recipe, Store, WeightsError};

use super::LoadError;

/// Buffers of transformers 4 that are computed here from config.json.
const IGNORED_SUFFIX: &str = ".rotary_emb.inv_freq";

/// The tensors of a folder that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Weights {
    store: Store,
    /// What a quantized folder says of itself.
    manifest: Option<Manifest>,
    /// How matrices of plain weights are quantized, and by how many threads.
    recipe: Option<(Recipe, usize)>,
    left: BTreeSet<String>,
    /// The type that plain tensors are converted to.
    kind: Kind,
    taken: u64,
    /// Quantized matrices that are far from what they were made from.
    doubtful: Vec<(String, Entry)>,
}

/// A matrix `[outputs, inputs]`.
#[derive(Debug)]
pub(super) enum Weight {
    /// On the CPU, in the model's type.
    Plain(Tensor),
    /// In fewer bits.
    Quantized(QuantizedMatrix),
}

impl Weights {
    /// Opens a folder's files and reads their headers. Tensors come as stored until [`Self::convert_to`].
    ///
    /// # Errors
    /// A file is missing, damaged or cut short, or the manifest of quantized weights names a tensor that is not there.
    pub(super) fn open(folder: &Path) -> Result<Self, LoadError> {
        let weights = Self::of(Store::open(folder)?, Manifest::read(folder)?);
        let mut listed = weights.manifest.iter().flat_map(|manifest| manifest.tensors.keys());
        match listed.find(|name| !weights.left.contains(*name)) {
            Some(name) => {
                let (file, tensor) = (weights.path().into(), name.clone());
                Err(WeightsError::MissingTensor { file, tensor }.into())
            }
            None => Ok(weights),
        }
    }

    /// Opens one file of plain weights, of any name.
    ///
    /// # Errors
    /// It is missing, damaged or cut short.
    pub(super) fn open_file(path: PathBuf) -> Result<Self, LoadError> {
        Ok(Self::of(Store::open_file(path)?, None))
    }

    fn of(store: Store, manifest: Option<Manifest>) -> Self {
        let left = store.names().map(str::to_owned).collect();
        let (recipe, doubtful) = (None, Vec::new());
        Self { store, manifest, recipe, left, kind: Kind::Float, taken: 0, doubtful }
    }

    /// The single file, or the index.
    pub(super) fn path(&self) -> &Path {
        self.store.listing()
    }

    /// The type that `name` is stored in, if it is there and in a type of plain weights.
    pub(super) fn stored_kind(&self, name: &str) -> Option<Kind> {
        self.store.describe(name).and_then(|(dtype, _)| kind_of(dtype))
    }

    /// From now on plain tensors come in this type.
    pub(super) fn convert_to(&mut self, kind: Kind) {
        self.kind = kind;
    }

    /// From now on matrices come in this format. A folder that has it already is taken as it is.
    ///
    /// # Errors
    /// The folder's weights are in another format.
    pub(super) fn quantize_to(&mut self, format: Format, threads: usize) -> Result<(), LoadError> {
        match &self.manifest {
            Some(manifest) if manifest.format != format => Err(LoadError::OtherFormat {
                file: self.store.listing().with_file_name(MANIFEST),
                found: manifest.format,
                asked: format,
            }),
            Some(_) => Ok(()),
            None => {
                self.recipe = Some((Recipe::new(format), threads));
                Ok(())
            }
        }
    }

    /// The format that matrices come in; none where they come as plain weights.
    pub(super) fn format(&self) -> Option<Format> {
        let stored = self.manifest.as_ref().map(|manifest| manifest.format);
        stored.or(self.recipe.map(|(recipe, _)| recipe.format()))
    }

    /// Takes a tensor of plain weights, on the CPU.
    ///
    /// # Errors
    /// It is missing, has another shape or a type that is not read, or the file cannot be read.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let (dtype, bytes) = self.store.read_plain(name, shape)?;
        self.count(name, shape);
        let size: Vec<i64> = shape.iter().map(|length| *length as i64).collect();
        let kind = kind_of(dtype).unwrap_or(Kind::Float);
        Ok(Tensor::f_from_data_size(&bytes, &size, kind)?.f_to_kind(self.kind)?)
    }

    /// Takes a matrix `[outputs, inputs]`, in fewer bits where the folder has it so or the recipe says so.
    ///
    /// # Errors
    /// As [`Self::take`]; its parts do not fit the manifest; it has no form in the format.
    pub(super) fn take_matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, LoadError> {
        let stored = self.manifest.as_ref().and_then(|manifest| manifest.tensors.get(name)).cloned();
        let (matrix, entry) = match (stored, self.recipe) {
            (Some(entry), _) => (entry.read(&self.store, name, shape)?, entry),
            (None, Some((recipe, threads))) if recipe.format_of(name, &shape).is_some() => {
                recipe.quantize(&self.store, name, shape, threads)?
            }
            _ => return self.take(name, &shape).map(Weight::Plain),
        };
        for part in entry.format.parts_of(name) {
            self.left.remove(&part);
        }
        self.count(name, &shape);
        if entry.is_doubtful() {
            self.doubtful.push((name.into(), entry));
        }
        Ok(Weight::Quantized(matrix))
    }

    fn count(&mut self, name: &str, shape: &[usize]) {
        self.left.remove(name);
        self.taken += shape.iter().product::<usize>() as u64;
    }

    /// Leaves a matrix aside that the model does not need although it has a place for it.
    pub(super) fn ignore(&mut self, name: &str) {
        for format in Format::ALL {
            for part in format.parts_of(name) {
                self.left.remove(&part);
            }
        }
    }

    /// The file that holds a tensor.
    pub(super) fn file_of(&self, name: &str) -> &Path {
        self.store.file_of(name)
    }

    /// Ends the reading: how many values were taken.
    ///
    /// # Errors
    /// A tensor is left over: it has no place in `architecture`.
    pub(super) fn finish(self, architecture: &str) -> Result<u64, LoadError> {
        self.warn();
        match self.left.iter().find(|name| !name.ends_with(IGNORED_SUFFIX)) {
            None => Ok(self.taken),
            Some(tensor) => Err(LoadError::UnknownTensor {
                file: self.store.file_of(tensor).into(),
                tensor: tensor.clone(),
                architecture: architecture.into(),
            }),
        }
    }

    /// Says loudly that answers will suffer.
    fn warn(&self) {
        let stored = self.manifest.as_ref().map(|manifest| manifest.format);
        let made = self.recipe.map(|(recipe, _)| recipe.format());
        if let Some(caution) = stored.or(made).and_then(Format::caution) {
            tracing::warn!("{caution}");
        }
        let worst = self.doubtful.iter().max_by(|a, b| a.1.relative_error.total_cmp(&b.1.relative_error));
        if let Some((tensor, entry)) = worst {
            tracing::warn!(
                tensors = self.doubtful.len(),
                worst = tensor,
                format = entry.format.name(),
                relative_error = entry.relative_error,
                bound = entry.format.doubtful_error(),
                "quantized weights are far from the original: measure the model's quality before it is used"
            );
        }
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F16 => Some(Kind::Half),
        _ => None,
    }
}
