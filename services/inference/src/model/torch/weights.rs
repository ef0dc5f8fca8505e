//! Safetensors, one file or sharded: read tensor by tensor, each checked against the shape that config.json leads to.
//!
//! Files are read, not mapped: a file that is cut short while it is served is an error, not a signal that ends the process.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{LoadError, config::read_json};

/// A model in one file.
const SINGLE: &str = "model.safetensors";

/// Says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// Buffers of transformers 4 that are computed here from config.json.
const IGNORED_SUFFIX: &str = ".rotary_emb.inv_freq";

/// The tensors of a folder that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Weights {
    /// The single file, or the index.
    listing: PathBuf,
    shards: Vec<Shard>,
    left: BTreeMap<String, Place>,
    /// The type that tensors are converted to.
    kind: Kind,
    taken: u64,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    /// Where the tensors' bytes begin.
    data: u64,
}

#[derive(Debug)]
struct Place {
    shard: usize,
    info: TensorInfo,
}

#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens a folder's files and reads their headers. Tensors come as stored until [`Self::convert_to`].
    ///
    /// # Errors
    /// A file is missing, damaged or cut short.
    pub(super) fn open(folder: &Path) -> Result<Self, LoadError> {
        let index = folder.join(INDEX);
        let single = folder.join(SINGLE);
        let sharded = !single.exists() && index.exists();
        let listing = if sharded { index } else { single };
        let mut weights =
            Self { listing, shards: Vec::new(), left: BTreeMap::new(), kind: Kind::Float, taken: 0 };
        if sharded {
            weights.open_shards(folder)?
        } else {
            weights.open_single()?
        }
        Ok(weights)
    }

    /// Opens one file, of any name.
    ///
    /// # Errors
    /// It is missing, damaged or cut short.
    pub(super) fn open_file(path: PathBuf) -> Result<Self, LoadError> {
        let mut weights =
            Self { listing: path, shards: Vec::new(), left: BTreeMap::new(), kind: Kind::Float, taken: 0 };
        weights.open_single()?;
        Ok(weights)
    }

    /// The single file, or the index.
    pub(super) fn path(&self) -> &Path {
        &self.listing
    }

    fn open_single(&mut self) -> Result<(), LoadError> {
        let (shard, metadata) = open_shard(&self.listing)?;
        self.shards.push(shard);
        for (name, info) in metadata.tensors() {
            self.left.insert(name, Place { shard: 0, info: info.clone() });
        }
        Ok(())
    }

    fn open_shards(&mut self, folder: &Path) -> Result<(), LoadError> {
        let index: Index = read_json(&self.listing)?;
        let mut headers: BTreeMap<String, (usize, Metadata)> = BTreeMap::new();
        for (tensor, shard) in index.weight_map {
            if !headers.contains_key(&shard) {
                let path = self.shard_path(folder, &shard)?;
                let (opened, metadata) = open_shard(&path)?;
                headers.insert(shard.clone(), (self.shards.len(), metadata));
                self.shards.push(opened);
            }
            let (shard, metadata) = &headers[&shard];
            let Some(info) = metadata.info(&tensor) else {
                return Err(LoadError::MissingTensor { file: self.shards[*shard].path.clone(), tensor });
            };
            self.left.insert(tensor, Place { shard: *shard, info: info.clone() });
        }
        Ok(())
    }

    /// Where a shard lies: beside the index, nowhere else.
    fn shard_path(&self, folder: &Path, shard: &str) -> Result<PathBuf, LoadError> {
        let is_plain_name = Path::new(shard).file_name().is_some_and(|name| name == shard);
        let path = folder.join(shard);
        if is_plain_name && path.is_file() {
            Ok(path)
        } else {
            Err(LoadError::MissingShard { index: self.listing.clone(), shard: shard.into() })
        }
    }

    /// The type that `name` is stored in, if it is there and in a type that is read.
    pub(super) fn stored_kind(&self, name: &str) -> Option<Kind> {
        self.left.get(name).and_then(|place| kind_of(place.info.dtype))
    }

    /// From now on tensors come in this type.
    pub(super) fn convert_to(&mut self, kind: Kind) {
        self.kind = kind;
    }

    /// Takes a tensor, on the CPU.
    ///
    /// # Errors
    /// It is missing, has another shape or a type that is not read, or the file cannot be read.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let missing = || LoadError::MissingTensor { file: self.listing.clone(), tensor: name.into() };
        let Place { shard, info } = self.left.remove(name).ok_or_else(missing)?;
        let shard = &self.shards[shard];
        if info.shape != shape {
            return Err(LoadError::Shape {
                file: shard.path.clone(),
                tensor: name.into(),
                expected: shape.into(),
                found: info.shape,
            });
        }
        let Some(kind) = kind_of(info.dtype) else {
            let found = info.dtype.to_string();
            return Err(LoadError::Dtype { file: shard.path.clone(), tensor: name.into(), found });
        };
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        let read = shard.file.read_exact_at(&mut bytes, shard.data + from as u64);
        read.map_err(|source| LoadError::Read { file: shard.path.clone(), source })?;
        let size: Vec<i64> = shape.iter().map(|length| *length as i64).collect();
        self.taken += shape.iter().product::<usize>() as u64;
        Ok(Tensor::f_from_data_size(&bytes, &size, kind)?.f_to_kind(self.kind)?)
    }

    /// Leaves a tensor aside that the model does not need although it has a place for it.
    pub(super) fn ignore(&mut self, name: &str) {
        self.left.remove(name);
    }

    /// Ends the reading: how many values were taken.
    ///
    /// # Errors
    /// A tensor is left over: it has no place in `architecture`.
    pub(super) fn finish(self, architecture: &str) -> Result<u64, LoadError> {
        match self.left.into_iter().find(|(name, _)| !name.ends_with(IGNORED_SUFFIX)) {
            None => Ok(self.taken),
            Some((tensor, place)) => Err(LoadError::UnknownTensor {
                file: self.shards[place.shard].path.clone(),
                tensor,
                architecture: architecture.into(),
            }),
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

/// Opens a file and reads its header, whose sizes must add up to the file's.
fn open_shard(path: &Path) -> Result<(Shard, Metadata), LoadError> {
    /// Length of the header's length.
    const PREFIX: u64 = 8;
    let unreadable = |source| LoadError::Read { file: path.into(), source };
    let damaged = |reason| LoadError::Safetensors { file: path.into(), reason };
    let file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    if size < PREFIX {
        return Err(damaged(format!("it has {size} bytes, too few for a header")));
    }
    let mut prefix = [0; PREFIX as usize];
    file.read_exact_at(&mut prefix, 0).map_err(unreadable)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > size - PREFIX {
        return Err(damaged(format!("its header should have {header_len} bytes, but the file has {size}")));
    }
    let mut header = vec![0; header_len as usize];
    file.read_exact_at(&mut header, PREFIX).map_err(unreadable)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| damaged(format!("its header: {error}")))?;
    let data = PREFIX + header_len;
    let expected = data + metadata.data_len() as u64;
    if size != expected {
        return Err(damaged(format!("it has {size} bytes, but its header describes {expected}")));
    }
    Ok((Shard { path: path.into(), file, data }, metadata))
}
