//! Rotary parameters, as transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) write them.

use serde::Deserialize;
use serde_json::Value;

use super::Reader;
use crate::model::torch::{
    LoadError,
    rope::{Rope, Scaling},
};

/// transformers' base where a config names none.
const DEFAULT_THETA: f64 = 10_000.0;

/// Either form, as written.
#[derive(Debug, Default, Deserialize)]
struct Raw {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
}

/// The rotary embedding, and the longest sequence that it allows.
pub(super) fn read(reader: &Reader, head_dim: usize, trained: usize) -> Result<(Rope, usize), LoadError> {
    let raw = raw(reader)?;
    if let Some(factor) = raw.partial_rotary_factor.filter(|factor| *factor != 1.0) {
        return Err(reader.unsupported("rope_parameters.partial_rotary_factor", factor, "supported: 1.0"));
    }
    let theta = raw.rope_theta.or(reader.raw.rope_theta).unwrap_or(DEFAULT_THETA);
    if !(theta.is_finite() && theta > 1.0) {
        return Err(reader.bad("rope_theta", theta, "must be above 1".into()));
    }
    let scaling = scaling(reader, &raw, trained)?;
    let context = match scaling {
        // Other kinds are configured with the scaled length.
        Scaling::Dynamic { factor, .. } => (trained as f64 * factor) as usize,
        Scaling::Default | Scaling::Linear { .. } | Scaling::Llama3 { .. } => trained,
    };
    Ok((Rope { head_dim, theta, scaling }, context))
}

/// The newer form where it stands, else the older.
fn raw(reader: &Reader) -> Result<Raw, LoadError> {
    let newer = reader.raw.rope_parameters.as_ref().map(|value| ("rope_parameters", value));
    let older = reader.raw.rope_scaling.as_ref().map(|value| ("rope_scaling", value));
    let Some((key, value)) = newer.or(older) else { return Ok(Raw::default()) };
    if value.as_object().is_some_and(|map| map.values().any(Value::is_object)) {
        return Err(reader.unsupported(key, value, "supported: one set of parameters for all layers"));
    }
    // Both spellings at once, as some older files have them, would be a duplicate field.
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut()
        && map.contains_key("rope_type")
    {
        map.remove("type");
    }
    Raw::deserialize(&value)
        .map_err(|error| LoadError::Json { file: reader.file.clone(), reason: format!("{key}: {error}") })
}

fn scaling(reader: &Reader, raw: &Raw, trained: usize) -> Result<Scaling, LoadError> {
    let factor = || match raw.factor {
        Some(factor) if factor.is_finite() && factor >= 1.0 => Ok(factor),
        Some(factor) => Err(reader.bad("rope_parameters.factor", factor, "must be at least 1".into())),
        None => Err(reader.missing("rope_parameters.factor")),
    };
    match raw.rope_type.as_deref() {
        None | Some("default") => Ok(Scaling::Default),
        Some("linear") => Ok(Scaling::Linear { factor: factor()? }),
        Some("dynamic") => Ok(Scaling::Dynamic { factor: factor()?, trained }),
        Some("llama3") => llama3(reader, raw, (factor()?, trained)),
        Some(other) => Err(reader.unsupported(
            "rope_parameters.rope_type",
            other,
            "supported: default, linear, dynamic, llama3",
        )),
    }
}

fn llama3(reader: &Reader, raw: &Raw, (factor, trained): (f64, usize)) -> Result<Scaling, LoadError> {
    let low = raw.low_freq_factor.ok_or_else(|| reader.missing("rope_parameters.low_freq_factor"))?;
    let high = raw.high_freq_factor.ok_or_else(|| reader.missing("rope_parameters.high_freq_factor"))?;
    if !(high > low && high.is_finite() && low.is_finite()) {
        let rule = format!("must be above low_freq_factor ({low})");
        return Err(reader.bad("rope_parameters.high_freq_factor", high, rule));
    }
    let trained = raw.original_max_position_embeddings.unwrap_or(trained);
    let trained = reader.positive("rope_parameters.original_max_position_embeddings", Some(trained))?;
    Ok(Scaling::Llama3 { factor, low, high, trained })
}
