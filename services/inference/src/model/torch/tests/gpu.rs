//! A GPU against what transformers and PEFT gave, and against our CPU kernels. Where there is none, asking for it must be
//! refused by name: each test begins with that.

use std::{fs, path::Path};

use serde_json::json;
use tch::{Kind, Tensor};
use tempfile::TempDir;
use weft_weights::{Format, Group};

use super::{
    Driver, adapters,
    driver::Sequence,
    golden, on_cpu,
    quantized::{distance, quantized_from, widened},
    repository, served, smollm2,
};
use crate::model::{
    Wanted,
    torch::{DeviceChoice, DtypeChoice, LoadError, TorchConfig, load},
};

/// The model on the first GPU; nothing where there is none.
fn on_gpu(folder: &Path, dtype: DtypeChoice) -> Option<Driver> {
    on_gpu_as(folder, dtype, None)
}

/// As above, quantized.
fn on_gpu_as(folder: &Path, dtype: DtypeChoice, weights: Option<Format>) -> Option<Driver> {
    let config = TorchConfig { weights, device: DeviceChoice::Cuda(0), ..on_cpu(folder.into(), dtype) };
    match load(&config) {
        Ok(model) => {
            assert_eq!(model.info().device, "cuda:0");
            Some(Driver::new(model))
        }
        Err(LoadError::Device { device, reason }) => {
            assert_eq!(device, "cuda:0");
            // A GPU that is there but not used is no reason to skip: kernels may not compile.
            assert!(!tch::Cuda::is_available(), "{reason}");
            None
        }
        Err(error) => panic!("{}: {error}", folder.display()),
    }
}

/// What a random model looks like.
#[derive(Clone, Copy, Debug)]
struct Form {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// As SmolLM2-135M, Llama 3.2 1B, Phi 3 mini and Gemma have them, in fewer layers.
const FORMS: [Form; 4] = [
    Form { layers: 6, hidden: 576, intermediate: 1536, heads: 9, kv_heads: 3, head_dim: 64 },
    Form { layers: 3, hidden: 1024, intermediate: 2048, heads: 16, kv_heads: 4, head_dim: 128 },
    Form { layers: 2, hidden: 384, intermediate: 512, heads: 4, kv_heads: 4, head_dim: 96 },
    Form { layers: 2, hidden: 512, intermediate: 512, heads: 8, kv_heads: 1, head_dim: 256 },
];

const VOCABULARY: usize = 1000;

/// A folder with random weights.
fn random(form: Form) -> TempDir {
    let Form { layers, hidden, intermediate, heads, kv_heads, head_dim } = form;
    let folder = TempDir::new().unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "vocab_size": VOCABULARY, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e5,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    tch::manual_seed(7);
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    let mut matrix = |name: String, outputs: usize, inputs: usize, spread: f64| {
        let size = [outputs as i64, inputs as i64];
        tensors.push((name, Tensor::randn(size, (Kind::Float, tch::Device::Cpu)) * spread));
    };
    let spread = |inputs: usize| 1.0 / (inputs as f64).sqrt();
    matrix("model.embed_tokens.weight".into(), VOCABULARY, hidden, 0.5);
    for layer in 0..layers {
        let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for (part, outputs, inputs) in [
            ("self_attn.q_proj", heads * head_dim, hidden),
            ("self_attn.k_proj", kv_heads * head_dim, hidden),
            ("self_attn.v_proj", kv_heads * head_dim, hidden),
            ("self_attn.o_proj", hidden, heads * head_dim),
            ("mlp.gate_proj", intermediate, hidden),
            ("mlp.up_proj", intermediate, hidden),
            ("mlp.down_proj", hidden, intermediate),
        ] {
            matrix(at(part), outputs, inputs, spread(inputs));
        }
    }
    let ones = || Tensor::ones([hidden as i64], (Kind::Float, tch::Device::Cpu));
    for layer in 0..layers {
        for part in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{part}.weight"), ones()));
        }
    }
    tensors.push(("model.norm.weight".into(), ones()));
    Tensor::write_safetensors(&tensors, folder.path().join("model.safetensors")).unwrap();
    folder
}

fn prompt(length: u32, seed: u32) -> Vec<u32> {
    (0..length).map(|index| (index * 131 + seed * 37) % VOCABULARY as u32).collect()
}

#[test]
fn a_gpu_answers_as_transformers_does() {
    for folder in golden::folders() {
        for chunk in [usize::MAX, 1, 7] {
            let Some(driver) = on_gpu(&folder, DtypeChoice::F32) else { return };
            // Dynamic rotation depends on the length at each chunk, by its nature.
            if chunk == usize::MAX || !folder.ends_with("llama-dynamic") {
                golden::check(driver, &folder, chunk);
            }
        }
    }
}

#[test]
fn a_gpu_answers_the_same_in_one_batch() {
    for folder in golden::folders() {
        let Some(driver) = on_gpu(&folder, DtypeChoice::F32) else { return };
        golden::check_together(driver, &folder);
    }
}

#[test]
fn a_gpu_answers_with_real_weights_as_transformers_does() {
    for check in [smollm2::check_answers, smollm2::check_logits, smollm2::check_sums] {
        let Some(driver) = on_gpu(&smollm2::folder(), DtypeChoice::F32) else { return };
        check(driver);
    }
}

#[test]
fn a_gpu_adds_adapters_as_peft_does() {
    for name in adapters::ADAPTERS {
        let Some(driver) = on_gpu(&repository(adapters::BASE), DtypeChoice::F32) else { return };
        adapters::check(driver, name);
    }
}

/// Long contexts in chunks, and rows that join and leave, so that steps of several sizes are recorded.
#[test]
fn a_gpu_computes_what_the_cpu_computes() {
    for form in FORMS {
        let folder = random(form);
        for (dtype, tolerance) in
            [(DtypeChoice::F32, 1e-4), (DtypeChoice::F16, 0.01), (DtypeChoice::BF16, 0.05)]
        {
            let Some(mut gpu) = on_gpu(folder.path(), dtype) else { return };
            let mut cpu = served(folder.path().into(), dtype);
            for chunk in [512, 100] {
                let prompt = prompt(700, 1);
                let mut sequences = [Sequence::new(&prompt), Sequence::new(&prompt)];
                let [ours, theirs] = &mut sequences;
                let close = |a: Vec<f32>, b: Vec<f32>, at: usize| {
                    let off = distance(&a, &b);
                    assert!(off < tolerance, "{form:?} {dtype:?} chunk {chunk} token {at}: {off} off");
                };
                close(gpu.prefill(ours, chunk), cpu.prefill(theirs, chunk), 0);
                for at in 1..20 {
                    let next = (at * 53 % VOCABULARY) as u32;
                    ours.tokens.push(next);
                    theirs.tokens.push(next);
                    let logits = |driver: &mut Driver, sequence: &mut Sequence| {
                        driver.step(&mut [(sequence, 1, Wanted::LastLogits)]).logits.into_vec()
                    };
                    close(logits(&mut gpu, ours), logits(&mut cpu, theirs), at);
                }
                let [ours, theirs] = sequences;
                gpu.free(ours);
                cpu.free(theirs);
            }
        }
    }
}

/// Few rows are multiplied by the codes, many by decoded weights. The reference has weights that were decoded before.
#[test]
fn a_gpu_computes_with_quantized_weights() {
    let formats = [Format::Int8, Format::Int4(Group::G32), Format::Int4(Group::G128)];
    let form = Form { hidden: 512, heads: 8, kv_heads: 2, ..FORMS[0] };
    let folder = random(form);
    for format in formats {
        for (dtype, tolerance) in
            [(DtypeChoice::F32, 1e-4), (DtypeChoice::F16, 0.01), (DtypeChoice::BF16, 0.05)]
        {
            let Some(mut gpu) = on_gpu_as(folder.path(), dtype, Some(format)) else { return };
            let (_place, coded) = quantized_from(folder.path().into(), format);
            let (_widened_place, decoded) = widened(&coded);
            let mut reference = on_gpu(&decoded, dtype).unwrap();
            for rows in [1, 2, 3, 5, 8, 13, 32, 33, 64, 65, 90] {
                let prompt = prompt(rows, rows);
                let ours = gpu.prefill(&mut Sequence::new(&prompt), usize::MAX);
                let theirs = reference.prefill(&mut Sequence::new(&prompt), usize::MAX);
                let off = distance(&ours, &theirs);
                assert!(off < tolerance, "{format} {dtype:?} of {rows} rows: {off} off");
            }
            let prompts: Vec<Vec<u32>> = (0..9).map(|seed| prompt(4 + seed, seed)).collect();
            if dtype == DtypeChoice::F32 {
                assert_eq!(
                    gpu.greedy_together(&prompts, 12),
                    reference.greedy_together(&prompts, 12),
                    "{format}"
                );
            }
        }
    }
}

#[test]
fn a_gpu_chooses_the_same_tokens_for_rows_that_join_and_leave() {
    let folder = random(FORMS[0]);
    let Some(mut gpu) = on_gpu(folder.path(), DtypeChoice::F32) else { return };
    let prompts: Vec<Vec<u32>> = (0..20).map(|seed| prompt(3 + seed * 9, seed)).collect();
    let together = gpu.greedy_together(&prompts, 24);
    let mut cpu = served(folder.path().into(), DtypeChoice::F32);
    assert_eq!(together, cpu.greedy_together(&prompts, 24));
    let alone = gpu.greedy(&prompts[11], 24, 16);
    assert_eq!(alone, together[11]);
}

#[test]
fn a_gpu_scores_and_sums_as_the_cpu_does() {
    let folder = random(FORMS[0]);
    let Some(mut gpu) = on_gpu(folder.path(), DtypeChoice::F32) else { return };
    let mut cpu = served(folder.path().into(), DtypeChoice::F32);
    let tokens = prompt(90, 3);
    for (ours, theirs) in gpu.scores(&tokens, 2, 40).iter().zip(cpu.scores(&tokens, 2, 40)) {
        assert!((ours.chosen - theirs.chosen).abs() < 1e-3, "{ours:?}, expected {theirs:?}");
    }
    let sums = |driver: &mut Driver| {
        driver.step(&mut [(&mut Sequence::new(&tokens), tokens.len(), Wanted::HiddenSum)]).hidden_sums
    };
    assert!(distance(&sums(&mut gpu), &sums(&mut cpu)) < 1e-4);
}
