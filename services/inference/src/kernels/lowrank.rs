//! Low-rank products: what adapters add to a matrix's output.
//!
//! A step may hold rows of many adapters, one row each. So one call takes them all, and its items of work are a few rows
//! of one adapter: both products of an item run on one thread, the small vector between them never leaves its cache, and
//! sixteen adapters cost one call, not thirty-two.

use half::bf16;

use super::{
    Cpu, Dtype,
    buffer::{Buffer, OutOfMemory, Plain},
    isa::Kernel,
    lanes::{Lanes, Pair, WIDTH},
    matrix::format::Format,
    shared::SharedMut,
};

/// Rows of one item: as many as share one reading of the weights.
const ITEM_ROWS: usize = 8;

/// Two factors of one adapter for some of a matrix's outputs, as files hold them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors<'a> {
    /// `[rank, inputs]`
    pub(crate) down: &'a [f32],
    /// `[outputs, rank]`, the adapter's scale included.
    pub(crate) up: &'a [f32],
    /// More than 0.
    pub(crate) rank: usize,
    /// Where its outputs begin among those of the matrix.
    pub(crate) first_output: usize,
}

/// All that one adapter adds to one matrix.
#[derive(Debug)]
pub(crate) struct LowRank {
    inputs: usize,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    F32(Vec<Part<f32>>),
    /// Two inputs side by side, as in a matrix.
    Bf16(Vec<Part<Pair>>),
}

#[derive(Debug)]
struct Part<W> {
    rank: usize,
    first_output: usize,
    outputs: usize,
    down: Panels<W>,
    up: Panels<W>,
}

/// `[panel of outputs][step along the inputs][output of the panel]`; zeroes where there is none.
#[derive(Debug)]
struct Panels<W>(Buffer<W>);

impl LowRank {
    /// Rearranges factors of `inputs` columns. Weights of 16-bit models are kept in bf16, or f32 where bf16 would lose.
    ///
    /// # Errors
    /// There is no memory for it.
    ///
    /// # Panics
    /// If lengths do not fit: the caller has checked shapes.
    pub(crate) fn new(factors: &[Factors<'_>], inputs: usize, dtype: Dtype) -> Result<Self, OutOfMemory> {
        let parts = match dtype {
            Dtype::Bf16 => Parts::Bf16(packed(factors, inputs)?),
            Dtype::F32 | Dtype::F16 => Parts::F32(packed(factors, inputs)?),
        };
        Ok(Self { inputs, parts })
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match &self.parts {
            Parts::F32(parts) => bytes(parts),
            Parts::Bf16(parts) => bytes(parts),
        }
    }

    fn end_output(&self) -> usize {
        match &self.parts {
            Parts::F32(parts) => end_output(parts),
            Parts::Bf16(parts) => end_output(parts),
        }
    }
}

fn bytes<W: Plain>(parts: &[Part<W>]) -> usize {
    parts.iter().map(|part| (part.down.0.len() + part.up.0.len()) * size_of::<W>()).sum()
}

fn end_output<W>(parts: &[Part<W>]) -> usize {
    parts.iter().map(|part| part.first_output + part.outputs).max().unwrap_or(0)
}

fn packed<W: Thin>(factors: &[Factors<'_>], inputs: usize) -> Result<Vec<Part<W>>, OutOfMemory> {
    let part = |factors: &Factors<'_>| {
        let (rank, outputs) = (factors.rank, factors.up.len() / factors.rank);
        assert_eq!((factors.down.len(), factors.up.len()), (rank * inputs, rank * outputs), "two matrices");
        Ok(Part {
            rank,
            first_output: factors.first_output,
            outputs,
            down: panels(factors.down, inputs)?,
            up: panels(factors.up, rank)?,
        })
    };
    factors.iter().map(part).collect()
}

fn panels<W: Thin>(values: &[f32], inputs: usize) -> Result<Panels<W>, OutOfMemory> {
    let (outputs, steps) = (values.len() / inputs, inputs.div_ceil(W::INPUTS));
    let mut packed = Buffer::<W>::zeroed(outputs.div_ceil(WIDTH) * steps * WIDTH)?;
    for (output, row) in values.chunks_exact(inputs).enumerate() {
        for (step, values) in row.chunks(W::INPUTS).enumerate() {
            packed[(output / WIDTH * steps + step) * WIDTH + output % WIDTH] = W::weight(values);
        }
    }
    Ok(Panels(packed))
}

/// Some rows of a step, and what an adapter adds to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adapted<'a> {
    /// Ascending indices of rows; no row is in two.
    pub(crate) rows: &'a [usize],
    /// What is added.
    pub(crate) low_rank: &'a LowRank,
}

impl Cpu {
    /// `output[row] += up * (down * input[row])` for the rows of each of `adapted`. `output` has rows of `outputs` values.
    ///
    /// # Panics
    /// If rows or lengths do not fit.
    pub(crate) fn add_low_rank(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        outputs: usize,
        adapted: &[Adapted<'_>],
    ) {
        let mut seen = vec![false; output.len() / outputs.max(1)];
        for Adapted { rows, low_rank } in adapted {
            assert!(low_rank.end_output() <= outputs, "outputs of this matrix");
            for row in *rows {
                assert!(!std::mem::replace(&mut seen[*row], true), "a row belongs to one adapter");
                assert!((row + 1) * low_rank.inputs <= input.len(), "a row of the input");
            }
        }
        let items: Vec<(&[usize], &LowRank)> = adapted
            .iter()
            .flat_map(|adapted| adapted.rows.chunks(ITEM_ROWS).map(|rows| (rows, adapted.low_rank)))
            .collect();
        let (isa, output) = (self.isa, SharedMut::new(output));
        self.pool.run(items.len(), &|item| {
            let (rows, low_rank) = items[item];
            let inputs = low_rank.inputs;
            match &low_rank.parts {
                Parts::F32(parts) => isa.run(Item { parts, inputs, input, rows, output, outputs }),
                Parts::Bf16(parts) => isa.run(Item { parts, inputs, input, rows, output, outputs }),
            }
        });
    }
}

/// How values of one type are made for thin products.
trait Thin: Format {
    /// The weight of one step, from one or two values.
    fn weight(values: &[f32]) -> Self;
    /// Appends the inputs of a row.
    ///
    /// # Safety
    /// The instructions of `L` are present.
    unsafe fn append<L: Lanes>(row: &[f32], to: &mut Vec<Self::Input>);
}

impl Thin for f32 {
    fn weight(values: &[f32]) -> f32 {
        values[0]
    }
    #[inline(always)]
    unsafe fn append<L: Lanes>(row: &[f32], to: &mut Vec<f32>) {
        to.extend_from_slice(row);
    }
}

impl Thin for Pair {
    fn weight(values: &[f32]) -> Pair {
        [values[0], values.get(1).copied().unwrap_or(0.0)].map(bf16::from_f32)
    }
    #[inline(always)]
    unsafe fn append<L: Lanes>(row: &[f32], to: &mut Vec<Pair>) {
        let (whole, rest) = row.as_chunks::<WIDTH>();
        for values in whole {
            let mut pairs = [[bf16::ZERO; 2]; WIDTH / 2];
            // SAFETY: both hold sixteen values.
            unsafe { L::load(values.as_ptr()).store_bf16(pairs.as_mut_ptr().cast()) }
            to.extend_from_slice(&pairs);
        }
        to.extend(rest.chunks(2).map(Self::weight));
    }
}

/// Both products of a few rows of one adapter.
struct Item<'a, W> {
    parts: &'a [Part<W>],
    inputs: usize,
    input: &'a [f32],
    rows: &'a [usize],
    output: SharedMut<f32>,
    outputs: usize,
}

impl<W: Thin> Kernel for Item<'_, W> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let rows = self.rows.iter().map(|row| &self.input[row * self.inputs..][..self.inputs]);
        let (mut input, mut small, mut between) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            // SAFETY: the instructions are present, by the caller's promise.
            unsafe { W::append::<L>(row, &mut input) }
        }
        for part in self.parts {
            let width = part.rank.next_multiple_of(WIDTH);
            small.clear();
            small.resize(self.rows.len() * width, 0.0);
            let mut at = [std::ptr::null_mut(); ITEM_ROWS];
            for (row, at) in small.chunks_exact_mut(width).zip(&mut at) {
                *at = row.as_mut_ptr();
            }
            // SAFETY: each row of `small` holds whole panels of the rank.
            unsafe {
                Product { panels: &part.down, input: &input, outputs: width }
                    .add_to::<L>(&at, self.rows.len())
            }
            between.clear();
            for row in small.chunks_exact(width) {
                // SAFETY: as above.
                unsafe { W::append::<L>(&row[..part.rank], &mut between) }
            }
            for (row, at) in self.rows.iter().zip(&mut at) {
                // SAFETY: row and outputs are within the output, as `add_low_rank` has checked; each row is in one item.
                *at = unsafe { self.output.at(row * self.outputs + part.first_output) };
            }
            let product = Product { panels: &part.up, input: &between, outputs: part.outputs };
            // SAFETY: as above: `part.outputs` values from there on are this item's.
            unsafe { product.add_to::<L>(&at, self.rows.len()) }
        }
    }
}

/// Some rows by a thin matrix.
struct Product<'a, W: Thin> {
    panels: &'a Panels<W>,
    /// `[rows, steps]`
    input: &'a [W::Input],
    outputs: usize,
}

impl<W: Thin> Product<'_, W> {
    /// Adds the products of the first `rows` rows to what is `at` each.
    ///
    /// # Safety
    /// `outputs` values from each `at` on may be written; the instructions of `L` are present.
    #[inline(always)]
    unsafe fn add_to<L: Lanes>(&self, at: &[*mut f32; ITEM_ROWS], rows: usize) {
        let steps = self.input.len() / rows.max(1);
        for panel in 0..self.outputs.div_ceil(WIDTH) {
            let weights = &self.panels.0[panel * steps * WIDTH..][..steps * WIDTH];
            let mut row = 0;
            while row < rows {
                // Four rows share a reading of the weights; a row's sum never depends on how many do.
                // SAFETY: passed on to the caller; the rows are below `rows`.
                row += unsafe {
                    if row + 4 <= rows {
                        self.panel::<L, 4>(weights, panel, row, at)
                    } else {
                        self.panel::<L, 1>(weights, panel, row, at)
                    }
                };
            }
        }
    }

    #[inline(always)]
    unsafe fn panel<L: Lanes, const ROWS: usize>(
        &self,
        weights: &[W],
        panel: usize,
        first: usize,
        at: &[*mut f32; ITEM_ROWS],
    ) -> usize {
        let steps = weights.len() / WIDTH;
        let input = &self.input[first * steps..][..ROWS * steps];
        // SAFETY: `weights` and `input` hold as many steps; the targets are the caller's promise.
        unsafe {
            let mut sums = [L::splat(0.0); ROWS];
            for step in 0..steps {
                let weight = W::weights::<L>(weights.as_ptr().add(step * WIDTH));
                for (row, sum) in sums.iter_mut().enumerate() {
                    let value = W::input::<L>(*input.as_ptr().add(row * steps + step));
                    *sum = W::add_product(*sum, value, weight);
                }
            }
            let left = self.outputs - panel * WIDTH;
            for (row, sum) in sums.into_iter().enumerate() {
                let target = at[first + row].add(panel * WIDTH);
                if left >= WIDTH {
                    L::load(target).add(sum).store(target);
                } else {
                    let mut padded = [0.0; WIDTH];
                    target.copy_to_nonoverlapping(padded.as_mut_ptr(), left);
                    L::load(padded.as_ptr()).add(sum).store(padded.as_mut_ptr());
                    target.copy_from_nonoverlapping(padded.as_ptr(), left);
                }
            }
        }
        ROWS
    }
}
