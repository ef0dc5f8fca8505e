//! What this machine can do at most, and what our products make of it: measured in one run, so that ratios mean something.

use std::{io, time::Duration};

use half::bf16;
use tokio::time::Instant;

use super::{
    Arena, Cpu, Isa, Matrix, MatrixError, Mode, Weights,
    buffer::Buffer,
    isa::{Kernel, UnpackedKernel},
    lanes::{Lanes, Unpacking, WIDTH},
};

/// Bytes that are read to measure bandwidth, and the least weights of a product: more than any cache holds.
const BYTES: usize = 256 << 20;

/// Values of one item of reading.
const ITEM: usize = 64 << 10;

/// Sums that are independent of each other: enough to hide the latency of a dot product, few enough for registers.
const CHAINS: usize = 8;

/// As `CHAINS`, where two registers hold sixteen sums.
const UNPACKED_CHAINS: usize = 5;

/// Operations of one chain in one item.
const LINKS: usize = 100_000;

/// How long memory is read to see what it gives without a pause: for some hundredths of a second it may give more, as was
/// seen on rented processors.
const SUSTAINED: Duration = Duration::from_secs(1);

/// Times that each measurement is made; the fastest counts.
const RUNS: usize = 5;

/// An arithmetic that weights are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Dot products of bf16 pairs, or what stands for them where there are none: multiply-adds of `f32`.
    Bf16,
    /// Dot products of four bytes, or of two 16-bit numbers.
    Int8,
}

/// A form of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 16-bit floats.
    Bf16,
    /// 8 bits, a scale for each output.
    Int8,
    /// 4 bits in groups of this many inputs.
    Int4(usize),
}

/// How fast products are.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Seconds of one pass over all matrices.
    pub seconds: f64,
    /// Multiplications and additions a second.
    pub operations: f64,
    /// Bytes of weights, scales and minima a second.
    pub bytes: f64,
}

/// Bytes a second that are read from memory.
#[derive(Clone, Copy, Debug)]
pub struct ReadBandwidth {
    /// In the fastest pass over memory, of some milliseconds.
    pub fastest: f64,
    /// For a second on end: the limit of a program that answers for as long.
    pub sustained: f64,
}

/// A CPU under measurement.
#[derive(Debug)]
pub struct Roofline {
    cpu: Cpu,
}

impl Roofline {
    /// With the best instructions of this machine and `threads` threads; 0 for one per core.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism()?.get(),
            threads => threads,
        };
        Ok(Self { cpu: Cpu::new(Isa::best(), threads)? })
    }

    /// Threads that compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.cpu.pool.threads()
    }

    /// What all threads together read from memory.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn read_bandwidth(&mut self) -> io::Result<ReadBandwidth> {
        let mut memory: Buffer<f32> =
            Arena::default().zeroed(BYTES / size_of::<f32>()).map_err(io::Error::other)?;
        // What was never written is one page of zeroes, again and again.
        memory.fill(1.0);
        let Cpu { isa, pool, .. } = &mut self.cpu;
        let mut read =
            || pool.run(memory.len() / ITEM, &|item| isa.run(Read(&memory[item * ITEM..][..ITEM])));
        let seconds = fastest(&mut read);
        let (start, mut passes) = (Instant::now(), 0.0);
        while start.elapsed() < SUSTAINED {
            read();
            passes += 1.0;
        }
        let sustained = passes * BYTES as f64 / start.elapsed().as_secs_f64();
        Ok(ReadBandwidth { fastest: BYTES as f64 / seconds, sustained })
    }

    /// Multiplications and additions a second of all threads together, on operands in registers.
    pub fn peak(&mut self, arithmetic: Arithmetic) -> f64 {
        /// Items, shared out among the threads.
        const ITEMS: usize = 24;
        let Cpu { isa, pool, .. } = &mut self.cpu;
        let (seconds, chains) = match isa.unpacked() {
            None => (fastest(|| pool.run(ITEMS, &|_| isa.run(Links(arithmetic)))), CHAINS),
            Some(isa) => (fastest(|| pool.run(ITEMS, &|_| isa.run(Links(arithmetic)))), UNPACKED_CHAINS),
        };
        let products = match (arithmetic, isa.unpacked()) {
            (Arithmetic::Bf16, Some(_)) => 1,
            (Arithmetic::Bf16, None) | (Arithmetic::Int8, Some(_)) => 2,
            (Arithmetic::Int8, None) => 4,
        };
        (ITEMS * LINKS * chains * WIDTH * 2 * products) as f64 / seconds
    }

    /// Products of `rows` rows by a matrix of each of `shapes`, `(inputs, outputs)`, over and over with other weights.
    ///
    /// # Errors
    /// There is no memory for it, or a shape does not suit the format.
    pub fn products(&mut self, format: Format, rows: usize, shapes: &[(usize, usize)]) -> io::Result<Speed> {
        let weights: usize = shapes.iter().map(|(inputs, outputs)| inputs * outputs).sum();
        let mut arena = Arena::default();
        let set = |arena: &mut Arena| -> Result<Vec<Matrix>, MatrixError> {
            shapes.iter().map(|shape| matrix(format, *shape, arena)).collect()
        };
        let first = set(&mut arena).map_err(io::Error::other)?;
        let bytes: usize = first.iter().map(Matrix::bytes).sum();
        let mut sets = vec![first];
        while sets.len() * bytes < BYTES {
            sets.push(set(&mut arena).map_err(io::Error::other)?);
        }
        let widest = |side: fn(&(usize, usize)) -> usize| shapes.iter().map(side).max().unwrap_or(0);
        let input = vec![0.5; rows * widest(|shape| shape.0)];
        let mut output = vec![0.0; rows * widest(|shape| shape.1)];
        let seconds = fastest(|| {
            for matrix in sets.iter().flatten() {
                let (input, output) =
                    (&input[..rows * matrix.inputs()], &mut output[..rows * matrix.outputs()]);
                self.cpu.product(input, matrix, output, Mode::Store);
            }
        }) / sets.len() as f64;
        Ok(Speed {
            seconds,
            operations: (2 * rows * weights) as f64 / seconds,
            bytes: bytes as f64 / seconds,
        })
    }
}

/// Weights of some value: speed does not depend on it.
fn matrix(
    format: Format,
    (inputs, outputs): (usize, usize),
    arena: &mut Arena,
) -> Result<Matrix, MatrixError> {
    let len = inputs * outputs;
    match format {
        Format::Bf16 => Matrix::new(Weights::Bf16(&vec![bf16::from_f32(0.25); len]), outputs, None, arena),
        Format::Int8 => {
            let (values, scales) = (vec![3; len], vec![0.1; outputs]);
            Matrix::new(Weights::Int8 { values: &values, scales: &scales }, outputs, None, arena)
        }
        Format::Int4(group) => {
            let (codes, scales) = (vec![0x37; len / 2], vec![0.1; outputs * (inputs / group)]);
            let weights = Weights::Int4 { codes: &codes, scales: &scales, mins: &scales, group };
            Matrix::new(weights, outputs, None, arena)
        }
    }
}

/// Seconds of the fastest of some runs, after one that does not count.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let mut time = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| time()).fold(f64::INFINITY, f64::min)
}

/// Reads values and keeps nothing.
struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (chunks, _) = self.0.as_chunks::<{ 4 * WIDTH }>();
        // SAFETY: each chunk holds four times sixteen values; the instructions are present, by the caller's promise.
        unsafe {
            let mut largest = [L::splat(0.0); 4];
            for chunk in chunks {
                for (part, largest) in largest.iter_mut().enumerate() {
                    *largest = largest.max(L::load(chunk.as_ptr().add(part * WIDTH)));
                }
            }
            std::hint::black_box(largest.map(|largest| largest.largest()));
        }
    }
}

/// Chains of the operations that products are made of. Operands come from a cache that the compiler knows nothing of, or
/// else it would multiply once for all links.
struct Links(Arithmetic);

impl Kernel for Links {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (pairs, quads) = ([[bf16::ONE; 2]; WIDTH], [1_u8; 4 * WIDTH]);
        // SAFETY: the instructions are present, by the caller's promise; there are sixteen pairs and quads.
        unsafe {
            match self.0 {
                Arithmetic::Bf16 => {
                    let mut sums = [L::splat(0.0); CHAINS];
                    for _ in 0..LINKS {
                        let operand = L::load_pairs(std::hint::black_box(&pairs).as_ptr());
                        for sum in &mut sums {
                            *sum = sum.add_dot(operand, operand);
                        }
                    }
                    std::hint::black_box(sums.map(|sum| sum.largest()));
                }
                Arithmetic::Int8 => {
                    let mut sums = [L::splat_int(0); CHAINS];
                    for _ in 0..LINKS {
                        let operand = L::load_quads(std::hint::black_box(&quads).as_ptr());
                        for sum in &mut sums {
                            *sum = L::add_quad_dot(*sum, operand, operand);
                        }
                    }
                    std::hint::black_box(sums.map(|sum| L::from_ints(sum).largest()));
                }
            }
        }
    }
}

impl UnpackedKernel for Links {
    #[inline(always)]
    unsafe fn run<L: Unpacking>(self) {
        // SAFETY: the instructions are present, by the caller's promise.
        unsafe {
            match self.0 {
                Arithmetic::Bf16 => {
                    let mut sums = [L::splat(0.0); UNPACKED_CHAINS];
                    for _ in 0..LINKS {
                        let operand = L::splat(std::hint::black_box(1.0));
                        for sum in &mut sums {
                            *sum = operand.mul_add(operand, *sum);
                        }
                    }
                    std::hint::black_box(sums.map(|sum| sum.largest()));
                }
                Arithmetic::Int8 => {
                    let operand = L::splat_words([1; 2]);
                    let mut sums = [L::splat_int(0); UNPACKED_CHAINS];
                    for _ in 0..LINKS {
                        for sum in &mut sums {
                            let other = L::splat_words(std::hint::black_box([1; 2]));
                            *sum = L::add_word_dot(*sum, operand, other);
                        }
                    }
                    std::hint::black_box(sums.map(|sum| L::from_ints(sum).largest()));
                }
            }
        }
    }
}
