//! What becomes of a panel's sums.

use std::marker::PhantomData;

use super::{Mode, PANEL};
use crate::kernels::{
    lanes::{Lanes, WIDTH},
    shared::SharedMut,
};

/// Where a product goes: `[rows, outputs]`.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    output: SharedMut<f32>,
    rows: usize,
    outputs: usize,
    bias: Option<&'a [f32]>,
    mode: Mode,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> Target<'a> {
    /// # Panics
    /// If `bias` has another length than a row.
    pub(super) fn new(output: &'a mut [f32], outputs: usize, bias: Option<&'a [f32]>, mode: Mode) -> Self {
        assert!(bias.is_none_or(|bias| bias.len() == outputs), "one bias an output");
        let rows = output.len() / outputs;
        Self { output: SharedMut::new(output), rows, outputs, bias, mode, borrow: PhantomData }
    }

    /// Rows of outputs.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Panels that cover the outputs.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Adds the bias and writes a panel's sums of one row.
    ///
    /// # Safety
    /// As for [`Lanes`]; panel and row are within the output, and nobody else writes them.
    #[inline(always)]
    pub(super) unsafe fn write<L: Lanes>(&self, panel: usize, row: usize, sums: [L; 2]) {
        let (first, outputs) = (panel * PANEL, self.outputs);
        // SAFETY: the outputs from `first` on, at most a panel, belong to this row and item only; the bias is as long as
        // the outputs, and `padded` as a panel.
        unsafe {
            let target = self.output.at(row * outputs + first);
            let bias = self.bias.map(|bias| bias.as_ptr().add(first));
            if first + PANEL <= outputs {
                return self.write_all(target, bias, sums);
            }
            let mut padded = [[0.0; PANEL]; 2];
            let len = outputs - first;
            target.copy_to_nonoverlapping(padded[0].as_mut_ptr(), len);
            if let Some(bias) = bias {
                bias.copy_to_nonoverlapping(padded[1].as_mut_ptr(), len);
            }
            self.write_all(padded[0].as_mut_ptr(), bias.map(|_| padded[1].as_ptr()), sums);
            target.copy_from_nonoverlapping(padded[0].as_ptr(), len);
        }
    }

    /// Writes a panel's sums, with the bias where there is one.
    #[inline(always)]
    unsafe fn write_all<L: Lanes>(&self, target: *mut f32, bias: Option<*const f32>, sums: [L; 2]) {
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
