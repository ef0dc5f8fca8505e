//! From rows of floats to panels.

use half::bf16;

use super::PANEL;
use crate::kernels::{
    buffer::{Arena, Buffer, OutOfMemory, Plain},
    lanes::Pair,
};

/// `[panel][input][output of the panel]`, zeroes where the last panel has no outputs.
pub(super) fn pack<T: Plain>(
    weights: &[T],
    inputs: usize,
    arena: &mut Arena,
) -> Result<Buffer<T>, OutOfMemory> {
    let panels = (weights.len() / inputs.max(1)).div_ceil(PANEL);
    let mut packed = arena.zeroed(panels * inputs * PANEL)?;
    for (output, row) in weights.chunks_exact(inputs).enumerate() {
        let panel = &mut packed[output / PANEL * inputs * PANEL..][..inputs * PANEL];
        for (value, slots) in row.iter().zip(panel.chunks_exact_mut(PANEL)) {
            slots[output % PANEL] = *value;
        }
    }
    Ok(packed)
}

/// As [`pack`], by pairs of inputs; an odd last one is paired with zero.
pub(super) fn pack_pairs(
    weights: &[bf16],
    inputs: usize,
    arena: &mut Arena,
) -> Result<Buffer<Pair>, OutOfMemory> {
    let steps = inputs.div_ceil(2);
    let panels = (weights.len() / inputs.max(1)).div_ceil(PANEL);
    let mut packed: Buffer<Pair> = arena.zeroed(panels * steps * PANEL)?;
    for (output, row) in weights.chunks_exact(inputs).enumerate() {
        let panel = &mut packed[output / PANEL * steps * PANEL..][..steps * PANEL];
        for (values, slots) in row.chunks(2).zip(panel.chunks_exact_mut(PANEL)) {
            slots[output % PANEL] = [values[0], values.get(1).copied().unwrap_or(bf16::ZERO)];
        }
    }
    Ok(packed)
}
