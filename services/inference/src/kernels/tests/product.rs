use half::{bf16, f16};

use super::{assert_close, cpus, random};
use crate::kernels::{Arena, Dtype, Matrix, Mode, Weights};

/// Rows, inputs, outputs: whole panels and tiles, everything beside them, items of several panels, and a row that meets
/// several at once.
const SIZES: &[(usize, usize, usize)] = &[
    (1, 64, 64),
    (1, 1, 1),
    (2, 3, 33),
    (3, 17, 31),
    (5, 576, 96),
    (12, 40, 65),
    (13, 33, 32),
    (25, 96, 100),
    (31, 7, 5),
    (6, 20, 1057),
    (1, 21, 1057),
    (0, 33, 40),
];

/// A matrix, and its weights as they were rounded.
fn matrix(dtype: Dtype, weights: &[f32], outputs: usize, bias: Option<Vec<f32>>) -> (Matrix, Vec<f32>) {
    match dtype {
        Dtype::F32 => (
            Matrix::new(Weights::F32(weights), outputs, bias, &mut Arena::default()).unwrap(),
            weights.to_vec(),
        ),
        Dtype::Bf16 => {
            let values: Vec<bf16> = weights.iter().copied().map(bf16::from_f32).collect();
            let matrix = Matrix::new(Weights::Bf16(&values), outputs, bias, &mut Arena::default()).unwrap();
            (matrix, values.iter().map(|value| value.to_f32()).collect())
        }
        Dtype::F16 => {
            let values: Vec<f16> = weights.iter().copied().map(f16::from_f32).collect();
            let matrix = Matrix::new(Weights::F16(&values), outputs, bias, &mut Arena::default()).unwrap();
            (matrix, values.iter().map(|value| value.to_f32()).collect())
        }
    }
}

fn expected(input: &[f32], weights: &[f32], bias: &[f32], inputs: usize) -> Vec<f64> {
    let dot = |row: &[f32], weights: &[f32]| -> f64 {
        row.iter().zip(weights).map(|(input, weight)| f64::from(*input) * f64::from(*weight)).sum()
    };
    let one = |row: &[f32]| -> Vec<f64> {
        let outputs = weights.chunks_exact(inputs).zip(bias);
        outputs.map(|(weights, bias)| dot(row, weights) + f64::from(*bias)).collect()
    };
    input.chunks_exact(inputs).flat_map(one).collect()
}

#[test]
fn products_are_those_of_plain_loops() {
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (seed, &(rows, inputs, outputs)) in SIZES.iter().enumerate() {
            let bias = random(seed as u64 + 300, outputs);
            let (matrix, weights) =
                matrix(dtype, &random(seed as u64, inputs * outputs), outputs, Some(bias.clone()));
            let mut input = random(seed as u64 + 100, rows * inputs);
            if dtype == Dtype::Bf16 {
                // The kernel rounds its input: compare from there.
                input.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
            }
            let expected = expected(&input, &weights, &bias, inputs);
            for mut cpu in cpus() {
                let what = format!("{dtype:?} {rows}x{inputs}x{outputs} {cpu:?}");
                let mut output = vec![f32::NAN; rows * outputs];
                cpu.product(&input, &matrix, &mut output, Mode::Store);
                assert_close(&output, &expected, 2e-5, &what);
                let twice: Vec<f64> = expected.iter().map(|value| 2.0 * value).collect();
                cpu.product(&input, &matrix, &mut output, Mode::Add);
                assert_close(&output, &twice, 4e-5, &what);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_among_any_others() {
    let (inputs, outputs) = (70, 1057);
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let (matrix, _) = matrix(dtype, &random(1, inputs * outputs), outputs, None);
        let input = random(2, 29 * inputs);
        for mut cpu in cpus() {
            let mut together = vec![0.0; 29 * outputs];
            cpu.product(&input, &matrix, &mut together, Mode::Store);
            for row in 0..29 {
                let mut alone = vec![0.0; outputs];
                cpu.product(&input[row * inputs..][..inputs], &matrix, &mut alone, Mode::Store);
                assert_eq!(alone, together[row * outputs..][..outputs], "{dtype:?}, row {row}, {cpu:?}");
            }
        }
    }
}

#[test]
fn inputs_are_rounded_to_the_nearest_bf16() {
    // An identity matrix gives the rounded input back.
    let width = 33;
    let identity: Vec<f32> =
        (0..width * width).map(|index| f32::from(u8::from(index % (width + 1) == 0))).collect();
    let (matrix, _) = matrix(Dtype::Bf16, &identity, width, None);
    let mut input = random(5, width);
    // Ties go to the even neighbour, on either side.
    let half_step = f32::powi(2.0, -8);
    let ties = [1.0 + half_step, 1.0 + 3.0 * half_step, -1.0 - half_step, 3.0e38];
    input[..4].copy_from_slice(&ties);
    let expected: Vec<f32> = input.iter().map(|value| bf16::from_f32(*value).to_f32()).collect();
    for mut cpu in cpus() {
        let mut output = vec![0.0; width];
        cpu.product(&input, &matrix, &mut output, Mode::Store);
        assert_eq!(output, expected, "{cpu:?}");
    }
}

#[test]
fn a_matrix_gives_its_rows_back() {
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (inputs, outputs) in [(64, 96), (7, 45)] {
            let (matrix, weights) = matrix(dtype, &random(9, inputs * outputs), outputs, None);
            for (index, expected) in weights.chunks_exact(inputs).enumerate() {
                let mut row = vec![0.0; inputs];
                matrix.copy_row(index, &mut row);
                assert_eq!(row, expected, "{dtype:?}, row {index}");
            }
        }
    }
}
