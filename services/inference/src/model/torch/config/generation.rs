//! generation_config.json: the model's own defaults for sampling, and where its answers end.

use std::path::Path;

use serde::Deserialize;

use super::{EndIds, read_json};
use crate::model::torch::LoadError;

/// A model's defaults for sampling.
#[derive(Debug, Default, Deserialize)]
pub(in crate::model::torch) struct Generation {
    pub(in crate::model::torch) temperature: Option<f32>,
    pub(in crate::model::torch) top_p: Option<f32>,
    pub(in crate::model::torch) top_k: Option<u32>,
    pub(in crate::model::torch) repetition_penalty: Option<f32>,
    eos_token_id: Option<EndIds>,
}

impl Generation {
    /// Reads the folder's generation_config.json; a folder without one has no defaults.
    ///
    /// # Errors
    /// It is there and cannot be read or parsed.
    pub(in crate::model::torch) fn read(folder: &Path) -> Result<Self, LoadError> {
        let file = folder.join("generation_config.json");
        if file.try_exists().map_err(|source| LoadError::Read { file: file.clone(), source })? {
            read_json(&file)
        } else {
            Ok(Self::default())
        }
    }

    /// Ids that end a generation, where the file names any.
    pub(in crate::model::torch) fn end_ids(&self) -> Option<Vec<u32>> {
        self.eos_token_id.clone().map(EndIds::into_vec)
    }
}
