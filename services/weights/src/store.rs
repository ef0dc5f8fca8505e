//! Safetensors, one file or sharded: what is there, read tensor by tensor.
//!
//! Files are read, not mapped: a file that is cut short while it is served is an error, not a signal that ends the process.

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::WeightsError;

/// A model in one file.
pub(crate) const SINGLE: &str = "model.safetensors";

/// Says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// The types that plain weights come in.
const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::BF16, Dtype::F16];

/// The tensors of a folder.
#[derive(Debug)]
pub struct Store {
    /// The single file, or the index.
    listing: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Place>,
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

impl Store {
    /// Opens a folder's files and reads their headers.
    ///
    /// # Errors
    /// A file is missing, damaged or cut short.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        let index = folder.join(INDEX);
        let single = folder.join(SINGLE);
        let sharded = !single.exists() && index.exists();
        let listing = if sharded { index } else { single };
        let mut store = Self { listing, shards: Vec::new(), tensors: BTreeMap::new() };
        if sharded {
            store.open_shards(folder)?
        } else {
            store.open_single()?
        }
        Ok(store)
    }

    /// Opens one file, of any name.
    ///
    /// # Errors
    /// It is missing, damaged or cut short.
    pub fn open_file(path: PathBuf) -> Result<Self, WeightsError> {
        let mut store = Self { listing: path, shards: Vec::new(), tensors: BTreeMap::new() };
        store.open_single()?;
        Ok(store)
    }

    fn open_single(&mut self) -> Result<(), WeightsError> {
        let (shard, metadata) = open_shard(&self.listing)?;
        self.shards.push(shard);
        for (name, info) in metadata.tensors() {
            self.tensors.insert(name, Place { shard: 0, info: info.clone() });
        }
        Ok(())
    }

    fn open_shards(&mut self, folder: &Path) -> Result<(), WeightsError> {
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
                return Err(WeightsError::MissingTensor { file: self.shards[*shard].path.clone(), tensor });
            };
            self.tensors.insert(tensor, Place { shard: *shard, info: info.clone() });
        }
        Ok(())
    }

    /// Where a shard lies: beside the index, nowhere else.
    fn shard_path(&self, folder: &Path, shard: &str) -> Result<PathBuf, WeightsError> {
        let is_plain_name = Path::new(shard).file_name().is_some_and(|name| name == shard);
        let path = folder.join(shard);
        if is_plain_name && path.is_file() {
            Ok(path)
        } else {
            Err(WeightsError::MissingShard { index: self.listing.clone(), shard: shard.into() })
        }
    }

    /// The weights file, or the index of a sharded model: what names the tensors.
    pub fn listing(&self) -> &Path {
        &self.listing
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The type that a tensor is stored in, and its shape.
    pub fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.tensors.get(name).map(|place| (place.info.dtype, place.info.shape.as_slice()))
    }

    /// The file that holds a tensor, or would.
    pub fn file_of(&self, name: &str) -> &Path {
        self.tensors.get(name).map_or(&self.listing, |place| &self.shards[place.shard].path)
    }

    /// A tensor's bytes as stored, little-endian; its type is one of `dtypes`.
    ///
    /// # Errors
    /// It is missing, has another shape or type, or the file cannot be read.
    pub fn read(
        &self,
        name: &str,
        shape: &[usize],
        dtypes: &[Dtype],
    ) -> Result<(Dtype, Vec<u8>), WeightsError> {
        let missing = || WeightsError::MissingTensor { file: self.listing.clone(), tensor: name.into() };
        let Place { shard, info } = self.tensors.get(name).ok_or_else(missing)?;
        let shard = &self.shards[*shard];
        let (file, tensor) = (shard.path.clone(), name.to_owned());
        if info.shape != shape {
            let (expected, found) = (shape.into(), info.shape.clone());
            return Err(WeightsError::Shape { file, tensor, expected, found });
        }
        if !dtypes.contains(&info.dtype) {
            let (expected, found) = (one_of(dtypes), info.dtype.to_string());
            return Err(WeightsError::Dtype { file, tensor, expected, found });
        }
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        let read = shard.file.read_exact_at(&mut bytes, shard.data + from as u64);
        read.map_err(|source| WeightsError::File { file, source })?;
        Ok((info.dtype, bytes))
    }

    /// A tensor of plain weights, its bytes as stored.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_plain(&self, name: &str, shape: &[usize]) -> Result<(Dtype, Vec<u8>), WeightsError> {
        self.read(name, shape, &FLOATS)
    }

    /// A tensor of plain weights, widened.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let (dtype, bytes) = self.read_plain(name, shape)?;
        Ok(match dtype {
            Dtype::BF16 => halves(&bytes).map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            Dtype::F16 => halves(&bytes).map(|bits| f16::from_bits(bits).to_f32()).collect(),
            _ => singles(&bytes).collect(),
        })
    }
}

/// 16-bit words of little-endian bytes.
pub(crate) fn halves(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes))
}

/// Floats of little-endian bytes.
pub(crate) fn singles(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// Types as a sentence lists them: `F32, BF16 or F16`.
fn one_of(dtypes: &[Dtype]) -> String {
    let names: Vec<String> = dtypes.iter().map(Dtype::to_string).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Parses a JSON file.
///
/// # Errors
/// It cannot be read, or is not what it should be.
pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, WeightsError> {
    let open = File::open(file).map_err(|source| WeightsError::File { file: file.into(), source })?;
    serde_json::from_reader(BufReader::new(open))
        .map_err(|error| WeightsError::Json { file: file.into(), reason: error.to_string() })
}

/// Opens a file and reads its header, whose sizes must add up to the file's.
fn open_shard(path: &Path) -> Result<(Shard, Metadata), WeightsError> {
    /// Length of the header's length.
    const PREFIX: u64 = 8;
    let unreadable = |source| WeightsError::File { file: path.into(), source };
    let damaged = |reason| WeightsError::Safetensors { file: path.into(), reason };
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
