//! What happens to each row by itself between the products.

use super::{
    Cpu,
    isa::Kernel,
    lanes::{Lanes, WIDTH, exp},
    shared::SharedMut,
};

/// Values of one item of work: some microseconds.
const ITEM_VALUES: usize = 16 << 10;

impl Cpu {
    /// RMS norm: each row of `input` over its root mean square, times `weight`.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub(crate) fn rms_norm(&mut self, input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
        let width = weight.len();
        assert_eq!(input.len(), output.len(), "as many outputs as inputs");
        let isa = self.isa;
        self.each_row(output, width, &|row, to| {
            isa.run(RmsNorm { from: &input[row * width..][..width], weight, epsilon, to });
        });
    }

    /// SwiGLU: rows of `[gate, up]` to rows of `silu(gate) * up`, `width` values each.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub(crate) fn swiglu(&mut self, gate_up: &[f32], width: usize, output: &mut [f32]) {
        assert_eq!(gate_up.len(), 2 * output.len(), "a gate and an up for each output");
        let isa = self.isa;
        self.each_row(output, width, &|row, to| {
            let (gate, up) = gate_up[row * 2 * width..][..2 * width].split_at(width);
            isa.run(SwiGlu { gate, up, to });
        });
    }

    /// Runs `work` for each row of `width` values of `output`, shared out among the threads.
    pub(super) fn each_row(
        &mut self,
        output: &mut [f32],
        width: usize,
        work: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let rows = output.len() / width;
        assert_eq!(output.len(), rows * width, "whole rows");
        let per_item = (ITEM_VALUES / width).max(1);
        let output = SharedMut::new(output);
        self.pool.run(rows.div_ceil(per_item), &|item| {
            for row in item * per_item..rows.min((item + 1) * per_item) {
                // SAFETY: within the buffer, and each row belongs to one item.
                work(row, unsafe { std::slice::from_raw_parts_mut(output.at(row * width), width) });
            }
        });
    }
}

/// One row's norm. `to` may be where `from` was read from in an earlier call, not in this one.
pub(super) struct RmsNorm<'a> {
    pub(super) from: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) epsilon: f32,
    pub(super) to: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the instructions are present, by the caller's promise.
        let scale = unsafe { inverse_rms::<L>(self.from, self.epsilon) };
        for ((to, from), weight) in self.to.iter_mut().zip(self.from).zip(self.weight) {
            *to = from * scale * weight;
        }
    }
}

/// `1 / sqrt(mean(x^2) + epsilon)`.
///
/// # Safety
/// The instructions of `L` are present.
#[inline(always)]
pub(super) unsafe fn inverse_rms<L: Lanes>(row: &[f32], epsilon: f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<WIDTH>();
    // SAFETY: each chunk holds sixteen values.
    let squares = unsafe {
        let mut sum = L::splat(0.0);
        for chunk in chunks {
            let values = L::load(chunk.as_ptr());
            sum = values.mul_add(values, sum);
        }
        sum.sum()
    };
    let squares = rest.iter().fold(squares, |sum, value| sum + value * value);
    1.0 / (squares / row.len() as f32 + epsilon).sqrt()
}

struct SwiGlu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let ((gates, gate_rest), (ups, up_rest)) =
            (self.gate.as_chunks::<WIDTH>(), self.up.as_chunks::<WIDTH>());
        let (outputs, output_rest) = self.to.as_chunks_mut::<WIDTH>();
        for ((gate, up), to) in gates.iter().zip(ups).zip(outputs) {
            // SAFETY: each chunk holds sixteen values.
            unsafe {
                let gate = L::load(gate.as_ptr());
                let one = L::splat(1.0);
                let silu = gate.div(one.add(exp(L::splat(0.0).sub(gate))));
                silu.mul(L::load(up.as_ptr())).store(to.as_mut_ptr());
            }
        }
        for ((gate, up), to) in gate_rest.iter().zip(up_rest).zip(output_rest) {
            *to = gate / (1.0 + (-gate).exp()) * up;
        }
    }
}
