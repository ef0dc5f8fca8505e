use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::{Dtype, Group, writer::Outline};

const EMBEDDING: &str = "model.embed_tokens.weight";
const UP: &str = "model.layers.0.mlp.up_proj.weight";
const NORM: &str = "model.layers.0.post_attention_layernorm.weight";

/// A folder with one matrix of each kind and a norm, in f32.
fn source(place: &Path) -> PathBuf {
    let folder = place.join("source");
    fs::create_dir(&folder).unwrap();
    let mut outline = Outline::default();
    for (name, shape) in [(EMBEDDING, vec![24, 64]), (UP, vec![16, 64]), (NORM, vec![64])] {
        outline.plain(name.into(), Dtype::F32, shape);
    }
    let mut writer = Writer::create(&folder.join(SINGLE), outline).unwrap();
    let values =
        |count: u32| (0..count).flat_map(|at| (at as f32 * 0.37).sin().to_le_bytes()).collect::<Vec<u8>>();
    for count in [24 * 64, 16 * 64, 64] {
        writer.write(&values(count)).unwrap();
    }
    writer.finish().unwrap();
    fs::write(folder.join(CONFIG), "{\"hidden_size\": 64}").unwrap();
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    fs::write(folder.join("other.bin"), "not for the copy").unwrap();
    folder
}

fn conversion(place: &TempDir, format: Format) -> Conversion {
    let source = place.path().join("source");
    let source = if source.exists() { source } else { self::source(place.path()) };
    Conversion { source, target: place.path().join("made"), format, replace: false, threads: 2 }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_holds_what_its_manifest_says() {
    let place = TempDir::new().unwrap();
    let conversion = conversion(&place, Format::Int4(Group::G32));
    let converted = conversion.run(&mut |_| {}).unwrap();
    let manifest = Manifest::read(&conversion.target).unwrap().unwrap();
    assert_eq!(manifest, converted.manifest);
    assert_eq!(manifest.tensors[EMBEDDING].format, Format::Int8);
    assert_eq!(manifest.tensors[UP].format, Format::Int4(Group::G32));
    assert_eq!(manifest.tensors.len(), 2);
    let (before, after) =
        (Store::open(&conversion.source).unwrap(), Store::open(&conversion.target).unwrap());
    for (name, entry) in &manifest.tensors {
        let matrix = entry.read(&after, name, entry.shape).unwrap();
        let values = before.floats(name, &entry.shape).unwrap();
        assert_eq!(matrix.relative_error(&values), entry.relative_error);
        assert!(entry.relative_error > 0.0, "{entry:?}");
    }
    let doubtful: Vec<&str> = manifest.doubtful().into_iter().map(|(name, _)| name).collect();
    assert_eq!(doubtful, [UP], "random weights in 4 bits are warned of, in 8 bits not");
    assert_eq!(before.floats(NORM, &[64]).unwrap(), after.floats(NORM, &[64]).unwrap());
}

#[test]
fn a_folder_names_the_weights_it_was_made_from_and_keeps_what_is_beside_them() {
    let place = TempDir::new().unwrap();
    let conversion = conversion(&place, Format::Int8);
    let converted = conversion.run(&mut |_| {}).unwrap();
    let weights = fs::read(conversion.source.join(SINGLE)).unwrap();
    assert_eq!(converted.manifest.source[SINGLE], hex::encode(Sha256::digest(&weights)));
    assert_eq!(names(&conversion.target), [CONFIG, SINGLE, "tokenizer.json", MANIFEST]);
    let config: Value = read_json(&conversion.target.join(CONFIG)).unwrap();
    assert_eq!(
        config,
        json!({"hidden_size": 64, "quantization_config": {"quant_method": "weft", "format": "int8"}})
    );
}

#[test]
fn the_same_folder_gives_the_same_bytes() {
    let place = TempDir::new().unwrap();
    let first = conversion(&place, Format::Int4(Group::G64));
    let second = Conversion { target: place.path().join("again"), threads: 1, ..first.clone() };
    first.run(&mut |_| {}).unwrap();
    second.run(&mut |_| {}).unwrap();
    for name in names(&first.target) {
        assert_eq!(
            fs::read(first.target.join(&name)).unwrap(),
            fs::read(second.target.join(&name)).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn a_folder_that_is_there_is_replaced_only_when_asked() {
    let place = TempDir::new().unwrap();
    let conversion = conversion(&place, Format::Int8);
    fs::create_dir(&conversion.target).unwrap();
    fs::write(conversion.target.join("mine"), "precious").unwrap();
    let error = conversion.run(&mut |_| {}).unwrap_err();
    assert!(matches!(error, WeightsError::Exists { .. }), "{error}");
    assert_eq!(names(&conversion.target), ["mine"]);
    let conversion = Conversion { replace: true, ..conversion };
    conversion.run(&mut |_| {}).unwrap();
    assert!(Manifest::read(&conversion.target).unwrap().is_some());
    assert_eq!(names(place.path()), ["made", "source"]);
}

#[test]
fn a_failure_leaves_the_target_as_it_was_and_nothing_beside_it() {
    let place = TempDir::new().unwrap();
    let conversion = Conversion { replace: true, ..conversion(&place, Format::Int8) };
    conversion.run(&mut |_| {}).unwrap();
    let before = fs::read(conversion.target.join(SINGLE)).unwrap();
    let file = conversion.source.join(SINGLE);
    let mut weights = fs::read(&file).unwrap();
    // The last matrix that is read; the norm's bytes are the last 256.
    let at = weights.len() - 256 - 8;
    weights[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, weights).unwrap();
    let error = conversion.run(&mut |_| {}).unwrap_err().to_string();
    assert!(
        error.ends_with(&format!("tensor {UP} has no form in fewer bits: a value is not a finite number")),
        "{error}"
    );
    assert_eq!(fs::read(conversion.target.join(SINGLE)).unwrap(), before);
    assert_eq!(names(place.path()), ["made", "source"]);
}

#[test]
fn what_a_killed_run_left_is_removed() {
    let place = TempDir::new().unwrap();
    let conversion = conversion(&place, Format::Int8);
    fs::create_dir(place.path().join(".made.part")).unwrap();
    fs::write(place.path().join(".made.part").join(SINGLE), "half").unwrap();
    conversion.run(&mut |_| {}).unwrap();
    assert_eq!(names(place.path()), ["made", "source"]);
}

#[test]
fn a_quantized_folder_is_not_quantized_again() {
    let place = TempDir::new().unwrap();
    let first = conversion(&place, Format::Int8);
    first.run(&mut |_| {}).unwrap();
    let second = Conversion { source: first.target.clone(), target: place.path().join("again"), ..first };
    let error = second.run(&mut |_| {}).unwrap_err();
    assert!(
        error.to_string().ends_with("its weights are int8 already; quantize the folder they were made from")
    );
    assert!(!second.target.exists());
}

#[test]
fn the_source_is_never_the_target() {
    let place = TempDir::new().unwrap();
    let conversion = conversion(&place, Format::Int8);
    let conversion = Conversion { target: conversion.source.clone(), replace: true, ..conversion };
    let error = conversion.run(&mut |_| {}).unwrap_err().to_string();
    assert!(error.ends_with("cannot be the target: it is the source"), "{error}");
}
