//! From floats to codes.
//!
//! The range of codes is not simply laid over the least and the largest weight: several ranges are tried, for each the scale
//! (and least value) that fits its codes best is solved by least squares, and what comes closest to the weights is kept.

mod int4;
mod int8;
#[cfg(test)]
mod tests;

use std::{ops::Range, thread};

use half::f16;

use crate::{Format, Group};

/// A matrix `[outputs, inputs]` in fewer bits.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix {
    /// Rows: what a product by it gives.
    pub outputs: usize,
    /// Columns: what a product by it takes.
    pub inputs: usize,
    /// Its weights.
    pub codes: Codes,
}

/// The weights of a [`QuantizedMatrix`].
#[derive(Clone, Debug, PartialEq)]
pub enum Codes {
    /// [`Format::Int8`]: `weight = value * scale`.
    Int8 {
        /// `[outputs, inputs]`, from -127 to 127.
        values: Vec<i8>,
        /// `[outputs]`
        scales: Vec<f32>,
    },
    /// [`Format::Int4`]: `weight = code * scale + min`.
    Int4 {
        /// `[outputs, inputs / 2]`: two codes a byte, the one of the even input in the low half.
        codes: Vec<u8>,
        /// `[outputs, inputs / group]`
        scales: Vec<f16>,
        /// `[outputs, inputs / group]`
        mins: Vec<f16>,
        /// Inputs that share a scale and a least value.
        group: Group,
    },
}

/// Weights that have no form in a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// One of them is infinite or not a number.
    #[error("a value is not a finite number")]
    NotFinite,
    /// One of them is so large that the least value of its group is no 16-bit float.
    #[error("a value is above 65504, the largest 16-bit float, in which least values are kept")]
    TooLarge,
    /// The inputs do not divide into groups.
    #[error("its inputs do not divide into groups of {0}")]
    Uneven(usize),
}

/// Weights that are to be quantized.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain<'a> {
    /// `[outputs, inputs]`
    pub(crate) values: &'a [f32],
    /// Columns; at least one.
    pub(crate) inputs: usize,
    /// `[inputs]`: how much an error in each column weighs.
    pub(crate) importance: &'a [f32],
}

impl Plain<'_> {
    /// In fewer bits, by `threads` threads.
    ///
    /// # Errors
    /// The weights have no form in the format.
    pub(crate) fn quantize(&self, format: Format, threads: usize) -> Result<QuantizedMatrix, Unfit> {
        self.check(format)?;
        let outputs = self.values.len() / self.inputs;
        let share = outputs.div_ceil(threads.max(1)).max(1);
        let parts = thread::scope(|scope| {
            let starts = (0..outputs).step_by(share);
            let threads: Vec<_> = starts
                .map(|start| scope.spawn(move || self.rows(start..outputs.min(start + share), format)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(resume)).collect::<Vec<_>>()
        });
        Ok(stacked(parts, self.inputs, format))
    }

    fn check(&self, format: Format) -> Result<(), Unfit> {
        let largest = self.values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let group = if let Format::Int4(group) = format { group.size() } else { 1 };
        if !self.values.iter().all(|value| value.is_finite()) {
            Err(Unfit::NotFinite)
        } else if format != Format::Int8 && largest > f16::MAX.to_f32() {
            Err(Unfit::TooLarge)
        } else if !self.inputs.is_multiple_of(group) {
            Err(Unfit::Uneven(group))
        } else {
            Ok(())
        }
    }

    fn rows(&self, rows: Range<usize>, format: Format) -> Codes {
        let values = &self.values[rows.start * self.inputs..rows.end * self.inputs];
        match format {
            Format::Int8 => int8::quantize(values, self.importance),
            Format::Int4(group) => int4::quantize(values, self.importance, group),
        }
    }
}

/// A panic of a thread goes on in its caller.
fn resume(panic: Box<dyn std::any::Any + Send>) -> Codes {
    std::panic::resume_unwind(panic)
}

/// Parts of one format, one below the other.
fn stacked(parts: Vec<Codes>, inputs: usize, format: Format) -> QuantizedMatrix {
    let mut whole = QuantizedMatrix { outputs: 0, inputs, codes: Codes::none(format) };
    for part in parts {
        whole.codes.append(part);
    }
    whole.outputs = whole.codes.weights() / inputs;
    whole
}

impl Codes {
    fn none(format: Format) -> Self {
        match format {
            Format::Int8 => Self::Int8 { values: Vec::new(), scales: Vec::new() },
            Format::Int4(group) => {
                Self::Int4 { codes: Vec::new(), scales: Vec::new(), mins: Vec::new(), group }
            }
        }
    }

    fn weights(&self) -> usize {
        match self {
            Self::Int8 { values, .. } => values.len(),
            Self::Int4 { codes, .. } => 2 * codes.len(),
        }
    }

    /// Puts rows of the same format below these; says whether it could.
    fn append(&mut self, below: Self) -> bool {
        match (self, below) {
            (Self::Int8 { values, scales }, Self::Int8 { values: more, scales: more_scales }) => {
                values.extend(more);
                scales.extend(more_scales);
                true
            }
            (
                Self::Int4 { codes, scales, mins, group },
                Self::Int4 { codes: more, scales: more_scales, mins: more_mins, group: other },
            ) if *group == other => {
                codes.extend(more);
                scales.extend(more_scales);
                mins.extend(more_mins);
                true
            }
            _ => false,
        }
    }
}

impl QuantizedMatrix {
    /// The format it is in.
    pub fn format(&self) -> Format {
        match self.codes {
            Codes::Int8 { .. } => Format::Int8,
            Codes::Int4 { group, .. } => Format::Int4(group),
        }
    }

    /// Puts the rows of another matrix below its own. Says whether it could: both need one format and as many inputs.
    #[must_use]
    pub fn append(&mut self, below: Self) -> bool {
        let outputs = below.outputs;
        let fits = self.inputs == below.inputs && self.codes.append(below.codes);
        self.outputs += if fits { outputs } else { 0 };
        fits
    }

    /// What a row of weights is taken for in a product.
    ///
    /// # Panics
    /// If it has no such row, or `into` is not as long as one.
    pub fn dequantize_row(&self, row: usize, into: &mut [f32]) {
        assert_eq!(into.len(), self.inputs, "a row of this matrix");
        match &self.codes {
            Codes::Int8 { values, scales } => {
                let codes = &values[row * self.inputs..][..self.inputs];
                into.iter_mut().zip(codes).for_each(|(value, code)| *value = f32::from(*code) * scales[row]);
            }
            Codes::Int4 { codes, scales, mins, group } => {
                let (bytes, groups) = (self.inputs / 2, self.inputs / group.size());
                let codes = &codes[row * bytes..][..bytes];
                for (input, value) in into.iter_mut().enumerate() {
                    let at = row * groups + input / group.size();
                    let code = codes[input / 2] >> (input % 2 * 4) & 15;
                    *value = f32::from(code).mul_add(scales[at].to_f32(), mins[at].to_f32());
                }
            }
        }
    }

    /// How far it is from the weights it was made from: the length of the difference over their length.
    ///
    /// # Panics
    /// If `values` is not `[outputs, inputs]`.
    pub fn relative_error(&self, values: &[f32]) -> f64 {
        assert_eq!(values.len(), self.outputs * self.inputs, "the weights it was made from");
        let mut row = vec![0.0; self.inputs];
        let (mut difference, mut length) = (0.0_f64, 0.0_f64);
        for (index, original) in values.chunks_exact(self.inputs).enumerate() {
            self.dequantize_row(index, &mut row);
            for (ours, original) in row.iter().zip(original) {
                difference += f64::from(ours - original).powi(2);
                length += f64::from(*original).powi(2);
            }
        }
        if difference == 0.0 { 0.0 } else { (difference / length).sqrt() }
    }

    /// Bytes of its codes, scales and least values in a file.
    pub fn bytes(&self) -> usize {
        match &self.codes {
            Codes::Int8 { values, scales } => values.len() + 4 * scales.len(),
            Codes::Int4 { codes, scales, mins, .. } => codes.len() + 2 * (scales.len() + mins.len()),
        }
    }
}
