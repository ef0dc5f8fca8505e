//! Adapters against the outputs that PEFT gave, and what must not become one.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use weft_weights::{Format, Group};

use super::{
    Driver, driver::Sequence, on_cpu, on_kernels, on_libtorch, quantized::distance, repository, served,
};
use crate::{
    kernels::Isa,
    model::{
        AdapterBounds, AdapterLoader, AdapterWeights, LoadedAdapter, Wanted,
        torch::{DtypeChoice, TorchConfig, load},
    },
};

pub(super) const BASE: &str = "tests/golden/tiny/llama3-tied";
pub(super) const ADAPTERS: [&str; 2] = ["llama3-r4-qv", "llama3-r8-all"];
const BOUNDS: AdapterBounds = AdapterBounds { max_rank: 64, max_bytes: 1 << 30 };

#[derive(Debug, Deserialize)]
struct Golden {
    /// The shape of each tensor, by name.
    tensors: BTreeMap<String, Vec<i64>>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    input_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    last_logits_top8: Vec<(u32, f32)>,
}

fn golden(name: &str) -> Golden {
    let file = repository("tests/golden/lora").join(name).join("golden.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// The adapter's folder, with the weights that `make.py` beside the goldens has given to PEFT.
fn folder(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let config = repository("tests/golden/lora").join(name).join("adapter_config.json");
    fs::copy(config, folder.path().join("adapter_config.json")).unwrap();
    let tensors: Vec<(String, tch::Tensor)> = (0..)
        .zip(golden(name).tensors)
        .map(|(index, (name, shape))| {
            let values: Vec<f32> =
                (0..shape.iter().product::<i64>()).map(|element| value(index, element as u32)).collect();
            (name, tch::Tensor::from_slice(&values).reshape(shape))
        })
        .collect();
    tch::Tensor::write_safetensors(&tensors, folder.path().join("adapter_model.safetensors")).unwrap();
    folder
}

/// `value` of `make.py`.
fn value(tensor: u32, element: u32) -> f32 {
    let mixed = (0..2).fold(element.wrapping_add(tensor << 16).wrapping_add(1), |mixed, _| {
        (mixed ^ (mixed >> 16)).wrapping_mul(0x045D_9F3B)
    });
    let mixed = mixed ^ (mixed >> 16);
    (mixed & 0xFFFF) as f32 / 65536.0 - 0.5
}

fn loader(driver: &Driver) -> Arc<dyn AdapterLoader> {
    driver.model.adapter_loader().unwrap()
}

fn adapter(driver: &Driver, name: &str) -> LoadedAdapter {
    loader(driver).load(folder(name).path(), &BOUNDS).unwrap()
}

fn through(prompt: &[u32], adapter: Option<&AdapterWeights>) -> Sequence {
    let mut sequence = Sequence::new(prompt);
    sequence.adapter = adapter.cloned();
    sequence
}

/// Answers as PEFT does: logits after the prompt, and greedy ids.
pub(super) fn check(mut driver: Driver, name: &str) {
    driver.forbidden = Some(2);
    let adapter = adapter(&driver, name);
    for case in golden(name).cases {
        for chunk in [usize::MAX, 3] {
            let logits = driver.prefill(&mut through(&case.input_ids, Some(&adapter.weights)), chunk);
            for (id, logit) in &case.last_logits_top8 {
                let ours = logits[*id as usize];
                assert!((ours - logit).abs() < 2e-4, "{name}: logit {id} is {ours}, expected {logit}");
            }
        }
        let sequence = through(&case.input_ids, Some(&adapter.weights));
        assert_eq!(
            driver.greedy_from(sequence, case.greedy_ids.len(), usize::MAX),
            case.greedy_ids,
            "{name}"
        );
    }
}

#[test]
fn adapters_answer_as_in_peft_with_every_instruction_set() {
    for name in ADAPTERS {
        for isa in Isa::available() {
            check(on_kernels(repository(BASE), DtypeChoice::F32, isa), name);
        }
    }
}

#[test]
fn adapters_answer_as_in_peft_on_libtorch() {
    for name in ADAPTERS {
        check(on_libtorch(repository(BASE), DtypeChoice::F32), name);
    }
}

#[test]
fn an_adapter_does_to_a_base_in_fewer_bits_what_it_does_to_the_base() {
    let prompt = golden(ADAPTERS[1]).cases[0].input_ids.clone();
    let answer = |weights, adapted: bool| {
        let config = TorchConfig { weights, ..on_cpu(repository(BASE), DtypeChoice::F32) };
        let mut driver = Driver::new(load(&config).unwrap());
        let adapter = adapted.then(|| adapter(&driver, ADAPTERS[1]).weights);
        driver.prefill(&mut through(&prompt, adapter.as_ref()), usize::MAX)
    };
    let (plain, adapted) = (answer(None, false), answer(None, true));
    for format in [Format::Int8, Format::Int4(Group::G32)] {
        let ours = answer(Some(format), true);
        let (near, far) = (distance(&ours, &adapted), distance(&ours, &plain));
        assert!(near < far / 2.0, "{format}: {near} from the adapted base, {far} from the plain one");
    }
}

#[test]
fn what_an_adapter_is_like_is_told() {
    let driver = served(repository(BASE), DtypeChoice::F32);
    let few = adapter(&driver, "llama3-r4-qv");
    assert_eq!((few.rank, few.targets), (4, vec!["q_proj".to_owned(), "v_proj".to_owned()]));
    assert_eq!(few.fingerprint.len(), 64);
    let all = adapter(&driver, "llama3-r8-all");
    assert_eq!((all.rank, all.targets.len()), (8, 7));
    assert!(all.bytes > few.bytes && few.bytes > 0);
}

#[test]
fn rows_of_other_adapters_and_of_none_change_no_bit() {
    for dtype in [DtypeChoice::F32, DtypeChoice::BF16, DtypeChoice::F16] {
        let mut driver = served(repository(BASE), dtype);
        let loaded = ADAPTERS.map(|name| adapter(&driver, name).weights);
        let adapters = [None, Some(&loaded[0]), Some(&loaded[1])];
        let prompts: Vec<Vec<u32>> =
            (1..19).map(|length| (0..length).map(|token| (token * 37 + length) % 512).collect()).collect();
        let who = |index: usize| adapters[index % 3];
        let alone: Vec<Vec<f32>> = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| driver.prefill(&mut through(prompt, who(index)), usize::MAX))
            .collect();
        let base = driver.prefill(&mut Sequence::new(&prompts[1]), usize::MAX);
        assert_ne!(alone[1], base, "an adapter changes something");
        let mut sequences: Vec<Sequence> =
            prompts.iter().enumerate().map(|(index, prompt)| through(prompt, who(index))).collect();
        let mut work: Vec<_> = sequences
            .iter_mut()
            .map(|sequence| {
                let rows = sequence.tokens.len();
                (sequence, rows, Wanted::LastLogits)
            })
            .collect();
        let logits = driver.step(&mut work).logits;
        for (index, (together, alone)) in logits.chunks_exact(alone[0].len()).zip(&alone).enumerate() {
            assert_eq!(together, alone, "sequence {index}, {dtype:?}");
        }
    }
}

#[test]
fn an_adapter_is_as_good_as_weights_that_it_was_merged_into() {
    let merged = TempDir::new().unwrap();
    merge(folder("llama3-r8-all").path(), merged.path());
    let mut with = served(repository(BASE), DtypeChoice::F32);
    let weights = adapter(&with, "llama3-r8-all").weights;
    let mut without = served(merged.path().into(), DtypeChoice::F32);
    let prompt: Vec<u32> = (0..50).map(|token| token * 41 % 512).collect();
    let ours = with.prefill(&mut through(&prompt, Some(&weights)), usize::MAX);
    let expected = without.prefill(&mut Sequence::new(&prompt), usize::MAX);
    for (ours, expected) in ours.iter().zip(&expected) {
        assert!((ours - expected).abs() < 1e-4, "{ours}, expected {expected}");
    }
}

/// Writes the base model's folder with `weight + scale * B A` in place of each weight.
fn merge(adapter: &Path, to: &Path) {
    let tensors = |file: &Path| tch::Tensor::read_safetensors(file).unwrap();
    let factors: BTreeMap<_, _> = tensors(&adapter.join("adapter_model.safetensors")).into_iter().collect();
    let merged: Vec<(String, tch::Tensor)> = tensors(&repository(BASE).join("model.safetensors"))
        .into_iter()
        .map(|(name, weight)| {
            let at = |which: &str| {
                let module = name.strip_suffix(".weight")?;
                factors.get(&format!("base_model.model.{module}.{which}.weight"))
            };
            let (Some(down), Some(up)) = (at("lora_A"), at("lora_B")) else { return (name, weight) };
            // lora_alpha / r = 16 / 8.
            let weight = &weight + up.matmul(down) * 2.0;
            (name, weight)
        })
        .collect();
    tch::Tensor::write_safetensors(&merged, to.join("model.safetensors")).unwrap();
    for file in ["config.json", "generation_config.json"] {
        fs::copy(repository(BASE).join(file), to.join(file)).unwrap();
    }
}

fn refusal_within(folder: &Path, bounds: AdapterBounds) -> String {
    let model = load(&on_cpu(repository(BASE), DtypeChoice::F32)).unwrap();
    let error = model.adapter_loader().unwrap().load(folder, &bounds).expect_err("is refused");
    error.to_string().replace(&format!("{}/", folder.display()), "")
}

fn refusal(folder: &Path) -> String {
    refusal_within(folder, BOUNDS)
}

fn with_setting(key: &str, value: Value) -> TempDir {
    let folder = folder("llama3-r4-qv");
    let file = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config[key] = value;
    fs::write(&file, config.to_string()).unwrap();
    folder
}

#[test]
fn what_is_not_served_is_refused_by_file_key_and_rule() {
    let cases = [
        ("peft_type", json!("IA3"), "peft_type = IA3 is not supported (supported: LORA)"),
        ("use_dora", json!(true), "use_dora = true is not supported"),
        ("bias", json!("all"), "bias = all is not supported (supported: none)"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save = [\"lm_head\"] is not supported"),
        (
            "target_modules",
            json!(["q_proj", "lm_head"]),
            "target_modules = lm_head is not supported (a list of q_proj, ",
        ),
        ("target_modules", json!("(?!q)_proj"), "target_modules = (?!q)_proj is not supported (a list of "),
        ("target_modules", json!(7), "target_modules = 7 is not supported (a list of "),
        ("init_lora_weights", json!("pissa"), "init_lora_weights = pissa is not supported"),
        ("layers_to_transform", json!([1]), "layers_to_transform = [1] is not supported"),
        ("a_setting_of_tomorrow", json!({"x": 1}), "a_setting_of_tomorrow = {\"x\":1} is not supported"),
        ("r", json!(0), "r = 0: must be a number above 0"),
        ("r", json!(4096), "r = 4096: must be a whole number from 1 to adapters.max_rank (64)"),
        ("r", json!("four"), "r = four: must be a number above 0"),
        ("lora_alpha", json!(-1), "lora_alpha = -1: must be a number above 0"),
        (
            "rank_pattern",
            json!({"(?=q)_proj": 8}),
            "rank_pattern = (?=q)_proj is not supported (regular expressions without look-around",
        ),
        (
            "rank_pattern",
            json!({"q_proj": 8, "self_attn.q_proj": 4}),
            "rank_pattern = q_proj, self_attn.q_proj: both fit",
        ),
    ];
    for (key, value, reason) in cases {
        let text = refusal(with_setting(key, value).path());
        assert!(text.starts_with(&format!("adapter_config.json: {reason}")), "{text}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let text = refusal(with_setting("r", json!(8)).path());
    let tensor = "tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(text, format!("adapter_model.safetensors: {tensor} has shape [4, 64], expected [8, 64]"));
    let text = refusal(with_setting("target_modules", json!(["q_proj", "v_proj", "o_proj"])).path());
    assert!(text.ends_with("self_attn.o_proj.lora_A.weight is missing"), "{text}");
    let text = refusal(with_setting("target_modules", json!(["q_proj"])).path());
    assert!(text.ends_with("has no place in the adapter that its configuration describes"), "{text}");
    // PEFT's short name for all of them.
    let text = refusal(with_setting("target_modules", json!("all-linear")).path());
    assert!(text.ends_with("self_attn.k_proj.lora_A.weight is missing"), "{text}");
    // One that fits the names but not from their beginning fits nothing, so nothing of the file has a place.
    let text = refusal(with_setting("target_modules", json!("[qv]_proj")).path());
    assert!(text.ends_with("has no place in the adapter that its configuration describes"), "{text}");
    let folder = folder("llama3-r4-qv");
    let file = folder.path().join("adapter_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let text = refusal(folder.path());
    assert!(text.ends_with("holds values that are not finite numbers"), "{text}");
}

#[test]
fn damaged_or_missing_files_are_refused_with_the_damage() {
    let folder = folder("llama3-r4-qv");
    let file = folder.path().join("adapter_model.safetensors");
    let whole = fs::read(&file).unwrap();
    for (bytes, reason) in [
        (&whole[..5], "it has 5 bytes, too few for a header"),
        (&whole[..whole.len() - 1], "but its header describes"),
        (b"garbage garbage garbage".as_slice(), "its header should have"),
    ] {
        fs::write(&file, bytes).unwrap();
        let text = refusal(folder.path());
        assert!(text.starts_with("adapter_model.safetensors: not a usable safetensors file"), "{text}");
        assert!(text.contains(reason), "{text}");
    }
    fs::remove_file(&file).unwrap();
    assert!(refusal(folder.path()).starts_with("adapter_model.safetensors: No such file"));
    fs::write(folder.path().join("adapter_config.json"), "{\"r\": ").unwrap();
    assert!(refusal(folder.path()).starts_with("adapter_config.json: EOF while parsing"));
    fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    assert!(refusal(folder.path()).starts_with("adapter_config.json: No such file"));
}

#[test]
fn an_adapter_larger_than_its_bound_is_refused_with_both_sizes() {
    let folder = folder("llama3-r4-qv");
    let bytes = fs::metadata(folder.path().join("adapter_model.safetensors")).unwrap().len();
    let text = refusal_within(folder.path(), AdapterBounds { max_bytes: 1000, ..BOUNDS });
    let expected = format!("adapter_model.safetensors takes {bytes} bytes; 1000 bytes are left for adapters");
    assert_eq!(text, expected);
}

#[test]
fn an_expression_names_the_modules_that_it_fits() {
    let mut driver = served(repository(BASE), DtypeChoice::F32);
    let folder = with_setting("target_modules", json!(r".*\.layers\.\d+\.self_attn\.[qv]_proj"));
    let expressed = loader(&driver).load(folder.path(), &BOUNDS).unwrap();
    assert_eq!(expressed.targets, ["q_proj", "v_proj"]);
    let listed = adapter(&driver, "llama3-r4-qv");
    let logits = [expressed, listed]
        .map(|adapter| driver.prefill(&mut through(&[7, 8, 9], Some(&adapter.weights)), usize::MAX));
    assert_eq!(logits[0], logits[1]);
    // Of one layer alone: the file's other tensors are left over.
    let text = refusal(with_setting("target_modules", json!(r".*\.0\.self_attn\.[qv]_proj")).path());
    assert!(text.ends_with("has no place in the adapter that its configuration describes"), "{text}");
}

#[test]
fn patterns_give_ranks_and_scales_to_single_modules() {
    let driver = served(repository(BASE), DtypeChoice::F32);
    let folder = with_setting("lora_alpha", json!(100));
    let file = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["r"] = json!(5);
    config["rank_pattern"] = json!({"q_proj": 4, r"layers\.\d+\.self_attn\.[qv]_proj": 4});
    config["use_rslora"] = json!(true);
    config["alpha_pattern"] = json!({r"^model\.layers\..*": 4, "proj": 9, "v_proj": 4});
    fs::write(&file, config.to_string()).unwrap();
    let patterned = loader(&driver).load(folder.path(), &BOUNDS).unwrap();
    let plain = adapter(&driver, "llama3-r4-qv");
    assert_eq!(patterned.rank, 4);
    // 4 / sqrt(4) = 8 / 4.
    let mut driver = driver;
    let logits = [patterned, plain]
        .map(|adapter| driver.prefill(&mut through(&[7, 8, 9], Some(&adapter.weights)), usize::MAX));
    assert_eq!(logits[0], logits[1]);
}
