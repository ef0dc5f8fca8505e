//! A row enters the step: its queries and keys are normed and rotated, its keys and values written to the cache.

use super::{HeadNorms, Plan};
use crate::kernels::{
    cache::Element,
    isa::Kernel,
    lanes::{Lanes, WIDTH},
    rows::inverse_rms,
    shared::SharedMut,
};

/// Where keys and values go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<T: Element> {
    pub(super) keys: SharedMut<T>,
    pub(super) values: SharedMut<T>,
    /// Empty where the type has no units.
    pub(super) key_units: SharedMut<f32>,
    /// As above.
    pub(super) value_units: SharedMut<f32>,
}

/// One row.
pub(super) struct Enter<'a, T: Element> {
    pub(super) row: usize,
    /// Its queries, keys and values.
    pub(super) values: &'a mut [f32],
    pub(super) norms: Option<&'a HeadNorms>,
    pub(super) plan: &'a Plan<'a>,
    pub(super) target: Target<T>,
}

impl<T: Element> Kernel for Enter<'_, T> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let geometry = &self.plan.geometry;
        let dim = geometry.head_dim;
        let half = dim / 2;
        let cos = &self.plan.cos[self.row * half..][..half];
        let sin = &self.plan.sin[self.row * half..][..half];
        let (queries, rest) = self.values.split_at_mut(geometry.heads * dim);
        let (keys, values) = rest.split_at_mut(geometry.kv_heads * dim);
        // Scores are over the root of the head's width: cheaper here than once for each position.
        let scale = 1.0 / (dim as f32).sqrt();
        for query in queries.chunks_exact_mut(dim) {
            // SAFETY: the instructions are present, by the caller's promise.
            unsafe { norm::<L>(query, self.norms.map(|norms| (&*norms.query, norms.epsilon))) }
            rotate(query, cos, sin);
            query.iter_mut().for_each(|value| *value *= scale);
        }
        let (block, slot) = self.plan.slots[self.row];
        for (head, (key, value)) in keys.chunks_exact_mut(dim).zip(values.chunks_exact(dim)).enumerate() {
            // SAFETY: the instructions are present, by the caller's promise.
            unsafe { norm::<L>(key, self.norms.map(|norms| (&*norms.key, norms.epsilon))) }
            rotate(key, cos, sin);
            let (keys_at, values_at) = (geometry.keys_at(block, head), geometry.values_at(block, head));
            let (key_unit, value_unit) = (T::unit(key), T::unit(value));
            if T::HAS_UNITS {
                let at = geometry.units_at(block, head) + slot;
                // SAFETY: as below.
                unsafe {
                    *self.target.key_units.at(at) = key_unit;
                    *self.target.value_units.at(at) = value_unit;
                }
            }
            let (keys_per, values_per) = (1.0 / key_unit, 1.0 / value_unit);
            for (dim, (key, value)) in key.iter().zip(value).enumerate() {
                let key_place = geometry.key_tile(dim / 2, slot) + T::place(dim % 2, slot % WIDTH);
                let value_place = geometry.value_tile(slot / 2, dim) + T::place(slot % 2, dim % WIDTH);
                // SAFETY: the plan has checked the block against the cache, and no other row has this slot.
                unsafe {
                    *self.target.keys.at(keys_at + key_place) = T::narrow(*key * keys_per);
                    *self.target.values.at(values_at + value_place) = T::narrow(*value * values_per);
                }
            }
        }
    }
}

/// The head's RMS norm, where the model has one.
#[inline(always)]
unsafe fn norm<L: Lanes>(head: &mut [f32], weight: Option<(&[f32], f32)>) {
    if let Some((weight, epsilon)) = weight {
        // SAFETY: passed on to the caller.
        let scale = unsafe { inverse_rms::<L>(head, epsilon) };
        for (value, weight) in head.iter_mut().zip(weight) {
            *value = *value * scale * weight;
        }
    }
}

/// Rotates the pairs (d, d + half) of a head by the position's angles.
#[inline(always)]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
    }
}
