//! From a folder to a quantized folder, wholly or not at all.
//!
//! The new folder is made under another name beside the target and renamed into place when all of it is on the disk. What a
//! killed run has left is removed by the next one; a lock on the folder around both keeps two runs apart.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    Entry, Format, MANIFEST, Manifest, Recipe, Store, WeightsError,
    store::{SINGLE, read_json},
    writer::{Outline, Writer},
};

/// Endings of the files beside the weights that a model folder is made of.
const KEPT: [&str; 5] = ["json", "jinja", "txt", "model", "md"];

/// The config file, which gets a key that keeps other readers from taking codes for weights.
const CONFIG: &str = "config.json";

/// What to make, from what.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// A model folder in Hugging Face's format.
    pub source: PathBuf,
    /// The folder to make.
    pub target: PathBuf,
    /// Its format.
    pub format: Format,
    /// Whether a folder at `target` is replaced.
    pub replace: bool,
    /// Threads that quantize.
    pub threads: usize,
}

/// How far a conversion is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Tensors that are done.
    pub done: usize,
    /// Tensors of the folder.
    pub total: usize,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Converted {
    /// What the new folder says of itself.
    pub manifest: Manifest,
    /// Bytes of the weights it was made from.
    pub bytes_before: u64,
    /// Bytes of its weights.
    pub bytes_after: u64,
}

impl Conversion {
    /// Makes the folder.
    ///
    /// # Errors
    /// The source cannot be read or quantized, the target is there already or cannot be written; the target is then as it
    /// was.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Converted, WeightsError> {
        let (parent, name) = self.place()?;
        let _lock = lock(parent)?;
        if self.target.exists() && !self.replace {
            return Err(WeightsError::Exists { folder: self.target.clone() });
        }
        let made = parent.join(format!(".{name}.part"));
        remove(&made)?;
        let converted = self.make(&made, progress).and_then(|converted| {
            self.publish(&made, &parent.join(format!(".{name}.replaced")))?;
            sync(parent)?;
            Ok(converted)
        });
        if converted.is_err() {
            // The first error is the one to tell.
            let _ = remove(&made);
        }
        converted
    }

    /// The folder around the target, and the target's name in it.
    fn place(&self) -> Result<(&Path, &str), WeightsError> {
        let refused = |reason| WeightsError::Target { folder: self.target.clone(), reason };
        let name = self.target.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| refused("it needs a name of its own, in UTF-8"))?;
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let same = |a: &Path| Some(fs::canonicalize(a).ok()? == fs::canonicalize(&self.source).ok()?);
        if same(&self.target) == Some(true) {
            return Err(refused("it is the source"));
        }
        Ok((parent, name))
    }

    fn make(&self, folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Converted, WeightsError> {
        if let Some(manifest) = Manifest::read(&self.source)? {
            return Err(WeightsError::Quantized { folder: self.source.clone(), format: manifest.format });
        }
        let config: Value = read_json(&self.source.join(CONFIG))?;
        let store = Store::open(&self.source)?;
        let recipe = Recipe::new(self.format);
        if !store.names().any(|name| format_of(recipe, &store, name).is_some()) {
            return Err(WeightsError::NothingToDo { folder: self.source.clone() });
        }
        fs::create_dir(folder).map_err(at(folder))?;
        let (hashes, bytes_before) = hashes(&store)?;
        let mut manifest = Manifest::new(self.format, hashes);
        let quantizer = Quantizer { store: &store, recipe, threads: self.threads };
        let bytes_after = quantizer.write(&folder.join(SINGLE), &mut manifest, progress)?;
        write(&folder.join(MANIFEST), manifest.text().as_bytes())?;
        self.copy_rest(folder)?;
        write(&folder.join(CONFIG), self.marked(config).as_bytes())?;
        sync(folder)?;
        Ok(Converted { manifest, bytes_before, bytes_after })
    }

    /// config.json with the key that keeps other readers away.
    fn marked(&self, mut config: Value) -> String {
        config["quantization_config"] = json!({ "quant_method": "weft", "format": self.format });
        format!("{config:#}\n")
    }

    /// Copies what is neither weights nor about them.
    fn copy_rest(&self, folder: &Path) -> Result<(), WeightsError> {
        for entry in fs::read_dir(&self.source).map_err(at(&self.source))? {
            let file = entry.map_err(at(&self.source))?.path();
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
            let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            let kept = KEPT.contains(&ending) || ["LICENSE", "NOTICE"].contains(&name);
            if kept && file.is_file() && name != CONFIG && !name.ends_with(".safetensors.index.json") {
                let bytes = fs::read(&file).map_err(at(&file))?;
                write(&folder.join(name), &bytes)?;
            }
        }
        Ok(())
    }

    /// Renames the folder into place; what was there goes last.
    fn publish(&self, made: &Path, aside: &Path) -> Result<(), WeightsError> {
        remove(aside)?;
        if self.target.exists() {
            fs::rename(&self.target, aside).map_err(at(&self.target))?;
        }
        if let Err(error) = fs::rename(made, &self.target) {
            // As it was, as far as that can be done; the first error is the one to tell.
            let _ = fs::rename(aside, &self.target);
            return Err(at(&self.target)(error));
        }
        remove(aside)
    }
}

struct Quantizer<'a> {
    store: &'a Store,
    recipe: Recipe,
    threads: usize,
}

impl Quantizer<'_> {
    /// Writes all tensors, those of the recipe in fewer bits, and enters them in the manifest; gives the file's size.
    fn write(
        &self,
        file: &Path,
        manifest: &mut Manifest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, WeightsError> {
        let mut writer = Writer::create(file, self.outline()).map_err(at(file))?;
        let (mut done, total) = (0, self.store.names().count());
        let mut errors = Errors::default();
        for name in self.store.names() {
            progress(Progress { done, total });
            let (dtype, shape) = described(self.store, name);
            if let (Some(_), &[outputs, inputs]) = (self.recipe.format_of(name, shape), shape) {
                let (matrix, entry) =
                    self.recipe.quantize(self.store, name, [outputs, inputs], self.threads)?;
                writer.write_quantized(&matrix).map_err(at(file))?;
                errors.add(&entry);
                manifest.tensors.insert(name.into(), entry);
            } else {
                let (_, bytes) = self.store.read(name, shape, &[dtype])?;
                writer.write(&bytes).map_err(at(file))?;
            }
            done += 1;
        }
        manifest.relative_error = errors.mean();
        progress(Progress { done, total });
        writer.finish().map_err(at(file))
    }

    fn outline(&self) -> Outline {
        let mut outline = Outline::default();
        for name in self.store.names() {
            let (dtype, shape) = described(self.store, name);
            match (format_of(self.recipe, self.store, name), shape) {
                (Some(format), [outputs, inputs]) => outline.quantized(name, format, [*outputs, *inputs]),
                _ => outline.plain(name.into(), dtype, shape.into()),
            }
        }
        outline
    }
}

/// The error of several matrices together; each counts by its size.
#[derive(Debug, Default)]
struct Errors {
    squares: f64,
    weights: f64,
}

impl Errors {
    fn add(&mut self, entry: &Entry) {
        let weights = entry.shape.iter().product::<usize>() as f64;
        self.squares += weights * entry.relative_error.powi(2);
        self.weights += weights;
    }

    fn mean(&self) -> f64 {
        (self.squares / self.weights.max(1.0)).sqrt()
    }
}

fn format_of(recipe: Recipe, store: &Store, name: &str) -> Option<Format> {
    recipe.format_of(name, described(store, name).1)
}

/// The type and shape of a tensor; an empty one where there is none.
fn described<'a>(store: &'a Store, name: &str) -> (safetensors::Dtype, &'a [usize]) {
    store.describe(name).unwrap_or((safetensors::Dtype::F32, &[0]))
}

/// SHA-256 of each file of weights by its name, and the bytes of all.
fn hashes(store: &Store) -> Result<(BTreeMap<String, String>, u64), WeightsError> {
    let (mut hashes, mut bytes) = (BTreeMap::new(), 0);
    for file in store.files() {
        let (hash, length) = hash(file).map_err(at(file))?;
        bytes += length;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hashes.insert(name, hash);
    }
    Ok((hashes, bytes))
}

/// SHA-256 of a file in lower-case hex, and its length.
fn hash(file: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(file)?;
    let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hex::encode(hasher.finalize()), length)),
            count => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}

/// Locks a folder until the file is dropped, or the process ends in whatever way.
fn lock(folder: &Path) -> Result<File, WeightsError> {
    let file = File::open(folder).map_err(at(folder))?;
    file.lock().map_err(at(folder))?;
    Ok(file)
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    fs::write(file, bytes).and_then(|()| File::open(file)?.sync_all()).map_err(at(file))
}

fn sync(folder: &Path) -> Result<(), WeightsError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

fn remove(folder: &Path) -> Result<(), WeightsError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(folder)(error)),
        _ => Ok(()),
    }
}

fn at(file: &Path) -> impl FnOnce(io::Error) -> WeightsError {
    let file = file.to_path_buf();
    move |source| WeightsError::File { file, source }
}
