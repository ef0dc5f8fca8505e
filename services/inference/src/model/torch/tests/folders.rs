//! Folders that cannot be served, each refused with the reason.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{on_cpu, repository};
use crate::model::torch::{DeviceChoice, DtypeChoice, LoadError, TorchConfig, load};

/// A copy of a tiny folder, to be damaged.
fn copy_of(name: &str) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(repository("tests/golden/tiny").join(name)).unwrap() {
        let file = entry.unwrap().path();
        fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    copy
}

/// Why a folder is refused: the error's text without the folder.
fn refusal(folder: &Path) -> String {
    match load(&on_cpu(folder.into(), DtypeChoice::Auto)) {
        Ok(_) => panic!("{} was loaded", folder.display()),
        Err(error) => error.to_string().replace(&format!("{}/", folder.display()), ""),
    }
}

/// Why a folder is refused after its config.json was changed.
fn refusal_with(name: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> String {
    let folder = copy_of(name);
    let file = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    fs::write(&file, config.to_string()).unwrap();
    refusal(folder.path())
}

/// The same with one key set.
fn refusal_for(name: &str, key: &str, value: Value) -> String {
    refusal_with(name, |config| drop(config.insert(key.into(), value)))
}

/// Rewrites the header of a safetensors file; the data stays.
fn rewrite_header(file: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let bytes = fs::read(file).unwrap();
    let (prefix, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(prefix.try_into().unwrap()) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    change(header.as_object_mut().unwrap());
    let header = header.to_string();
    let mut rewritten = (header.len() as u64).to_le_bytes().to_vec();
    rewritten.extend(header.as_bytes());
    rewritten.extend(data);
    fs::write(file, rewritten).unwrap();
}

#[test]
fn an_unknown_architecture_is_refused_by_name() {
    let text = refusal_for("llama3-tied", "architectures", json!(["GPT2LMHeadModel"]));
    assert_eq!(
        text,
        "config.json: architectures[0] = GPT2LMHeadModel is not supported (supported: LlamaForCausalLM, \
         MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)"
    );
    assert_eq!(
        refusal_for("llama3-tied", "architectures", json!([])),
        "config.json: architectures is missing"
    );
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let cases = [
        ("rope_parameters", json!({"rope_type": "yarn", "factor": 2.0}), "rope_parameters.rope_type = yarn"),
        ("rope_parameters", json!({"rope_type": "longrope"}), "rope_parameters.rope_type = longrope"),
        (
            "rope_parameters",
            json!({"rope_type": "default", "partial_rotary_factor": 0.5}),
            "rope_parameters.partial_rotary_factor = 0.5",
        ),
        ("hidden_act", json!("gelu"), "hidden_act = gelu"),
        ("quantization_config", json!({"quant_method": "gptq"}), "quantization_config.quant_method = gptq"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "layer_types = sliding_attention"),
        ("dtype", json!("float64"), "dtype = float64"),
    ];
    for (key, value, reason) in cases {
        let text = refusal_for("llama3-tied", key, value);
        assert!(text.starts_with(&format!("config.json: {reason} is not supported (supported: ")), "{text}");
    }
    let nested = json!({"full_attention": {"rope_type": "default"}});
    let text = refusal_for("llama3-tied", "rope_parameters", nested);
    assert!(text.contains("one set of parameters for all layers"), "{text}");
}

#[test]
fn an_active_sliding_window_is_refused_and_an_idle_one_is_not() {
    let text = refusal_for("mistral-untied", "sliding_window", json!(128));
    assert!(text.starts_with("config.json: sliding_window = 128 is not supported"), "{text}");
    let text = refusal_with("qwen2-bias", |config| {
        config.insert("use_sliding_window".into(), json!(true));
        config.insert("sliding_window".into(), json!(128));
    });
    assert!(text.starts_with("config.json: sliding_window = 128 is not supported"), "{text}");
    let idle = copy_of("qwen2-bias");
    let file = idle.path().join("config.json");
    let text =
        fs::read_to_string(&file).unwrap().replace("\"sliding_window\": null", "\"sliding_window\": 128");
    assert!(text.contains("128"));
    fs::write(&file, text).unwrap();
    load(&on_cpu(idle.path().into(), DtypeChoice::Auto)).unwrap();
}

#[test]
fn values_that_make_no_sense_are_refused_with_their_rule() {
    let cases = [
        ("num_key_value_heads", json!(3), "num_key_value_heads = 3: must divide num_attention_heads (4)"),
        ("num_hidden_layers", json!(0), "num_hidden_layers = 0: must be between 1 and 268435456"),
        ("head_dim", json!(15), "head_dim = 15: must be even and at least 4: rotary embedding turns pairs"),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps = -1: must be between 0 and 1"),
        (
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 0.5}),
            "rope_parameters.factor = 0.5: must be at least 1",
        ),
        ("rope_parameters", json!({"rope_type": "linear"}), "rope_parameters.factor is missing"),
        ("rope_parameters", json!({"rope_theta": 0.0}), "rope_theta = 0: must be above 1"),
    ];
    for (key, value, reason) in cases {
        assert_eq!(refusal_for("llama3-tied", key, value), format!("config.json: {reason}"));
    }
    let text = refusal_with("llama3-tied", |config| drop(config.remove("hidden_size")));
    assert_eq!(text, "config.json: hidden_size is missing");
    let text = refusal_for("llama3-tied", "hidden_size", json!("wide"));
    assert!(text.starts_with("config.json: invalid type: string \"wide\""), "{text}");
}

#[test]
fn broken_json_is_refused_with_line_and_column() {
    let folder = copy_of("llama3-tied");
    fs::write(folder.path().join("config.json"), "{\n  \"architectures\": [").unwrap();
    assert_eq!(refusal(folder.path()), "config.json: EOF while parsing a list at line 2 column 20");
    let folder = copy_of("llama3-tied");
    fs::write(folder.path().join("generation_config.json"), "{]").unwrap();
    assert!(refusal(folder.path()).starts_with("generation_config.json: "));
    let folder = copy_of("llama3-tied");
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_eq!(refusal(folder.path()), "config.json: No such file or directory (os error 2)");
}

#[test]
fn a_tensor_of_another_shape_is_refused_with_both_shapes() {
    let text = refusal_for("llama3-tied", "intermediate_size", json!(161));
    assert_eq!(
        text,
        "model.safetensors: tensor model.layers.0.mlp.gate_proj.weight has shape [160, 64], expected [161, 64]"
    );
}

#[test]
fn a_missing_tensor_is_named() {
    let text = refusal_for("llama3-tied", "num_hidden_layers", json!(4));
    assert_eq!(text, "model.safetensors: tensor model.layers.3.input_layernorm.weight is missing");
    let text = refusal_for("llama3-tied", "tie_word_embeddings", json!(false));
    assert_eq!(text, "model.safetensors: tensor lm_head.weight is missing");
}

#[test]
fn a_tensor_without_a_place_is_named() {
    let text = refusal_for("llama3-tied", "num_hidden_layers", json!(2));
    assert!(text.starts_with("model.safetensors: tensor model.layers.2."), "{text}");
    assert!(text.ends_with(" has no place in LlamaForCausalLM"), "{text}");
}

#[test]
fn a_tensor_of_an_unread_type_is_refused_with_its_type() {
    let folder = copy_of("llama3-tied");
    rewrite_header(&folder.path().join("model.safetensors"), |header| {
        header["model.norm.weight"]["dtype"] = json!("I32");
    });
    assert_eq!(
        refusal(folder.path()),
        "model.safetensors: tensor model.norm.weight is stored as I32, expected F32, BF16 or F16"
    );
}

#[test]
fn damaged_weights_are_refused_with_the_damage() {
    let folder = copy_of("llama3-tied");
    let file = folder.path().join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    let cases = [
        (&whole[..4], "it has 4 bytes, too few for a header"),
        (&whole[..100], "its header should have"),
        (&whole[..whole.len() - 10], "it has 651950 bytes, but its header describes 651960"),
        (b"{\"definitely\": \"not safetensors\"}", "its header should have"),
    ];
    for (bytes, reason) in cases {
        fs::write(&file, bytes).unwrap();
        let text = refusal(folder.path());
        assert!(
            text.starts_with(&format!("model.safetensors: not a usable safetensors file: {reason}")),
            "{text}"
        );
    }
    let mut garbled = whole.clone();
    garbled[8..40].fill(b'?');
    fs::write(&file, garbled).unwrap();
    assert!(refusal(folder.path()).contains("its header: expected value"));
    fs::remove_file(&file).unwrap();
    assert_eq!(refusal(folder.path()), "model.safetensors: No such file or directory (os error 2)");
}

#[test]
fn a_missing_shard_is_named_by_its_index() {
    let folder = copy_of("llama-sharded");
    fs::remove_file(folder.path().join("model-00003-of-00004.safetensors")).unwrap();
    assert_eq!(
        refusal(folder.path()),
        "model.safetensors.index.json: names the shard model-00003-of-00004.safetensors, which is not in the folder"
    );
    let folder = copy_of("llama-sharded");
    let index = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap().replace("model-00003", "../model-00003");
    fs::write(&index, text).unwrap();
    assert!(refusal(folder.path()).contains("names the shard ../model-00003-of-00004.safetensors"));
}

#[test]
fn a_shard_without_its_tensor_is_named() {
    let folder = copy_of("llama-sharded");
    let index = folder.path().join("model.safetensors.index.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    json["weight_map"]["model.norm.weight"] = json!("model-00001-of-00004.safetensors");
    fs::write(&index, json.to_string()).unwrap();
    assert_eq!(
        refusal(folder.path()),
        "model-00001-of-00004.safetensors: tensor model.norm.weight is missing"
    );
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_and_never_a_cpu() {
    let folder = repository("tests/golden/tiny/llama3-tied");
    let config = TorchConfig { device: DeviceChoice::Cuda(63), ..on_cpu(folder, DtypeChoice::Auto) };
    match load(&config) {
        Ok(_) => panic!("nobody has 64 GPUs"),
        Err(LoadError::Device { device, reason }) => {
            assert_eq!(device, "cuda:63");
            assert!(reason.contains("libtorch"), "{reason}");
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_model_says_what_it_is() {
    let folder = copy_of("qwen3-qknorm");
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let generation = json!({"eos_token_id": [7, 9], "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.1});
    fs::write(folder.path().join("generation_config.json"), generation.to_string()).unwrap();
    let model = load(&on_cpu(folder.path().into(), DtypeChoice::BF16)).unwrap();
    let info = model.info();
    assert_eq!((&*info.architecture, &*info.dtype, &*info.device), ("Qwen3ForCausalLM", "bf16", "cpu"));
    assert_eq!((info.vocabulary_size, info.context_length, info.hidden_size), (512, 512, 64));
    assert_eq!(info.end_token_ids, [7, 9]);
    assert_eq!((info.default_temperature, info.default_top_p), (Some(0.6), Some(0.95)));
    assert_eq!((info.default_top_k, info.default_repetition_penalty), (Some(20), Some(1.1)));
    // printf '{}' | sha256sum
    assert_eq!(
        info.tokenizer_fingerprint,
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    );
    // 3 layers, 2 heads of 32, keys and values of 2 bytes.
    assert_eq!(info.kv_bytes_per_token, 3 * 2 * 2 * 32 * 2);
    let values = fs::metadata(folder.path().join("model.safetensors")).unwrap().len() / 4;
    assert!(info.parameters < values && info.parameters > values - 4096, "{}", info.parameters);
}

#[test]
fn a_dynamic_rotation_stretches_the_context() {
    let model = load(&on_cpu(repository("tests/golden/tiny/llama-dynamic"), DtypeChoice::Auto)).unwrap();
    assert_eq!(model.info().context_length, 256);
    let model = load(&on_cpu(repository("tests/golden/tiny/llama-linear"), DtypeChoice::Auto)).unwrap();
    assert_eq!(model.info().context_length, 512);
}
