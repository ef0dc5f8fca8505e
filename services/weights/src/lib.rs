//! Weights in files: safetensors folders, and their forms in fewer bits. Knows no model, no device and no process.
//!
//! Map:
//! - `store`: safetensors, one file or sharded: what is there, read tensor by tensor
//! - `format`: the formats of quantized weights, by name
//! - `quantize`: from floats to codes; the arithmetic of each format
//! - `recipe`: which tensor of a folder gets which format
//! - `manifest`: what a quantized folder says of itself; its tensors, checked against that
//! - `writer`: a safetensors file, written tensor by tensor
//! - `convert`: from a folder to a quantized folder, wholly or not at all
//! - `error`: always the file, and in it the tensor or the key
//!
//! Rules: nothing here panics on a folder's content; codes depend on the weights and the format alone, never on the number
//! of threads; memory holds one tensor at a time, whatever the size of the model.
//!
//! # Why a crate
//! The command line writes these folders, and the inference service reads them and quantizes while it loads. Both must mean
//! the same bits, and the command line must not link libtorch.

mod convert;
mod error;
mod format;
mod manifest;
mod quantize;
mod recipe;
mod store;
mod writer;

pub use convert::{Conversion, Converted, Progress};
pub use error::WeightsError;
pub use format::{Format, Group};
pub use manifest::{Entry, MANIFEST, Manifest};
pub use quantize::{Codes, QuantizedMatrix, Unfit};
pub use recipe::Recipe;
pub use safetensors::Dtype;
pub use store::Store;
