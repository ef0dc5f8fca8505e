//! Models in fewer bits: close to the original, the same from a folder as quantized while loading, and refused with the
//! reason where a folder is not what its manifest says.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;
use weft_weights::{Conversion, Dtype, Format, Group, MANIFEST, Manifest, Store};

use super::{Driver, driver::Sequence, on_cpu, repository};
use crate::{
    kernels::Isa,
    model::torch::{DtypeChoice, TorchConfig, decoder::Source, load},
};

const G32: Format = Format::Int4(Group::G32);

/// Folders of every kind of matrix: tied and untied, with and without biases, sharded.
const FOLDERS: [&str; 5] = ["llama3-tied", "llama-biases", "llama-sharded", "mistral-untied", "qwen3-qknorm"];

const PROMPT: [u32; 12] = [3, 141, 59, 26, 5, 358, 97, 93, 238, 46, 264, 338];

fn tiny(name: &str) -> TorchConfig {
    on_cpu(repository("tests/golden/tiny").join(name), DtypeChoice::F32)
}

fn logits(config: &TorchConfig) -> Vec<f32> {
    Driver::new(load(config).unwrap()).prefill(&mut Sequence::new(&PROMPT), usize::MAX)
}

/// How far logits are from others: the length of the difference over the length of the others around their mean.
pub(super) fn distance(ours: &[f32], original: &[f32]) -> f32 {
    let mean = original.iter().sum::<f32>() / original.len() as f32;
    let length =
        |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    length(&mut ours.iter().zip(original).map(|(a, b)| a - b))
        / length(&mut original.iter().map(|value| value - mean))
}

/// The folder of a tiny model in fewer bits, and what it stands in.
fn quantized(name: &str, format: Format) -> (TempDir, std::path::PathBuf) {
    quantized_from(repository("tests/golden/tiny").join(name), format)
}

pub(super) fn quantized_from(source: std::path::PathBuf, format: Format) -> (TempDir, std::path::PathBuf) {
    let place = TempDir::new().unwrap();
    let target = place.path().join("made");
    let conversion = Conversion { source, target: target.clone(), format, replace: false, threads: 2 };
    conversion.run(&mut |_| {}).unwrap();
    (place, target)
}

fn refusal(config: &TorchConfig) -> String {
    match load(config) {
        Ok(_) => panic!("{} was loaded", config.folder.display()),
        Err(error) => error.to_string().replace(&format!("{}/", config.folder.display()), ""),
    }
}

#[test]
fn int8_stays_close_to_the_original() {
    for name in FOLDERS {
        let config = TorchConfig { weights: Some(Format::Int8), ..tiny(name) };
        let distance = distance(&logits(&config), &logits(&tiny(name)));
        // Random weights make much of small differences; codes in a wrong place lead to more than 1.
        assert!((1e-4..0.15).contains(&distance), "{name}: {distance}");
    }
}

#[test]
fn codes_mean_in_a_product_what_they_mean_one_by_one() {
    for name in FOLDERS {
        for format in [Format::Int8, G32, Format::Int4(Group::G64)] {
            let (_place, folder) = quantized(name, format);
            let (_widened_place, widened) = widened(&folder);
            let ours = logits(&TorchConfig { folder, ..tiny(name) });
            let distance = distance(&ours, &logits(&TorchConfig { folder: widened, ..tiny(name) }));
            // Products of codes take inputs rounded to 8 bits.
            assert!(distance < 0.15, "{name} as {format}: {distance}");
        }
    }
}

/// A folder of plain weights with the values that a quantized folder's codes stand for.
pub(super) fn widened(folder: &Path) -> (TempDir, std::path::PathBuf) {
    let place = TempDir::new().unwrap();
    let target = place.path().join("widened");
    fs::create_dir(&target).unwrap();
    let (manifest, store) = (Manifest::read(folder).unwrap().unwrap(), Store::open(folder).unwrap());
    let values = |name: &str, shape: &[usize]| match manifest.tensors.get(name) {
        None => store.floats(name, shape).unwrap(),
        Some(entry) => {
            let matrix = entry.read(&store, name, entry.shape).unwrap();
            let mut values = vec![0.0; matrix.outputs * matrix.inputs];
            let rows = values.chunks_exact_mut(matrix.inputs).enumerate();
            rows.for_each(|(row, into)| matrix.dequantize_row(row, into));
            values
        }
    };
    let tensors: Vec<(&str, Vec<usize>, Vec<u8>)> = store
        .names()
        .filter(|name| !name.ends_with("_scale") && !name.ends_with("_min"))
        .map(|name| {
            let stored = store.describe(name).unwrap().1.to_vec();
            let shape = manifest.tensors.get(name).map_or(stored, |entry| entry.shape.to_vec());
            let bytes = values(name, &shape).iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (*name, safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    fs::write(target.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("quantization_config");
    fs::write(target.join("config.json"), config.to_string()).unwrap();
    (place, target)
}

#[test]
fn a_quantized_folder_gives_the_bits_of_quantizing_while_loading() {
    for name in FOLDERS {
        for format in [Format::Int8, G32] {
            let (_place, folder) = quantized(name, format);
            let stored = TorchConfig { folder, ..tiny(name) };
            let loading = TorchConfig { weights: Some(format), ..tiny(name) };
            assert_eq!(logits(&stored), logits(&loading), "{name} as {format}");
            let again = TorchConfig { weights: Some(format), ..stored };
            assert_eq!(load(&again).unwrap().info().dtype, format.name());
        }
    }
}

#[test]
fn every_instruction_set_and_libtorch_agree_on_int8() {
    for name in FOLDERS {
        let config = TorchConfig { weights: Some(Format::Int8), ..tiny(name) };
        let reference = Source::open(&config).unwrap().on_libtorch().unwrap();
        let reference = Driver::new(reference).prefill(&mut Sequence::new(&PROMPT), usize::MAX);
        for isa in Isa::available() {
            let model = Source::open(&config).unwrap().on_kernels(isa).unwrap();
            let ours = Driver::new(model).prefill(&mut Sequence::new(&PROMPT), usize::MAX);
            // Our kernels round inputs to 8 bits, libtorch's do not; random weights make much of it.
            let distance = distance(&ours, &reference);
            assert!(distance < 0.1, "{name} with {isa:?}: {distance}");
        }
    }
}

#[test]
fn int4_on_libtorch_is_refused_and_never_widened() {
    let config = TorchConfig { weights: Some(G32), ..tiny("llama3-tied") };
    let Err(error) = Source::open(&config).unwrap().on_libtorch() else { panic!("int4 on libtorch") };
    assert!(error.to_string().starts_with("int4-g32 weights are not computed on cpu"), "{error}");
}

#[test]
fn parameters_and_cache_are_counted_as_in_the_original() {
    let original = load(&tiny("qwen3-qknorm")).unwrap();
    let quantized = load(&TorchConfig { weights: Some(G32), ..tiny("qwen3-qknorm") }).unwrap();
    assert_eq!(original.info().parameters, quantized.info().parameters);
    assert_eq!(original.info().kv_bytes_per_token, quantized.info().kv_bytes_per_token);
    assert_eq!(quantized.info().dtype, "int4-g32");
}

#[test]
fn another_format_than_the_folder_has_is_refused() {
    let (_place, folder) = quantized("llama3-tied", Format::Int8);
    let config = TorchConfig { folder, weights: Some(G32), ..tiny("llama3-tied") };
    assert_eq!(
        refusal(&config),
        "weft_quantization.json: the weights are int8, not int4-g32: quantize the folder they were made from, or set \
         model.weights = \"auto\""
    );
}

/// Why a quantized folder is refused after its manifest was changed.
fn refusal_with(format: Format, change: impl FnOnce(&mut Value)) -> String {
    let (_place, folder) = quantized("llama3-tied", format);
    let file = folder.join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(&file, manifest.to_string()).unwrap();
    refusal(&TorchConfig { folder, ..tiny("llama3-tied") })
}

#[test]
fn a_manifest_that_does_not_fit_is_refused_with_key_and_rule() {
    const NAME: &str = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(
        refusal_with(Format::Int8, |manifest| manifest["version"] = json!(2)),
        "weft_quantization.json: version = 2: must be 1, the version that is read"
    );
    assert_eq!(
        refusal_with(Format::Int8, |manifest| manifest["format"] = json!("int5")),
        "weft_quantization.json: there is no format \"int5\"; there are int8, int4-g32, int4-g64 and int4-g128"
    );
    let text = refusal_with(Format::Int8, |manifest| manifest["tensors"][NAME]["shape"] = json!([64, 64]));
    assert!(
        text.starts_with(
            "weft_quantization.json: tensors.model.layers.0.mlp.up_proj.weight.shape = [64, 64]: must be ["
        ),
        "{text}"
    );
    let text = refusal_with(Format::Int8, |manifest| manifest["tensors"][NAME]["format"] = json!("int4-g32"));
    assert!(
        text.starts_with("model.safetensors: tensor model.layers.0.mlp.up_proj.weight has shape ["),
        "{text}"
    );
    let text = refusal_with(G32, |manifest| {
        manifest["tensors"]["model.layers.9.x"] = manifest["tensors"][NAME].clone()
    });
    assert_eq!(text, "model.safetensors: tensor model.layers.9.x is missing");
    let text = refusal_with(G32, |manifest| drop(manifest["tensors"].as_object_mut().unwrap().remove(NAME)));
    assert!(text.contains("up_proj.weight has shape ["), "{text}");
    let text = refusal_with(Format::Int8, |manifest| {
        drop(manifest["tensors"].as_object_mut().unwrap().remove(NAME))
    });
    assert_eq!(
        text,
        "model.safetensors: tensor model.layers.0.mlp.up_proj.weight is stored as I8, expected F32, BF16 or F16"
    );
}

#[test]
fn codes_without_their_manifest_are_refused() {
    let (_place, folder) = quantized("llama3-tied", G32);
    fs::remove_file(folder.join(MANIFEST)).unwrap();
    assert_eq!(
        refusal(&TorchConfig { folder, ..tiny("llama3-tied") }),
        "config.json: quantization_config.quant_method = weft: needs the file weft_quantization.json beside it"
    );
}

#[test]
fn scales_that_are_missing_and_files_that_are_cut_are_named() {
    let (_place, folder) = quantized("llama3-tied", G32);
    let file = folder.join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    let text = String::from_utf8_lossy(&whole[..whole.len().min(1 << 16)]).into_owned();
    let name = "model.layers.0.mlp.up_proj.weight_scale";
    let at = text.find(&format!("\"{name}\"")).unwrap();
    let mut renamed = whole.clone();
    renamed[at + 1..at + 4].copy_from_slice(b"MOD");
    fs::write(&file, renamed).unwrap();
    let config = TorchConfig { folder: folder.clone(), ..tiny("llama3-tied") };
    assert_eq!(refusal(&config), format!("model.safetensors: tensor {name} is missing"));
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert!(refusal(&config).contains("but its header describes"), "{}", refusal(&config));
}

#[test]
fn projections_of_one_product_in_different_formats_are_refused() {
    let (_place, folder) = quantized("llama3-tied", Format::Int8);
    let plain = repository("tests/golden/tiny/llama3-tied");
    mix(&folder, &plain, "model.layers.1.self_attn.k_proj.weight");
    assert_eq!(
        refusal(&TorchConfig { folder, ..tiny("llama3-tied") }),
        "model.safetensors: tensor model.layers.1.self_attn.k_proj.weight is not in the format of its layer's others of \
         this kind"
    );
}

/// Puts a plain tensor in the place of a quantized one.
fn mix(folder: &Path, plain: &Path, name: &str) {
    let file = folder.join("model.safetensors");
    let (quantized, plain) = (fs::read(&file).unwrap(), fs::read(plain.join("model.safetensors")).unwrap());
    let quantized = safetensors::SafeTensors::deserialize(&quantized).unwrap();
    let plain = safetensors::SafeTensors::deserialize(&plain).unwrap();
    let others = quantized.tensors().into_iter().filter(|(other, _)| !other.starts_with(name));
    let tensors = others.chain([(name.to_owned(), plain.tensor(name).unwrap())]);
    fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let file = folder.join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    manifest["tensors"].as_object_mut().unwrap().remove(name);
    fs::write(&file, manifest.to_string()).unwrap();
}
