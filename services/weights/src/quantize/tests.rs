use half::f16;
use proptest::prelude::*;

use super::*;

fn plain<'a>(values: &'a [f32], importance: &'a [f32]) -> Plain<'a> {
    Plain { values, inputs: importance.len(), importance }
}

fn quantized(values: &[f32], inputs: usize, format: Format) -> QuantizedMatrix {
    plain(values, &vec![1.0; inputs]).quantize(format, 2).unwrap()
}

fn dequantized(matrix: &QuantizedMatrix) -> Vec<f32> {
    let mut values = vec![0.0; matrix.outputs * matrix.inputs];
    values
        .chunks_exact_mut(matrix.inputs)
        .enumerate()
        .for_each(|(row, into)| matrix.dequantize_row(row, into));
    values
}

/// Weights that are spread as those of models are, nearly normally.
fn spread(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..count).map(|_| 0.1 * (0..12).map(|_| uniform()).sum::<f32>()).collect()
}

#[test]
fn normally_spread_weights_come_as_close_as_the_format_allows() {
    let values = spread(64 * 512, 7);
    let error = |format| quantized(&values, 512, format).relative_error(&values);
    assert!(error(Format::Int8) < 0.009, "{}", error(Format::Int8));
    assert!(error(Format::Int4(Group::G32)) < 0.075, "{}", error(Format::Int4(Group::G32)));
    assert!(error(Format::Int4(Group::G64)) < 0.085, "{}", error(Format::Int4(Group::G64)));
    assert!(error(Format::Int4(Group::G128)) < 0.1, "{}", error(Format::Int4(Group::G128)));
}

#[test]
fn the_search_comes_closer_than_the_range_of_the_weights() {
    let values = spread(256 * 128, 3);
    let ours = quantized(&values, 128, Format::Int4(Group::G32)).relative_error(&values);
    let (mut difference, mut length) = (0.0, 0.0);
    for group in values.chunks_exact(32) {
        let least = group.iter().copied().fold(f32::INFINITY, f32::min);
        let step = (group.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least) / 15.0;
        for value in group {
            difference += f64::from(least + ((value - least) / step).round() * step - value).powi(2);
            length += f64::from(*value).powi(2);
        }
    }
    let plainly = (difference / length).sqrt();
    assert!(ours < 0.95 * plainly, "{ours}, without a search {plainly}");
}

#[test]
fn weights_that_were_in_sixteen_steps_come_back_exactly() {
    for group in Group::ALL {
        let (scale, min) = (f16::from_f32(0.037).to_f32(), f16::from_f32(-0.25).to_f32());
        let values: Vec<f32> =
            (0..4 * group.size()).map(|index| (index * 7 % 16) as f32 * scale + min).collect();
        assert_eq!(quantized(&values, group.size(), Format::Int4(group)).relative_error(&values), 0.0);
    }
}

#[test]
fn an_important_column_comes_closer() {
    let values = spread(64 * 32, 11);
    let mut importance = vec![1.0; 32];
    importance[5] = 1000.0;
    let error = |importance: &[f32]| {
        let matrix = plain(&values, importance).quantize(Format::Int4(Group::G32), 1).unwrap();
        let ours = dequantized(&matrix);
        let column = |values: &[f32]| values.iter().skip(5).step_by(32).copied().collect::<Vec<f32>>();
        column(&ours).iter().zip(column(&values)).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    assert!(error(&importance) < 0.5 * error(&[1.0; 32]));
}

#[test]
fn codes_do_not_depend_on_the_number_of_threads() {
    let values = spread(67 * 64, 5);
    for format in [Format::Int8, Format::Int4(Group::G64)] {
        let by = |threads| plain(&values, &[1.0; 64]).quantize(format, threads).unwrap();
        assert_eq!(by(1), by(2));
        assert_eq!(by(1), by(100));
    }
}

#[test]
fn rows_go_below_rows_of_the_same_format_only() {
    let values = spread(8 * 64, 9);
    for format in Format::ALL.into_iter().filter(|format| *format != Format::Int4(Group::G128)) {
        let mut upper = quantized(&values[..3 * 64], 64, format);
        assert!(upper.append(quantized(&values[3 * 64..], 64, format)));
        assert_eq!(upper, quantized(&values, 64, format));
    }
    let mut upper = quantized(&values, 64, Format::Int8);
    assert!(!upper.append(quantized(&values, 64, Format::Int4(Group::G32))));
    assert!(!upper.append(quantized(&values, 32, Format::Int8)));
    assert_eq!(upper, quantized(&values, 64, Format::Int8));
}

#[test]
fn zeroes_and_constants_are_exact() {
    for format in [Format::Int8, Format::Int4(Group::G32)] {
        for value in [0.0, 0.5, -0.25] {
            let values = [value; 64];
            let error = quantized(&values, 32, format).relative_error(&values);
            assert!(error < 1e-7, "{format} of {value}: {error}");
        }
    }
}

#[test]
fn what_has_no_form_is_refused_with_the_reason() {
    let refusal = |value: f32, format| {
        let mut values = [0.1; 64];
        values[40] = value;
        plain(&values, &[1.0; 64]).quantize(format, 1).unwrap_err()
    };
    assert_eq!(refusal(f32::NAN, Format::Int8), Unfit::NotFinite);
    assert_eq!(refusal(f32::INFINITY, Format::Int4(Group::G32)), Unfit::NotFinite);
    assert_eq!(refusal(70_000.0, Format::Int4(Group::G32)), Unfit::TooLarge);
    assert_eq!(refusal(0.1, Format::Int4(Group::G128)), Unfit::Uneven(128));
    assert!(plain(&[70_000.0; 64], &[1.0; 64]).quantize(Format::Int8, 1).is_ok());
}

proptest! {
    #[test]
    fn int8_is_never_farther_than_the_range_over_the_codes(
        values in prop::collection::vec(-10.0_f32..10.0, 96),
    ) {
        let matrix = quantized(&values, 32, Format::Int8);
        for (row, ours) in values.chunks_exact(32).zip(dequantized(&matrix).chunks_exact(32)) {
            let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let plain = 32.0 * (largest / 254.0).powi(2);
            let squares: f32 = row.iter().zip(ours).map(|(a, b)| (a - b).powi(2)).sum();
            prop_assert!(squares <= plain * 1.001, "{} above {}", squares, plain);
        }
    }

    #[test]
    fn int4_is_never_farther_than_the_range_over_the_codes(
        values in prop::collection::vec(-10.0_f32..10.0, 128),
        offset in -100.0_f32..100.0,
    ) {
        let values: Vec<f32> = values.iter().map(|value| value + offset).collect();
        let matrix = quantized(&values, 64, Format::Int4(Group::G32));
        for (group, ours) in values.chunks_exact(32).zip(dequantized(&matrix).chunks_exact(32)) {
            let least = group.iter().copied().fold(f32::INFINITY, f32::min);
            let range = group.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
            // Half a step, and what the least value and the steps lose as 16-bit floats.
            let half_step = range / 30.0 + (least.abs() + range) / 1024.0;
            let squares: f32 = group.iter().zip(ours).map(|(a, b)| (a - b).powi(2)).sum();
            prop_assert!(squares <= 32.0 * half_step.powi(2), "{} above {}", squares, 32.0 * half_step.powi(2));
        }
    }
}
