//! config.json and generation_config.json: parsed, checked, and refused by name where they ask for something unknown.

mod generation;
mod rope_parameters;

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub(super) use generation::Generation;

use weft_weights::MANIFEST;

use super::{DtypeChoice, LoadError, rope::Rope};

/// The architectures that are computed, each a small variation of Llama.
const ARCHITECTURES: &str =
    "supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";

/// A model's shape, checked.
#[derive(Clone, Debug)]
pub(super) struct ModelConfig {
    pub(super) architecture: String,
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) norm_epsilon: f32,
    /// Longest sequence.
    pub(super) context: usize,
    pub(super) rope: Rope,
    pub(super) tied: bool,
    /// Biases of the query, key and value projections.
    pub(super) qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub(super) output_bias: bool,
    /// Biases of the feed-forward projections.
    pub(super) mlp_bias: bool,
    /// Norms of each head's query and key.
    pub(super) head_norms: bool,
    /// The type that config.json names; `Auto` where it names none.
    pub(super) dtype: DtypeChoice,
    /// End ids of config.json.
    pub(super) end_ids: Vec<u32>,
}

/// config.json as written. Keys that do not change the computation are not listed.
#[derive(Debug, Deserialize)]
struct Raw {
    architectures: Option<Vec<String>>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<f64>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
    #[serde(alias = "torch_dtype")]
    dtype: Option<String>,
    eos_token_id: Option<EndIds>,
}

/// One id or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum EndIds {
    One(u32),
    Several(Vec<u32>),
}

impl EndIds {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }
}

/// What sets one architecture apart from another.
struct Family {
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    head_norms: bool,
    /// Whether a missing `num_key_value_heads` means one for each head, and a missing `head_dim` an even share.
    derives_heads: bool,
    /// Whether `sliding_window` counts without `use_sliding_window`.
    slides_by_default: bool,
}

impl ModelConfig {
    /// Reads the folder's config.json.
    ///
    /// # Errors
    /// It is missing or damaged, or asks for something that is not computed.
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        let file = folder.join("config.json");
        let raw: Raw = read_json(&file)?;
        Reader { file, raw }.read()
    }
}

/// Parses a JSON file.
pub(super) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, LoadError> {
    let open = File::open(file).map_err(|source| LoadError::Read { file: file.into(), source })?;
    serde_json::from_reader(BufReader::new(open))
        .map_err(|error| LoadError::Json { file: file.into(), reason: error.to_string() })
}

struct Reader {
    file: PathBuf,
    raw: Raw,
}

impl Reader {
    fn read(self) -> Result<ModelConfig, LoadError> {
        let (architecture, family) = self.family()?;
        self.refuse_unknown(&family)?;
        let heads = self.positive("num_attention_heads", self.raw.num_attention_heads)?;
        let hidden = self.positive("hidden_size", self.raw.hidden_size)?;
        let kv_heads = self.kv_heads(heads, &family)?;
        let head_dim = self.head_dim(hidden, heads, &family)?;
        let trained = self.positive("max_position_embeddings", self.raw.max_position_embeddings)?;
        let (rope, context) = rope_parameters::read(&self, head_dim, trained)?;
        Ok(ModelConfig {
            vocabulary: self.positive("vocab_size", self.raw.vocab_size)?,
            intermediate: self.positive("intermediate_size", self.raw.intermediate_size)?,
            layers: self.positive("num_hidden_layers", self.raw.num_hidden_layers)?,
            norm_epsilon: self.epsilon()?,
            tied: self.raw.tie_word_embeddings.unwrap_or(false),
            qkv_bias: family.qkv_bias,
            output_bias: family.output_bias,
            mlp_bias: family.mlp_bias,
            head_norms: family.head_norms,
            dtype: self.dtype()?,
            end_ids: self.raw.eos_token_id.clone().map(EndIds::into_vec).unwrap_or_default(),
            architecture,
            hidden,
            heads,
            kv_heads,
            head_dim,
            context,
            rope,
        })
    }

    fn family(&self) -> Result<(String, Family), LoadError> {
        let names = self.raw.architectures.as_deref().unwrap_or_default();
        let Some(name) = names.first() else { return Err(self.missing("architectures")) };
        let attention_bias = self.raw.attention_bias.unwrap_or(false);
        let llama = Family {
            qkv_bias: attention_bias,
            output_bias: attention_bias,
            mlp_bias: self.raw.mlp_bias.unwrap_or(false),
            head_norms: false,
            derives_heads: true,
            slides_by_default: false,
        };
        let plain = Family { qkv_bias: false, output_bias: false, mlp_bias: false, ..llama };
        let family = match name.as_str() {
            "LlamaForCausalLM" => llama,
            "MistralForCausalLM" => Family { derives_heads: false, slides_by_default: true, ..plain },
            "Qwen2ForCausalLM" => Family { qkv_bias: true, derives_heads: false, ..plain },
            "Qwen3ForCausalLM" => Family { mlp_bias: false, head_norms: true, derives_heads: false, ..llama },
            _ => return Err(self.unsupported("architectures[0]", name, ARCHITECTURES)),
        };
        Ok((name.clone(), family))
    }

    /// What would change the computation and is not computed.
    fn refuse_unknown(&self, family: &Family) -> Result<(), LoadError> {
        self.refuse_quantization()?;
        match self.raw.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(self.unsupported("hidden_act", other, "supported: silu")),
        }
        match self.raw.partial_rotary_factor {
            None => {}
            Some(1.0) => {}
            Some(other) => return Err(self.unsupported("partial_rotary_factor", other, "supported: 1.0")),
        }
        self.refuse_windows(family)
    }

    /// Weft's own quantized folders have a manifest beside config.json, without which their codes mean nothing.
    fn refuse_quantization(&self) -> Result<(), LoadError> {
        const KEY: &str = "quantization_config.quant_method";
        let Some(quantization) = &self.raw.quantization_config else { return Ok(()) };
        match quantization.get("quant_method").and_then(Value::as_str) {
            Some("weft") if self.file.with_file_name(MANIFEST).exists() => Ok(()),
            Some("weft") => Err(self.bad(KEY, "weft", format!("needs the file {MANIFEST} beside it"))),
            method => {
                let method = method.unwrap_or("(no quant_method)");
                Err(self.unsupported(KEY, method, "supported: weft; else f32, bf16, f16 weights"))
            }
        }
    }

    fn refuse_windows(&self, family: &Family) -> Result<(), LoadError> {
        const FULL: &str = "supported: full_attention";
        let types = self.raw.layer_types.as_deref().unwrap_or_default();
        if let Some(other) = types.iter().find(|kind| *kind != "full_attention") {
            return Err(self.unsupported("layer_types", other, FULL));
        }
        let slides = self.raw.use_sliding_window.unwrap_or(family.slides_by_default);
        match (self.raw.sliding_window, self.raw.max_position_embeddings) {
            // A window as long as the context never cuts anything off.
            (Some(window), Some(context)) if slides && window < context => {
                Err(self.unsupported("sliding_window", window, "supported: null, or the whole context"))
            }
            _ => Ok(()),
        }
    }

    fn kv_heads(&self, heads: usize, family: &Family) -> Result<usize, LoadError> {
        let kv_heads = match self.raw.num_key_value_heads {
            None if family.derives_heads => heads,
            other => self.positive("num_key_value_heads", other)?,
        };
        if !heads.is_multiple_of(kv_heads) {
            let rule = format!("must divide num_attention_heads ({heads})");
            return Err(self.bad("num_key_value_heads", kv_heads, rule));
        }
        Ok(kv_heads)
    }

    fn head_dim(&self, hidden: usize, heads: usize, family: &Family) -> Result<usize, LoadError> {
        let head_dim = match self.raw.head_dim {
            // Qwen3's heads have a width of their own.
            None if family.head_norms => return Err(self.missing("head_dim")),
            None if !hidden.is_multiple_of(heads) => {
                let rule = format!("must divide hidden_size ({hidden}) where head_dim is missing");
                return Err(self.bad("num_attention_heads", heads, rule));
            }
            None => hidden / heads,
            other => self.positive("head_dim", other)?,
        };
        if !head_dim.is_multiple_of(2) || head_dim < 4 {
            return Err(self.bad(
                "head_dim",
                head_dim,
                "must be even and at least 4: rotary embedding turns pairs".into(),
            ));
        }
        Ok(head_dim)
    }

    fn epsilon(&self) -> Result<f32, LoadError> {
        let epsilon = self.raw.rms_norm_eps.ok_or_else(|| self.missing("rms_norm_eps"))?;
        if !(epsilon > 0.0 && epsilon < 1.0) {
            return Err(self.bad("rms_norm_eps", epsilon, "must be between 0 and 1".into()));
        }
        Ok(epsilon as f32)
    }

    fn dtype(&self) -> Result<DtypeChoice, LoadError> {
        match self.raw.dtype.as_deref() {
            None => Ok(DtypeChoice::Auto),
            Some("float32") => Ok(DtypeChoice::F32),
            Some("bfloat16") => Ok(DtypeChoice::BF16),
            Some("float16") => Ok(DtypeChoice::F16),
            Some(other) => Err(self.unsupported("dtype", other, "supported: float32, bfloat16, float16")),
        }
    }

    fn positive(&self, key: &'static str, value: Option<usize>) -> Result<usize, LoadError> {
        /// No dimension of a real model comes near; products of two stay far from overflow.
        const MOST: usize = 1 << 28;
        match value {
            None => Err(self.missing(key)),
            Some(value) if (1..=MOST).contains(&value) => Ok(value),
            Some(value) => Err(self.bad(key, value, format!("must be between 1 and {MOST}"))),
        }
    }

    fn missing(&self, key: &'static str) -> LoadError {
        LoadError::MissingKey { file: self.file.clone(), key }
    }

    fn bad(&self, key: &'static str, value: impl ToString, rule: String) -> LoadError {
        LoadError::BadValue { file: self.file.clone(), key, value: value.to_string(), rule }
    }

    fn unsupported(&self, key: &'static str, value: impl ToString, supported: &'static str) -> LoadError {
        LoadError::Unsupported { file: self.file.clone(), key, value: value.to_string(), supported }
    }
}
