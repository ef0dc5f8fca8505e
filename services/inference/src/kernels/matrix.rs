//! Weights rearranged into panels, and products by them.
//!
//! A panel holds [`PANEL`] outputs: for each step along the inputs, the weights of its outputs side by side. So a product
//! reads the weights once, in order, keeps a few rows of sums in registers and needs no sum across lanes. Each sum runs over
//! the inputs in their order, whatever the number of rows: a row's result does not depend on its neighbours.

use half::{bf16, f16};

use super::{
    Cpu,
    buffer::{Arena, Buffer, OutOfMemory, Plain},
    isa::Kernel,
    lanes::{Lanes, Pair, WIDTH},
    shared::SharedMut,
};

/// Outputs of one panel.
const PANEL: usize = 2 * WIDTH;

/// Weight bytes of one item of work: enough to outweigh taking it, small enough to share out evenly.
const ITEM_BYTES: usize = 64 << 10;

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
}

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It replaces the output.
    Store,
    /// It is added to the output.
    Add,
}

impl Matrix {
    /// Rearranges `weights` of `outputs` rows.
    ///
    /// # Errors
    /// There is no memory for it.
    ///
    /// # Panics
    /// If `weights` does not divide into `outputs` rows, or `bias` has another length: the caller has checked shapes.
    pub(crate) fn new(
        weights: Weights<'_>,
        outputs: usize,
        bias: Option<Vec<f32>>,
        arena: &mut Arena,
    ) -> Result<Self, OutOfMemory> {
        let len = match weights {
            Weights::F32(values) => values.len(),
            Weights::Bf16(values) => values.len(),
            Weights::F16(values) => values.len(),
        };
        let inputs = len / outputs;
        assert_eq!(inputs * outputs, len, "weights are a matrix");
        assert!(bias.as_ref().is_none_or(|bias| bias.len() == outputs), "one bias an output");
        let panels = match weights {
            Weights::F32(values) => Panels::F32(pack(values, inputs, arena)?),
            Weights::F16(values) => Panels::F16(pack(values, inputs, arena)?),
            Weights::Bf16(values) => Panels::Bf16(pack_pairs(values, inputs, arena)?),
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

    /// Copies row `index`, that is the weights of one output, widened: an embedding.
    ///
    /// # Panics
    /// If `index` or the length of `row` does not fit.
    pub(crate) fn copy_row(&self, index: usize, row: &mut [f32]) {
        assert!(index < self.outputs && row.len() == self.inputs, "a row of this matrix");
        let at = |step: usize, steps: usize| (index / PANEL * steps + step) * PANEL + index % PANEL;
        for (input, value) in row.iter_mut().enumerate() {
            *value = match &self.panels {
                Panels::F32(panels) => panels[at(input, self.inputs)],
                Panels::F16(panels) => panels[at(input, self.inputs)].to_f32(),
                Panels::Bf16(panels) => panels[at(input / 2, self.inputs.div_ceil(2))][input % 2].to_f32(),
            };
        }
    }
}

/// `[panel][input][output of the panel]`, zeroes where the last panel has no outputs.
fn pack<T: Plain>(weights: &[T], inputs: usize, arena: &mut Arena) -> Result<Buffer<T>, OutOfMemory> {
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
fn pack_pairs(weights: &[bf16], inputs: usize, arena: &mut Arena) -> Result<Buffer<Pair>, OutOfMemory> {
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

impl Cpu {
    /// `output = input * matrix^T + bias`, or that added to it; `input` is `[rows, inputs]`, `output` `[rows, outputs]`.
    ///
    /// # Panics
    /// If the lengths do not fit the matrix.
    pub(crate) fn product(&mut self, input: &[f32], matrix: &Matrix, output: &mut [f32], mode: Mode) {
        let rows = output.len() / matrix.outputs;
        assert_eq!(output.len(), rows * matrix.outputs, "whole rows of outputs");
        assert_eq!(input.len(), rows * matrix.inputs, "as many rows of inputs");
        match &matrix.panels {
            Panels::F32(panels) => {
                self.multiply::<f32>(
                    &Operands { panels, input, steps: matrix.inputs, rows },
                    matrix,
                    output,
                    mode,
                );
            }
            Panels::F16(panels) => {
                self.multiply::<f16>(
                    &Operands { panels, input, steps: matrix.inputs, rows },
                    matrix,
                    output,
                    mode,
                );
            }
            Panels::Bf16(panels) => {
                let steps = matrix.inputs.div_ceil(2);
                let pairs = self.narrow(input, matrix.inputs);
                self.multiply::<Pair>(&Operands { panels, input: &pairs, steps, rows }, matrix, output, mode);
            }
        }
    }

    fn multiply<W: Format>(
        &mut self,
        operands: &Operands<'_, W>,
        matrix: &Matrix,
        output: &mut [f32],
        mode: Mode,
    ) {
        let panel_bytes = operands.steps * PANEL * size_of::<W>();
        let per_item = (ITEM_BYTES / panel_bytes.max(1)).max(1);
        let panels = matrix.outputs.div_ceil(PANEL);
        let isa = self.isa;
        let output = SharedMut::new(output);
        self.pool.run(panels.div_ceil(per_item), &|item| {
            let panels = item * per_item..panels.min((item + 1) * per_item);
            isa.run(Panelwise { operands, matrix, output, mode, panels });
        });
    }

    /// Rows of bf16 pairs from rows of `width` values, an odd last one paired with zero.
    fn narrow(&mut self, input: &[f32], width: usize) -> Vec<Pair> {
        let steps = width.div_ceil(2);
        let rows = input.len() / width.max(1);
        let mut pairs = vec![[bf16::ZERO; 2]; rows * steps];
        let isa = self.isa;
        let target = SharedMut::new(&mut pairs);
        let per_item = (ITEM_BYTES / (4 * width.max(1))).max(1);
        self.pool.run(rows.div_ceil(per_item), &|item| {
            for row in item * per_item..rows.min((item + 1) * per_item) {
                let from = &input[row * width..][..width];
                // SAFETY: each row of pairs is written by one item only.
                let to =
                    unsafe { std::slice::from_raw_parts_mut(target.at(row * steps).cast::<bf16>(), width) };
                isa.run(Narrow { from, to });
            }
        });
        pairs
    }
}

struct Narrow<'a> {
    from: &'a [f32],
    to: &'a mut [bf16],
}

impl Kernel for Narrow<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (from, from_rest) = self.from.as_chunks::<WIDTH>();
        let (to, to_rest) = self.to.as_chunks_mut::<WIDTH>();
        for (from, to) in from.iter().zip(to) {
            // SAFETY: both hold sixteen elements.
            unsafe { L::load(from.as_ptr()).store_bf16(to.as_mut_ptr()) }
        }
        for (from, to) in from_rest.iter().zip(to_rest) {
            *to = bf16::from_f32(*from);
        }
    }
}

/// How weights of one type meet inputs.
trait Format: Plain {
    /// What an input is converted to beforehand.
    type Input: Plain;
    /// Sixteen weights, or one input sixteen times.
    type Loaded<L: Lanes>: Copy;

    unsafe fn weights<L: Lanes>(from: *const Self) -> Self::Loaded<L>;
    unsafe fn input<L: Lanes>(value: Self::Input) -> Self::Loaded<L>;
    unsafe fn add_product<L: Lanes>(sum: L, input: Self::Loaded<L>, weights: Self::Loaded<L>) -> L;
}

// SAFETY (of the functions below): passed on to `Lanes`, under the same contract.
impl Format for f32 {
    type Input = f32;
    type Loaded<L: Lanes> = L;

    #[inline(always)]
    unsafe fn weights<L: Lanes>(from: *const f32) -> L {
        // SAFETY: see above.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn input<L: Lanes>(value: f32) -> L {
        // SAFETY: see above.
        unsafe { L::splat(value) }
    }
    #[inline(always)]
    unsafe fn add_product<L: Lanes>(sum: L, input: L, weights: L) -> L {
        // SAFETY: see above.
        unsafe { input.mul_add(weights, sum) }
    }
}

// SAFETY (of the functions below): as above.
impl Format for f16 {
    type Input = f32;
    type Loaded<L: Lanes> = L;

    #[inline(always)]
    unsafe fn weights<L: Lanes>(from: *const f16) -> L {
        // SAFETY: see above.
        unsafe { L::load_f16(from) }
    }
    #[inline(always)]
    unsafe fn input<L: Lanes>(value: f32) -> L {
        // SAFETY: see above.
        unsafe { L::splat(value) }
    }
    #[inline(always)]
    unsafe fn add_product<L: Lanes>(sum: L, input: L, weights: L) -> L {
        // SAFETY: see above.
        unsafe { input.mul_add(weights, sum) }
    }
}

// SAFETY (of the functions below): as above.
impl Format for Pair {
    type Input = Pair;
    type Loaded<L: Lanes> = L::Pairs;

    #[inline(always)]
    unsafe fn weights<L: Lanes>(from: *const Pair) -> L::Pairs {
        // SAFETY: see above.
        unsafe { L::load_pairs(from) }
    }
    #[inline(always)]
    unsafe fn input<L: Lanes>(value: Pair) -> L::Pairs {
        // SAFETY: see above.
        unsafe { L::splat_pair(value) }
    }
    #[inline(always)]
    unsafe fn add_product<L: Lanes>(sum: L, input: L::Pairs, weights: L::Pairs) -> L {
        // SAFETY: see above.
        unsafe { sum.add_dot(input, weights) }
    }
}

struct Operands<'a, W: Format> {
    panels: &'a [W],
    input: &'a [W::Input],
    /// Steps along the inputs.
    steps: usize,
    rows: usize,
}

/// The products of all rows by some panels.
struct Panelwise<'a, W: Format> {
    operands: &'a Operands<'a, W>,
    matrix: &'a Matrix,
    output: SharedMut<f32>,
    mode: Mode,
    panels: std::ops::Range<usize>,
}

impl<W: Format> Kernel for Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let rows = self.operands.rows;
        let tiles = rows.div_ceil(L::TILE_ROWS);
        for panel in self.panels.clone() {
            for tile in 0..tiles {
                // Tiles of nearly one height keep the registers busier than full ones and a rest.
                let (from, to) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                // SAFETY: panel and rows are within the operands, whose lengths `product` has checked.
                unsafe { self.tile_of::<L>(panel, from, to - from) }
            }
        }
    }
}

/// Calls `$self.tile::<L, N>` with `N` = `$rows`, among the heights that the lanes have registers for.
macro_rules! by_height {
    ($self:ident, $panel:expr, $from:expr, $rows:expr; $($height:literal)*) => {
        match $rows {
            $($height if $height <= L::TILE_ROWS => $self.tile::<L, $height>($panel, $from),)*
            _ => unreachable!("a tile is at most TILE_ROWS high"),
        }
    };
}

impl<W: Format> Panelwise<'_, W> {
    #[inline(always)]
    unsafe fn tile_of<L: Lanes>(&self, panel: usize, from: usize, rows: usize) {
        // SAFETY: passed on to the caller.
        unsafe { by_height!(self, panel, from, rows; 1 2 3 4 5 6 7 8 9 10 11 12) }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize>(&self, panel: usize, from: usize) {
        let steps = self.operands.steps;
        // SAFETY: `panels` holds `steps * PANEL` weights for this panel, `input` `steps` values for each row.
        unsafe {
            let mut weights = self.operands.panels.as_ptr().add(panel * steps * PANEL);
            let input = self.operands.input.as_ptr().add(from * steps);
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            for step in 0..steps {
                let left = W::weights::<L>(weights);
                let right = W::weights::<L>(weights.add(WIDTH));
                weights = weights.add(PANEL);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = W::input::<L>(*input.add(row * steps + step));
                    sums[0] = W::add_product(sums[0], value, left);
                    sums[1] = W::add_product(sums[1], value, right);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                self.finish(panel * PANEL, from + row, *sums);
            }
        }
    }

    /// Adds the bias and writes one row of a tile.
    #[inline(always)]
    unsafe fn finish<L: Lanes>(&self, first: usize, row: usize, sums: [L; 2]) {
        let outputs = self.matrix.outputs;
        // SAFETY: the outputs from `first` on, at most a panel, belong to this row and item only; the bias is as long as
        // the outputs, and `padded` as a panel.
        unsafe {
            let target = self.output.at(row * outputs + first);
            let bias = self.matrix.bias.as_ref().map(|bias| bias.as_ptr().add(first));
            if first + PANEL <= outputs {
                return self.write(target, bias, sums);
            }
            let mut padded = [[0.0; PANEL]; 2];
            let len = outputs - first;
            target.copy_to_nonoverlapping(padded[0].as_mut_ptr(), len);
            if let Some(bias) = bias {
                bias.copy_to_nonoverlapping(padded[1].as_mut_ptr(), len);
            }
            self.write(padded[0].as_mut_ptr(), bias.map(|_| padded[1].as_ptr()), sums);
            target.copy_from_nonoverlapping(padded[0].as_ptr(), len);
        }
    }

    /// Writes a panel's sums, with the bias where there is one.
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, target: *mut f32, bias: Option<*const f32>, sums: [L; 2]) {
        for (half, mut sum) in sums.into_iter().enumerate() {
            // SAFETY: target and bias are a panel long, by the caller's promise.
            unsafe {
                if let Some(bias) = bias {
                    sum = sum.add(L::load(bias.add(half * WIDTH)));
                }
                let target = target.add(half * WIDTH);
                match self.mode {
                    Mode::Store => sum.store(target),
                    Mode::Add => L::load(target).add(sum).store(target),
                }
            }
        }
    }
}
