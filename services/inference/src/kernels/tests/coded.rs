//! Products by weights of few bits.

use super::{assert_close, cpus, random};
use crate::kernels::{Arena, Cpu, Isa, Matrix, MatrixError, Mode, Weights};

/// A matrix, its weights as they are meant, and the group in which its inputs are rounded.
struct Case {
    name: String,
    matrix: Matrix,
    weights: Vec<f32>,
    inputs: usize,
    group: usize,
}

impl Case {
    fn int8(inputs: usize, outputs: usize, bias: Option<Vec<f32>>) -> Self {
        let values: Vec<i8> = random(1, inputs * outputs).iter().map(|value| (value * 128.4) as i8).collect();
        let scales = random(2, outputs);
        let weights = values.chunks_exact(inputs).zip(&scales);
        let weights = weights.flat_map(|(row, scale)| row.iter().map(move |value| f32::from(*value) * scale));
        Self {
            name: format!("int8 {inputs}x{outputs}"),
            weights: weights.collect(),
            matrix: new(Weights::Int8 { values: &values, scales: &scales }, outputs, bias).unwrap(),
            inputs,
            group: 64,
        }
    }

    fn int4(inputs: usize, outputs: usize, group: usize, bias: Option<Vec<f32>>) -> Self {
        let codes: Vec<u8> =
            random(3, inputs * outputs / 2).iter().map(|value| ((value + 1.0) * 127.9) as u8).collect();
        let header = |seed| -> Vec<f32> {
            let values = random(seed, inputs / group * outputs).into_iter();
            values.map(|value| half::f16::from_f32(value).to_f32()).collect()
        };
        let (scales, mins) = (header(4), header(5));
        let weight = |index: usize| {
            let code = codes[index / 2] >> (index % 2 * 4) & 0x0f;
            f32::from(code) * scales[index / group] + mins[index / group]
        };
        Self {
            name: format!("int4 {inputs}x{outputs}, group {group}"),
            weights: (0..inputs * outputs).map(weight).collect(),
            matrix: new(Weights::Int4 { codes: &codes, scales: &scales, mins: &mins, group }, outputs, bias)
                .unwrap(),
            inputs,
            group,
        }
    }

    /// Whole panels, groups and tiles, and what lies beside them.
    fn all() -> Vec<Self> {
        let bias = |outputs| Some(random(6, outputs));
        vec![
            Self::int8(64, 64, None),
            Self::int8(576, 96, bias(96)),
            Self::int8(1, 1, None),
            Self::int8(70, 33, bias(33)),
            Self::int8(127, 31, None),
            Self::int8(70, 1057, bias(1057)),
            Self::int4(32, 64, 32, None),
            Self::int4(96, 33, 32, bias(33)),
            Self::int4(576, 100, 64, bias(100)),
            Self::int4(256, 1, 128, None),
            Self::int4(96, 1057, 32, bias(1057)),
        ]
    }

    /// The inputs as the kernel rounds them, and the product by plain loops.
    fn expected(&self, input: &[f32], bias: &[f32]) -> Vec<f64> {
        let rounded: Vec<f32> = input
            .chunks_exact(self.inputs)
            .flat_map(|row| row.chunks(self.group).flat_map(rounded))
            .collect();
        let dot = |row: &[f32], weights: &[f32]| -> f64 {
            row.iter().zip(weights).map(|(input, weight)| f64::from(*input) * f64::from(*weight)).sum()
        };
        let outputs = |row| {
            let weights = self.weights.chunks_exact(self.inputs).enumerate();
            weights.map(move |(output, weights)| {
                dot(row, weights) + bias.get(output).map_or(0.0, |bias| f64::from(*bias))
            })
        };
        rounded.chunks_exact(self.inputs).flat_map(outputs).collect()
    }
}

fn new(weights: Weights<'_>, outputs: usize, bias: Option<Vec<f32>>) -> Result<Matrix, MatrixError> {
    Matrix::new(weights, outputs, bias, &mut Arena::default())
}

/// To 127 steps on either side of zero.
fn rounded(group: &[f32]) -> Vec<f32> {
    let largest = group.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    group.iter().map(|value| (value * (127.0 / largest)).round_ties_even() * (largest / 127.0)).collect()
}

fn product(cpu: &mut Cpu, matrix: &Matrix, input: &[f32]) -> Vec<f32> {
    let mut output = vec![f32::NAN; input.len() / matrix.inputs() * matrix.outputs()];
    cpu.product(input, matrix, &mut output, Mode::Store);
    output
}

#[test]
fn products_by_few_bits_are_those_of_plain_loops() {
    for case in Case::all() {
        let outputs = case.matrix.outputs();
        let bias = if case.matrix.bias_for_tests().is_some() { random(6, outputs) } else { Vec::new() };
        for rows in [1, 2, 13, 30] {
            let input = random(7, rows * case.inputs);
            let expected = case.expected(&input, &bias);
            let size = expected.iter().fold(1.0_f64, |size, value| size.max(value.abs()));
            for mut cpu in cpus() {
                let what = format!("{}, {rows} rows, {cpu:?}", case.name);
                let mut output = product(&mut cpu, &case.matrix, &input);
                assert_close(&output, &expected, 2e-6 * size, &what);
                let twice: Vec<f64> = expected.iter().map(|value| 2.0 * value).collect();
                cpu.product(&input, &case.matrix, &mut output, Mode::Add);
                assert_close(&output, &twice, 4e-6 * size, &what);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_among_any_others_with_few_bits_too() {
    for case in Case::all() {
        let (inputs, outputs) = (case.inputs, case.matrix.outputs());
        let input = random(8, 29 * inputs);
        for mut cpu in cpus() {
            let together = product(&mut cpu, &case.matrix, &input);
            for row in 0..29 {
                let alone = product(&mut cpu, &case.matrix, &input[row * inputs..][..inputs]);
                assert_eq!(alone, together[row * outputs..][..outputs], "{}, row {row}, {cpu:?}", case.name);
            }
        }
    }
}

#[test]
fn a_matrix_of_few_bits_gives_its_rows_back() {
    for case in Case::all() {
        for (index, expected) in case.weights.chunks_exact(case.inputs).enumerate() {
            let mut row = vec![f32::NAN; case.inputs];
            case.matrix.copy_row(index, &mut row);
            assert_eq!(row, expected, "{}, row {index}", case.name);
        }
    }
}

#[test]
fn inputs_of_zeroes_and_of_next_to_nothing_give_zeroes() {
    for case in Case::all() {
        for value in [0.0, 1e-42, -f32::MIN_POSITIVE] {
            for mut cpu in cpus() {
                let output = product(&mut cpu, &case.matrix, &vec![value; case.inputs]);
                let bias = case.matrix.bias_for_tests().map_or(vec![0.0; output.len()], <[f32]>::to_vec);
                let bias: Vec<f64> = bias.into_iter().map(f64::from).collect();
                assert_close(&output, &bias, 1e-30, &format!("{}, {value}, {cpu:?}", case.name));
            }
        }
    }
}

#[test]
fn the_largest_weights_and_inputs_of_few_bits_do_not_overflow() {
    let (inputs, outputs) = (256, 32);
    let largest = |group: usize| {
        let (codes, scales) = (vec![0xff; inputs * outputs / 2], vec![1.0; inputs / group * outputs]);
        new(Weights::Int4 { codes: &codes, scales: &scales, mins: &scales, group }, outputs, None).unwrap()
    };
    let (values, scales) = (vec![-128; inputs * outputs], vec![1.0; outputs]);
    let int8 = new(Weights::Int8 { values: &values, scales: &scales }, outputs, None).unwrap();
    let cases = [32, 64, 128].map(|group| (largest(group), 16.0)).into_iter().chain([(int8, -128.0)]);
    for (matrix, weight) in cases {
        for input in [127.0, -127.0] {
            for mut cpu in cpus() {
                let expected = inputs as f32 * weight * input;
                let output = product(&mut cpu, &matrix, &vec![input; 3 * inputs]);
                assert_eq!(output, vec![expected; 3 * outputs], "{weight}, {input}, {cpu:?}");
            }
        }
    }
}

#[test]
fn an_input_far_out_costs_precision_only_in_its_group() {
    let case = Case::int8(128, 32, None);
    let mut input = random(9, 128);
    let mut cpu = Cpu::new(Isa::best(), 1).unwrap();
    input[64..].fill(0.0);
    let without = product(&mut cpu, &case.matrix, &input);
    input[100] = 1e6;
    let with = product(&mut cpu, &case.matrix, &input);
    for (output, (with, without)) in with.iter().zip(without).enumerate() {
        let far = 1e6 * f64::from(case.weights[output * 128 + 100]);
        let error = (f64::from(*with) - far - f64::from(without)).abs();
        assert!(error <= 1e-6 * far.abs() + 1e-4, "output {output}: {with}, {without}, {far}");
    }
}

#[test]
fn groups_that_do_not_fit_and_scales_out_of_range_are_refused() {
    let int4 = |inputs: usize, group: usize, scale: f32| {
        let groups = vec![scale; inputs.div_ceil(group)];
        let codes = vec![0; inputs / 2];
        new(Weights::Int4 { codes: &codes, scales: &groups, mins: &groups, group }, 1, None).map(|_| ())
    };
    assert_eq!(int4(96, 32, 1.0), Ok(()));
    assert_eq!(int4(96, 64, 1.0), Err(MatrixError::Group { inputs: 96, group: 64 }));
    assert_eq!(int4(96, 48, 1.0), Err(MatrixError::Group { inputs: 96, group: 48 }));
    let refused = int4(64, 32, 1e6).unwrap_err();
    assert_eq!(refused, MatrixError::Range { what: "scale", value: 1e6, output: 0, group: 0 });
    assert_eq!(refused.to_string(), "scale 1000000 of output 0, group 0 is not a finite f16");
}
