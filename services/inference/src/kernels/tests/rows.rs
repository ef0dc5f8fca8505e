use super::{assert_close, cpus, random};

#[test]
fn rms_norm_is_that_of_plain_loops() {
    for (rows, width) in [(1, 576), (3, 64), (2, 37), (70, 300), (1, 1)] {
        let (input, weight) = (random(1, rows * width), random(2, width));
        let one = |row: &[f32]| -> Vec<f64> {
            let mean = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / width as f64;
            let values = row.iter().zip(&weight);
            values.map(|(value, weight)| f64::from(value * weight) / (mean + 1e-5).sqrt()).collect()
        };
        let expected: Vec<f64> = input.chunks_exact(width).flat_map(one).collect();
        for mut cpu in cpus() {
            let mut output = vec![f32::NAN; rows * width];
            cpu.rms_norm(&input, &weight, 1e-5, &mut output);
            assert_close(&output, &expected, 2e-6, &format!("{rows}x{width} {cpu:?}"));
        }
    }
}

#[test]
fn swiglu_is_that_of_plain_loops_even_far_out() {
    for (rows, width) in [(1, 1536), (3, 16), (2, 37), (40, 500)] {
        let mut input = random(3, rows * 2 * width);
        input.iter_mut().for_each(|value| *value *= 20.0);
        input[..4].copy_from_slice(&[-200.0, 200.0, -1.0e30, 0.0]);
        let one = |row: &[f32]| -> Vec<f64> {
            let (gate, up) = row.split_at(width);
            let silu = |gate: f32| f64::from(gate) / (1.0 + (-f64::from(gate)).exp());
            gate.iter().zip(up).map(|(gate, up)| silu(*gate) * f64::from(*up)).collect()
        };
        let expected: Vec<f64> = input.chunks_exact(2 * width).flat_map(one).collect();
        for mut cpu in cpus() {
            let mut output = vec![f32::NAN; rows * width];
            cpu.swiglu(&input, width, &mut output);
            for (index, (ours, expected)) in output.iter().zip(&expected).enumerate() {
                let error = (f64::from(*ours) - expected).abs();
                assert!(
                    error <= 1e-6 * expected.abs() + 1e-6,
                    "{rows}x{width} {cpu:?}: {index} {ours} {expected}"
                );
            }
        }
    }
}
