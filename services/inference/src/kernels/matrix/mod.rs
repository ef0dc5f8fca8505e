//! Weights rearranged into panels, and products by them.
//!
//! | file | what it holds |
//! |---|---|
//! | `pack` | from rows as files hold them to panels |
//! | `dense` | products by weights that are floats; `format`: how each type of them meets inputs |
//! | `coded` | products by weights of 8 and of 4 bits; `int8`, `int4`: how each is laid out and meets inputs |
//! | `rounded` | rows of inputs rounded to 8 bits, as weights of few bits take them |
//! | `unpacked`, `unpacked_coded` | the same products on machines without dot products of narrow types |
//! | `tiled` | how those are shared out |
//! | `target` | what becomes of a panel's sums |
//!
//! A panel holds [`PANEL`] outputs: for each step along the inputs, the weights of its outputs side by side. So a product
//! reads the weights once, in order, keeps a few rows of sums in registers and needs no sum across lanes. Each sum runs over
//! the inputs in their order, whatever the number of rows: a row's result does not depend on its neighbours.

/// Calls `$self.tile::<L, N>` with `N` = `$rows`, among the heights that the lanes have registers for.
macro_rules! by_height {
    ($self:ident, $panel:expr, $from:expr, $rows:expr; $($height:literal)*) => {
        match $rows {
            $($height if $height <= L::TILE_ROWS => $self.tile::<L, $height>($panel, $from),)*
            _ => unreachable!("a tile is at most TILE_ROWS high"),
        }
    };
}

mod coded;
mod dense;
pub(super) mod format;
mod int4;
mod int8;
mod pack;
mod rounded;
mod target;
mod tiled;
mod unpacked;
mod unpacked_coded;

use half::{bf16, f16};

use super::{
    Cpu,
    buffer::{Arena, Buffer, OutOfMemory},
    isa::Unpacked,
    lanes::{Pair, WIDTH},
};
use coded::Coded;
use dense::Operands;
use int4::Int4;
use int8::Int8;
use pack::{pack, pack_pairs};
pub(super) use rounded::Rounded;
use target::Target;

/// Outputs of one panel.
const PANEL: usize = 2 * WIDTH;

/// Weight bytes of one item of work: enough to outweigh taking it, small enough to share out evenly.
const ITEM_BYTES: usize = 64 << 10;

/// How far ahead of their use weights are asked for, in bytes: the machine's own prefetching stops at the end of a page. As
/// measured at one row, where 512 is as good, and 1600 loses a tenth when several panels are read at once.
const AHEAD: usize = 1024;

/// A weight matrix of `outputs` rows by `inputs` columns, ready for products.
#[derive(Debug)]
pub(crate) struct Matrix {
    outputs: usize,
    inputs: usize,
    panels: Panels,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum Panels {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
    /// Two inputs side by side: the unit of the bf16 dot product.
    Bf16(Buffer<Pair>),
    Int8(Int8),
    Int4(Int4),
}

/// A weight matrix as files hold it: `[outputs, inputs]`, row after row.
#[derive(Debug)]
pub(crate) enum Weights<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats with the range of f32.
    Bf16(&'a [bf16]),
    /// IEEE 16-bit floats.
    F16(&'a [f16]),
    /// 8-bit numbers: a weight is its value times the scale of its output.
    Int8 {
        /// `[outputs, inputs]`
        values: &'a [i8],
        /// `[outputs]`
        scales: &'a [f32],
    },
    /// 4-bit codes: a weight is its code times the scale of its group, plus the minimum of its group. Scales and minima
    /// are kept as f16: who rounds them to f16 before choosing codes loses nothing here.
    Int4 {
        /// `[outputs, inputs / 2]`; the lower four bits are the even input's.
        codes: &'a [u8],
        /// `[outputs, inputs / group]`
        scales: &'a [f32],
        /// `[outputs, inputs / group]`
        mins: &'a [f32],
        /// Inputs of a group: 32, 64 or 128.
        group: usize,
    },
}

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It replaces the output.
    Store,
    /// It is added to the output.
    Add,
}

/// Why weights do not become a matrix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum MatrixError {
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The rows are not whole groups, or the group has a size that no kernel is for.
    #[error("rows of {inputs} 4-bit weights in groups of {group}: expected whole groups of 32, 64 or 128")]
    Group {
        /// Inputs of a row.
        inputs: usize,
        /// Inputs of a group.
        group: usize,
    },
    /// A scale or a minimum is beyond the range of the type that holds it in memory.
    #[error("{what} {value} of output {output}, group {group} is not a finite f16")]
    Range {
        /// Scale or minimum.
        what: &'static str,
        /// Its value.
        value: f32,
        /// Row of weights.
        output: usize,
        /// Group in the row.
        group: usize,
    },
}

impl Weights<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Int8 { values, .. } => values.len(),
            Self::Int4 { codes, .. } => 2 * codes.len(),
        }
    }
}

impl Matrix {
    /// Rearranges `weights` of `outputs` rows.
    ///
    /// # Errors
    /// See [`MatrixError`].
    ///
    /// # Panics
    /// If `weights` does not divide into `outputs` rows, or scales or `bias` have another length: the caller has checked
    /// shapes.
    pub(crate) fn new(
        weights: Weights<'_>,
        outputs: usize,
        bias: Option<Vec<f32>>,
        arena: &mut Arena,
    ) -> Result<Self, MatrixError> {
        let inputs = weights.len() / outputs;
        assert_eq!(inputs * outputs, weights.len(), "weights are a matrix");
        assert!(bias.as_ref().is_none_or(|bias| bias.len() == outputs), "one bias an output");
        let panels = match weights {
            Weights::F32(values) => Panels::F32(pack(values, inputs, arena)?),
            Weights::F16(values) => Panels::F16(pack(values, inputs, arena)?),
            Weights::Bf16(values) => Panels::Bf16(pack_pairs(values, inputs, arena)?),
            Weights::Int8 { values, scales } => Panels::Int8(Int8::new(values, scales, arena)?),
            Weights::Int4 { codes, scales, mins, group } => {
                Panels::Int4(Int4::new(int4::Groups { codes, scales, mins, group }, inputs, arena)?)
            }
        };
        Ok(Self { outputs, inputs, panels, bias })
    }

    /// Length of a row of outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Length of a row of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes that a product reads of it, bias and scales of outputs aside.
    pub(super) fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(panels) => size_of_val(&**panels),
            Panels::F16(panels) => size_of_val(&**panels),
            Panels::Bf16(panels) => size_of_val(&**panels),
            Panels::Int8(weights) => weights.bytes().len(),
            Panels::Int4(weights) => weights.bytes().len(),
        }
    }

    /// Copies row `index`, that is the weights of one output, widened: an embedding.
    ///
    /// # Panics
    /// If `index` or the length of `row` does not fit.
    pub(crate) fn copy_row(&self, index: usize, row: &mut [f32]) {
        assert!(index < self.outputs && row.len() == self.inputs, "a row of this matrix");
        let at = |step: usize, steps: usize| (index / PANEL * steps + step) * PANEL + index % PANEL;
        let values = row.iter_mut().enumerate();
        match &self.panels {
            Panels::F32(panels) => values.for_each(|(input, value)| *value = panels[at(input, self.inputs)]),
            Panels::F16(panels) => {
                values.for_each(|(input, value)| *value = panels[at(input, self.inputs)].to_f32());
            }
            Panels::Bf16(panels) => {
                let steps = self.inputs.div_ceil(2);
                values.for_each(|(input, value)| *value = panels[at(input / 2, steps)][input % 2].to_f32());
            }
            Panels::Int8(weights) => values.for_each(|(input, value)| *value = weights.weight(index, input)),
            Panels::Int4(weights) => values.for_each(|(input, value)| *value = weights.weight(index, input)),
        }
    }
}

#[cfg(test)]
impl Matrix {
    /// What is added to each row of outputs.
    pub(super) fn bias_for_tests(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }
}

impl Cpu {
    /// `output = input * matrix^T + bias`, or that added to it; `input` is `[rows, inputs]`, `output` `[rows, outputs]`.
    ///
    /// # Panics
    /// If the lengths do not fit the matrix.
    pub(crate) fn product(&mut self, input: &[f32], matrix: &Matrix, output: &mut [f32], mode: Mode) {
        let rows = output.len() / matrix.outputs;
        assert_eq!(output.len(), rows * matrix.outputs, "whole rows of outputs");
        assert_eq!(input.len(), rows * matrix.inputs, "as many rows of inputs");
        let target = Target::new(output, matrix.outputs, matrix.bias.as_deref(), mode);
        match self.isa.unpacked() {
            None => self.product_packed(input, matrix, target),
            Some(isa) => self.product_unpacked(isa, input, matrix, target),
        }
    }

    fn product_packed(&mut self, input: &[f32], matrix: &Matrix, target: Target<'_>) {
        let (rows, inputs) = (target.rows(), matrix.inputs);
        match &matrix.panels {
            Panels::F32(panels) => {
                self.multiply::<f32>(&Operands { panels, input, steps: inputs, rows }, target);
            }
            Panels::F16(panels) => {
                self.multiply::<f16>(&Operands { panels, input, steps: inputs, rows }, target);
            }
            Panels::Bf16(panels) => {
                let pairs = self.narrow(input, inputs);
                let operands = Operands { panels, input: &pairs, steps: inputs.div_ceil(2), rows };
                self.multiply::<Pair>(&operands, target);
                self.pairs = pairs;
            }
            Panels::Int8(weights) => self.with_rounded(input, inputs, weights.group(), |cpu, rounded| {
                cpu.multiply_rounded(weights, rounded, target);
            }),
            Panels::Int4(weights) => self.with_rounded(input, inputs, weights.group(), |cpu, rounded| {
                cpu.multiply_rounded(weights, rounded, target);
            }),
        }
    }

    fn product_unpacked(&mut self, isa: Unpacked, input: &[f32], matrix: &Matrix, target: Target<'_>) {
        let inputs = matrix.inputs;
        match &matrix.panels {
            Panels::F32(panels) => self.multiply_unpacked(isa, panels, (input, inputs), target),
            Panels::F16(panels) => self.multiply_unpacked(isa, panels, (input, inputs), target),
            Panels::Bf16(panels) => {
                let floats = self.round_to_bf16(isa, input, inputs);
                self.multiply_unpacked(isa, panels, (&floats, inputs), target);
                self.floats = floats;
            }
            Panels::Int8(weights) => self.with_rounded(input, inputs, weights.group(), |cpu, rounded| {
                cpu.unpack(isa, rounded);
                cpu.multiply_unpacked_coded(isa, weights, rounded, target);
            }),
            Panels::Int4(weights) => self.with_rounded(input, inputs, weights.group(), |cpu, rounded| {
                cpu.multiply_unpacked_coded(isa, weights, rounded, target);
            }),
        }
    }

    /// Rounds rows of `width` inputs for a product by weights of few bits.
    fn with_rounded(
        &mut self,
        input: &[f32],
        width: usize,
        group: usize,
        multiply: impl FnOnce(&mut Self, &mut Rounded),
    ) {
        let mut rounded = std::mem::take(&mut self.rounded);
        self.round(input, width, group, &mut rounded);
        multiply(self, &mut rounded);
        self.rounded = rounded;
    }
}
