//! Low-rank adapters in PEFT's folder format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! An adapter adds `scale * B(A x)` to the output of some projections (LoRA, Hu et al. 2021, arXiv 2106.09685). What goes
//! into the products of a step is grouped by adapter; rows without one are not touched.

mod config;
mod load;
mod targets;

pub(super) use load::{Loader, Widths};

use super::backend::{Adapted, Backend};
use crate::model::{AdapterWeights, Batch, ModelError};

/// A matrix of a layer that adapters add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// Queries, keys and values.
    Qkv,
    /// The attention's output.
    Output,
    /// Gate and up.
    GateUp,
    /// Down.
    Down,
}

impl Site {
    /// All of them, in the order of a layer.
    pub(super) const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];
}

/// What an adapter adds, layer by layer, to each of [`Site::ALL`].
pub(super) type Layers<T> = Vec<[Option<T>; 4]>;

/// Which rows of a step belong to which adapter.
#[derive(Debug)]
pub(super) struct Groups<'a, T> {
    groups: Vec<(&'a AdapterWeights, &'a Layers<T>, Vec<usize>)>,
}

impl<T> Default for Groups<'_, T> {
    fn default() -> Self {
        Self { groups: Vec::new() }
    }
}

impl<'a, T: 'static> Groups<'a, T> {
    /// Groups a step's rows.
    ///
    /// # Errors
    /// An adapter was made for another model.
    pub(super) fn of(batch: &'a Batch) -> Result<Self, ModelError> {
        let mut groups: Vec<(&AdapterWeights, &Layers<T>, Vec<usize>)> = Vec::new();
        for sequence in &batch.sequences {
            let Some(adapter) = &sequence.adapter else { continue };
            let rows = sequence.rows.clone();
            match groups.iter_mut().find(|(other, ..)| other.is(adapter)) {
                Some((.., group)) => group.extend(rows),
                None => {
                    let foreign = || ModelError::Step("an adapter was made for another model".to_owned());
                    groups.push((adapter, adapter.get().ok_or_else(foreign)?, rows.collect()));
                }
            }
        }
        Ok(Self { groups })
    }

    /// The same of some rows, which stand alone from now on. They are ascending.
    pub(super) fn among(&self, kept: &[usize]) -> Self {
        let of = |rows: &[usize]| rows.iter().filter_map(|row| kept.binary_search(row).ok()).collect();
        let groups = self.groups.iter().map(|(adapter, layers, rows)| (*adapter, *layers, of(rows)));
        Self { groups: groups.filter(|(.., rows): &(_, _, Vec<usize>)| !rows.is_empty()).collect() }
    }

    /// Whether no row goes through an adapter.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Adds to `sum` what the adapters make of `rows` at a site of a layer.
    ///
    /// # Errors
    /// The backend failed.
    pub(super) fn add<B: Backend<LowRank = T>>(
        &self,
        backend: &mut B,
        at: (usize, Site),
        sum: &mut B::Rows,
        rows: &B::Rows,
    ) -> Result<(), ModelError> {
        let (layer, site) = at;
        let adapted: Vec<Adapted<'_, T>> = self
            .groups
            .iter()
            .filter_map(|(_, layers, rows)| {
                let low_rank = layers.get(layer)?[site as usize].as_ref()?;
                Some(Adapted { rows, low_rank })
            })
            .collect();
        if adapted.is_empty() { Ok(()) } else { backend.add_low_rank(sum, rows, &adapted) }
    }
}
