//! Keys and values in int8.

use super::{Driver, driver::Sequence, on_cpu, quantized::distance, repository};
use crate::model::torch::{CacheChoice, DtypeChoice, LoadError, TorchConfig, decoder::Source, load};

#[test]
fn keys_and_values_in_int8_are_refused_by_name_where_they_are_not_to_be_had() {
    let folder = repository("tests/golden/tiny/llama3-tied");
    let config = TorchConfig { cache: CacheChoice::Int8, ..on_cpu(folder, DtypeChoice::Auto) };
    match Source::open(&config).unwrap().on_libtorch() {
        Ok(_) => panic!("libtorch's operators have no such cache"),
        Err(error) => {
            assert!(matches!(error, LoadError::Int8Cache { .. }), "{error}");
            assert!(error.to_string().starts_with("kv_cache.dtype is int8"), "{error}");
        }
    }
}

#[test]
fn keys_and_values_in_int8_take_half_the_memory_and_give_nearly_the_same() {
    let folder = repository("tests/golden/tiny/llama3-tied");
    let floats = on_cpu(folder, DtypeChoice::F32);
    let whole = TorchConfig { cache: CacheChoice::Int8, ..floats.clone() };
    let prompt: Vec<u32> = (0..90).map(|index| index * 37 % 512).collect();
    let logits = |config: &TorchConfig, chunk: usize| {
        let mut driver = Driver::new(load(config).unwrap());
        (driver.model.info().clone(), driver.prefill(&mut Sequence::new(&prompt), chunk))
    };
    let ((ours, found), (theirs, expected)) = (logits(&whole, 90), logits(&floats, 90));
    assert_eq!((&*ours.kv_dtype, &*theirs.kv_dtype), ("int8", "f32"));
    assert!(ours.kv_bytes_per_token < theirs.kv_bytes_per_token / 2, "{}", ours.kv_bytes_per_token);
    let off = distance(&found, &expected);
    assert!(0.0 < off && off < 0.02, "{off}");
    assert_eq!(logits(&whole, 7).1, found, "however the prompt is cut");
}
