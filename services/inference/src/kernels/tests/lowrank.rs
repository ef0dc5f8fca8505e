use half::bf16;

use super::{assert_close, cpus, random};
use crate::kernels::{Adapted, Dtype, Factors, LowRank};

const INPUTS: usize = 41;
const OUTPUTS: usize = 70;

/// Two parts, the second of an odd rank: outputs 0..33 and 37..70.
struct Adapter {
    low_rank: LowRank,
    parts: Vec<(Vec<f32>, Vec<f32>, usize, usize)>,
}

fn adapter(dtype: Dtype, seed: u64) -> Adapter {
    let parts: Vec<_> = [(16, 0), (5, 37)]
        .into_iter()
        .map(|(rank, first)| {
            let mut values = random(seed + first as u64, rank * (INPUTS + 33));
            if dtype == Dtype::Bf16 {
                values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
            }
            let up = values.split_off(rank * INPUTS);
            (values, up, rank, first)
        })
        .collect();
    let factors: Vec<Factors<'_>> = parts
        .iter()
        .map(|(down, up, rank, first_output)| Factors { down, up, rank: *rank, first_output: *first_output })
        .collect();
    Adapter { low_rank: LowRank::new(&factors, INPUTS, dtype).unwrap(), parts }
}

/// What a plain loop adds to one row.
fn add(adapter: &Adapter, input: &[f32], output: &mut [f64]) {
    for (down, up, rank, first) in &adapter.parts {
        let small: Vec<f64> = down
            .chunks_exact(INPUTS)
            .map(|row| {
                row.iter().zip(input).map(|(weight, value)| f64::from(*weight) * f64::from(*value)).sum()
            })
            .collect();
        for (at, row) in up.chunks_exact(*rank).enumerate() {
            let sum: f64 = row.iter().zip(&small).map(|(weight, small)| f64::from(*weight) * small).sum();
            output[first + at] += sum;
        }
    }
}

fn input(dtype: Dtype, rows: usize) -> Vec<f32> {
    let mut input = random(99, rows * INPUTS);
    if dtype == Dtype::Bf16 {
        input.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
    }
    input
}

#[test]
fn rows_of_two_adapters_and_of_none_get_what_plain_loops_add() {
    const ROWS: usize = 29;
    for (dtype, tolerance) in [(Dtype::F32, 1e-4), (Dtype::F16, 1e-4), (Dtype::Bf16, 0.2)] {
        let adapters = [adapter(dtype, 1), adapter(dtype, 1000)];
        let input = input(dtype, ROWS);
        let before = random(7, ROWS * OUTPUTS);
        let rows = [0, 1].map(|which| (0..ROWS).filter(|row| row % 3 == which).collect::<Vec<_>>());
        let mut expected: Vec<f64> = before.iter().copied().map(f64::from).collect();
        for (row, output) in expected.chunks_exact_mut(OUTPUTS).enumerate() {
            if row % 3 < 2 {
                add(&adapters[row % 3], &input[row * INPUTS..][..INPUTS], output);
            }
        }
        for mut cpu in cpus() {
            let mut output = before.clone();
            let adapted =
                [0, 1].map(|which| Adapted { rows: &rows[which], low_rank: &adapters[which].low_rank });
            cpu.add_low_rank(&input, &mut output, OUTPUTS, &adapted);
            assert_close(&output, &expected, tolerance, &format!("{dtype:?} {cpu:?}"));
            for row in (2..ROWS).step_by(3) {
                let at = row * OUTPUTS..(row + 1) * OUTPUTS;
                assert_eq!(output[at.clone()], before[at], "rows without an adapter stay as they are");
            }
        }
    }
}

#[test]
fn a_row_gets_the_same_bits_alone_and_among_others() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let adapter = adapter(dtype, 3);
        let input = input(dtype, 13);
        let all: Vec<usize> = (0..13).collect();
        for mut cpu in cpus() {
            let mut together = vec![0.5; 13 * OUTPUTS];
            let adapted = [Adapted { rows: &all, low_rank: &adapter.low_rank }];
            cpu.add_low_rank(&input, &mut together, OUTPUTS, &adapted);
            for row in 0..13 {
                let mut alone = vec![0.5; OUTPUTS];
                let adapted = [Adapted { rows: &[0], low_rank: &adapter.low_rank }];
                cpu.add_low_rank(&input[row * INPUTS..][..INPUTS], &mut alone, OUTPUTS, &adapted);
                assert_eq!(alone, together[row * OUTPUTS..][..OUTPUTS], "{dtype:?} row {row} {cpu:?}");
            }
        }
    }
}
