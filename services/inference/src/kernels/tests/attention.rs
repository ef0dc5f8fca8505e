use std::slice::from_ref;

use half::{bf16, f16};

use super::{cpus, random};
use crate::kernels::{CacheType, Cpu, Dtype, Geometry, HeadNorms, Layer, LayerCache, Plan, Sequence};

/// How keys and values are stored.
const TYPES: [CacheType; 4] = [
    CacheType::Float(Dtype::F32),
    CacheType::Float(Dtype::Bf16),
    CacheType::Float(Dtype::F16),
    CacheType::Int8,
];

/// Shapes of heads and blocks that the kernels meet: whole lanes, and everything beside them.
const GEOMETRIES: &[Geometry] = &[
    Geometry { heads: 9, kv_heads: 3, head_dim: 64, blocks: 64, block_size: 16 },
    Geometry { heads: 4, kv_heads: 2, head_dim: 16, blocks: 64, block_size: 32 },
    Geometry { heads: 7, kv_heads: 1, head_dim: 80, blocks: 128, block_size: 8 },
    Geometry { heads: 2, kv_heads: 2, head_dim: 20, blocks: 512, block_size: 3 },
    Geometry { heads: 32, kv_heads: 2, head_dim: 6, blocks: 64, block_size: 64 },
];

/// A sequence of `length` tokens whose last `rows` are in the step, with its queries, keys and values at all positions.
struct Case {
    length: usize,
    rows: usize,
    blocks: Vec<u32>,
    /// `[length, (heads + 2 kv_heads) * head_dim]`
    qkv: Vec<f32>,
}

fn cases(geometry: &Geometry) -> Vec<Case> {
    let width = (geometry.heads + 2 * geometry.kv_heads) * geometry.head_dim;
    let mut free = (0..geometry.blocks).map(|block| (block * 7 % geometry.blocks) as u32);
    // The last two reach into a second share of their context, one of them in the middle of its rows.
    [(1, 1), (40, 1), (17, 17), (37, 20), (3, 2), (23, 1), (150, 21), (300, 1), (270, 25)]
        .into_iter()
        .enumerate()
        .map(|(seed, (length, rows))| Case {
            length,
            rows,
            blocks: free.by_ref().take(length.div_ceil(geometry.block_size)).collect(),
            qkv: random(seed as u64, length * width),
        })
        .collect()
}

/// Angles of all positions, `[positions, head_dim / 2]`.
fn rotations(geometry: &Geometry, positions: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let half = geometry.head_dim / 2;
    let angle = |position: &u32, pair: usize| *position as f32 * 0.7_f32.powi(pair as i32 + 1);
    let angles = positions.iter().flat_map(|position| (0..half).map(move |pair| angle(position, pair)));
    angles.map(|angle| (angle.cos(), angle.sin())).unzip()
}

/// One step over `rows` of each case, which end at its `upto`.
fn step(
    cpu: &mut Cpu,
    cache: &mut LayerCache,
    cases: &[Case],
    ranges: &[std::ops::Range<usize>],
    norms: Option<&HeadNorms>,
) -> Vec<f32> {
    let geometry = cache.geometry;
    let width = (geometry.heads + 2 * geometry.kv_heads) * geometry.head_dim;
    let (mut positions, mut qkv, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
    for (case, range) in cases.iter().zip(ranges) {
        let first = positions.len();
        positions.extend(range.clone().map(|position| position as u32));
        qkv.extend_from_slice(&case.qkv[range.start * width..range.end * width]);
        sequences.push(Sequence { rows: first..positions.len(), blocks: &case.blocks });
    }
    let plan = Plan::new(geometry, &positions, sequences, rotations(&geometry, &positions)).unwrap();
    let mut output = vec![f32::NAN; positions.len() * plan.output_width()];
    cpu.attention(&mut qkv, Layer { norms, cache }, &plan, &mut output);
    output
}

/// Runs the prefixes first, then the rows that count.
fn run(cpu: &mut Cpu, geometry: Geometry, stored: CacheType, norms: Option<&HeadNorms>) -> Vec<f32> {
    let cases = cases(&geometry);
    let mut cache = LayerCache::new(geometry, stored).unwrap();
    let prefixes: Vec<_> = cases.iter().map(|case| 0..case.length - case.rows).collect();
    step(cpu, &mut cache, &cases, &prefixes, norms);
    let rows: Vec<_> = cases.iter().map(|case| case.length - case.rows..case.length).collect();
    step(cpu, &mut cache, &cases, &rows, norms)
}

/// A head normed and rotated, in f64.
fn entered(geometry: &Geometry, head: &[f32], position: usize, weight: Option<(&[f32], f32)>) -> Vec<f64> {
    let mut head: Vec<f64> = head.iter().map(|value| f64::from(*value)).collect();
    if let Some((weight, epsilon)) = weight {
        let mean = head.iter().map(|value| value * value).sum::<f64>() / head.len() as f64;
        let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
        head.iter_mut().zip(weight).for_each(|(value, weight)| *value *= scale * f64::from(*weight));
    }
    let (cos, sin) = rotations(geometry, &[position as u32]);
    let half = geometry.head_dim / 2;
    (0..geometry.head_dim)
        .map(|dim| {
            let turned = if dim < half { -head[dim + half] } else { head[dim - half] };
            head[dim] * f64::from(cos[dim % half]) + turned * f64::from(sin[dim % half])
        })
        .collect()
}

/// Plain attention of all cases' rows, in f64.
fn expected(geometry: &Geometry, norms: Option<&HeadNorms>) -> Vec<f64> {
    let mut output = Vec::new();
    for case in cases(geometry) {
        for position in case.length - case.rows..case.length {
            for head in 0..geometry.heads {
                output.extend(attended(geometry, &case, (position, head), norms));
            }
        }
    }
    output
}

fn attended(
    geometry: &Geometry,
    case: &Case,
    (position, head): (usize, usize),
    norms: Option<&HeadNorms>,
) -> Vec<f64> {
    let dim = geometry.head_dim;
    let width = (geometry.heads + 2 * geometry.kv_heads) * dim;
    let kv_head = head / (geometry.heads / geometry.kv_heads);
    let at = |position: usize, head: usize| &case.qkv[position * width + head * dim..][..dim];
    let query_norm = norms.map(|norms| (&*norms.query, norms.epsilon));
    let key_norm = norms.map(|norms| (&*norms.key, norms.epsilon));
    let query = entered(geometry, at(position, head), position, query_norm);
    let scores: Vec<f64> = (0..=position)
        .map(|past| {
            let key = entered(geometry, at(past, geometry.heads + kv_head), past, key_norm);
            query.iter().zip(&key).map(|(query, key)| query * key).sum::<f64>() / (dim as f64).sqrt()
        })
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..dim)
        .map(|index| {
            let values = (0..=position)
                .map(|past| f64::from(at(past, geometry.heads + geometry.kv_heads + kv_head)[index]));
            values.zip(&weights).map(|(value, weight)| value * weight).sum::<f64>() / total
        })
        .collect()
}

#[test]
fn attention_is_that_of_plain_loops() {
    for geometry in GEOMETRIES {
        let norms = HeadNorms {
            query: random(70, geometry.head_dim),
            key: random(71, geometry.head_dim),
            epsilon: 1e-6,
        };
        for norms in [None, Some(&norms)] {
            let expected = expected(geometry, norms);
            // Keys and values are rounded to what the type holds: int8 by half a unit, which is the largest over 127.
            let tolerance = |stored| match stored {
                CacheType::Float(Dtype::F32) => 1e-5,
                CacheType::Float(Dtype::Bf16) => 4.0 * bf16::EPSILON.to_f64(),
                CacheType::Float(Dtype::F16) => 4.0 * f16::EPSILON.to_f64(),
                CacheType::Int8 => 2.0 / 127.0,
            };
            for stored in TYPES {
                for mut cpu in cpus() {
                    let ours = run(&mut cpu, *geometry, stored, norms);
                    super::assert_close(
                        &ours,
                        &expected,
                        tolerance(stored),
                        &format!("{geometry:?} {stored:?} {cpu:?}"),
                    );
                }
            }
        }
    }
}

/// Each case's last rows, from one step over whole sequences in a cache that was full of `rubbish`.
fn at_once(cpu: &mut Cpu, geometry: Geometry, stored: CacheType, rubbish: f32) -> Vec<f32> {
    let mut cache = LayerCache::new(geometry, stored).unwrap();
    cache.fill(rubbish);
    let cases = cases(&geometry);
    let whole: Vec<_> = cases.iter().map(|case| 0..case.length).collect();
    let all = step(cpu, &mut cache, &cases, &whole, None);
    let width = geometry.heads * geometry.head_dim;
    let mut end = 0;
    let mut last = Vec::new();
    for case in &cases {
        end += case.length;
        last.extend_from_slice(&all[(end - case.rows) * width..end * width]);
    }
    last
}

#[test]
fn neither_chunks_nor_what_unwritten_slots_hold_change_a_bit() {
    for geometry in GEOMETRIES {
        for stored in TYPES {
            for mut cpu in cpus() {
                let in_chunks = run(&mut cpu, *geometry, stored, None);
                let at_once = at_once(&mut cpu, *geometry, stored, f32::NAN);
                assert_eq!(at_once, in_chunks, "{geometry:?} {stored:?} {cpu:?}");
            }
        }
    }
}

#[test]
fn a_value_that_is_no_number_is_not_lost_in_whole_numbers() {
    let geometry = Geometry { heads: 1, kv_heads: 1, head_dim: 16, blocks: 1, block_size: 16 };
    for rubbish in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut case = Case { length: 2, rows: 2, blocks: vec![0], qkv: random(5, 2 * 48) };
        // Of the first row's value.
        case.qkv[32] = rubbish;
        for mut cpu in cpus() {
            let mut cache = LayerCache::new(geometry, CacheType::Int8).unwrap();
            let output = step(&mut cpu, &mut cache, from_ref(&case), from_ref(&(0..2)), None);
            assert!(output.iter().all(|value| value.is_nan()), "{rubbish}: {output:?}");
        }
    }
}

#[test]
fn a_token_takes_about_half_in_whole_numbers() {
    let bytes = |stored| GEOMETRIES[0].token_bytes(stored);
    assert_eq!(bytes(CacheType::Float(Dtype::Bf16)), 3 * 2 * 64 * 2);
    assert_eq!(bytes(CacheType::Int8), 3 * 2 * (64 + 4));
}
