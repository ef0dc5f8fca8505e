//! From a folder to a decoder.

use std::path::Path;

use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};
use weft_weights::{Format, QuantizedMatrix};

use super::{
    Decoder,
    network::{Layer, Network},
};
use crate::{
    kernels::{Heads, Isa},
    model::{
        Model, ModelInfo,
        torch::{
            CacheChoice, DtypeChoice, LoadError, TorchConfig,
            adapter::Widths,
            backend::{Backend, Cuda, Kernels, Libtorch, Shape},
            config::{Generation, ModelConfig},
            device,
            weights::{Weight, Weights},
        },
    },
    sampler::Scorer,
};

/// Name of the embedding, also the output projection of a tied model.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Name of the last norm.
const NORM: &str = "model.norm.weight";

/// Loads a folder onto the device and backend that suit it.
pub(in crate::model::torch) fn load(config: &TorchConfig) -> Result<Box<dyn Model>, LoadError> {
    let _no_grad = tch::no_grad_guard();
    let source = Source::open(config)?;
    match source.device {
        Device::Cuda(_) => source.on_cuda(),
        // Where our kernels have vector instructions they are faster than libtorch's; elsewhere libtorch knows more machines.
        Device::Cpu if Isa::best().is_vectorized() => source.on_kernels(Isa::best()),
        _ => source.on_libtorch(),
    }
}

/// The type in memory: as configured, else as config.json says, else as the embedding is stored.
fn kind(choice: DtypeChoice, model: &ModelConfig, weights: &Weights) -> Kind {
    let choice = if choice == DtypeChoice::Auto { model.dtype } else { choice };
    match choice {
        DtypeChoice::F32 => Kind::Float,
        DtypeChoice::BF16 => Kind::BFloat16,
        DtypeChoice::F16 => Kind::Half,
        // Of quantized folders the norms are still plain.
        DtypeChoice::Auto => {
            let stored = [EMBEDDING, NORM].into_iter().find_map(|name| weights.stored_kind(name));
            stored.unwrap_or(Kind::Float)
        }
    }
}

/// Everything that a decoder is made from.
pub(in crate::model::torch) struct Source<'a> {
    folder: &'a Path,
    model: ModelConfig,
    weights: Weights,
    kind: Kind,
    cache: CacheChoice,
    device: Device,
    threads: usize,
}

impl<'a> Source<'a> {
    /// Reads the folder's configuration and the headers of its weights.
    pub(in crate::model::torch) fn open(config: &'a TorchConfig) -> Result<Self, LoadError> {
        let model = ModelConfig::read(&config.folder)?;
        let device = device::choose(config.device)?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut weights = Weights::open(&config.folder)?;
        let kind = kind(config.dtype, &model, &weights);
        weights.convert_to(kind);
        if let Some(format) = config.weights {
            weights.quantize_to(format, threads)?;
        }
        Ok(Self { folder: &config.folder, model, weights, kind, cache: config.cache, device, threads })
    }

    /// A decoder on our kernels.
    pub(in crate::model::torch) fn on_kernels(self, isa: Isa) -> Result<Box<dyn Model>, LoadError> {
        let kernels = Kernels::new(isa, self.kind, self.cache, self.threads);
        let kernels =
            kernels.map_err(|error| LoadError::Device { device: "cpu".into(), reason: error.to_string() })?;
        Ok(Box::new(self.decoder(kernels)?))
    }

    /// A decoder on a GPU.
    pub(in crate::model::torch) fn on_cuda(self) -> Result<Box<dyn Model>, LoadError> {
        self.refuse_int8_cache()?;
        let model = &self.model;
        let heads = Heads { queries: model.heads, keys: model.kv_heads, width: model.head_dim };
        let cuda = Cuda::new(self.device, self.kind, heads, model.context)?;
        Ok(Box::new(self.decoder(cuda)?))
    }

    /// A decoder on libtorch's operators.
    pub(in crate::model::torch) fn on_libtorch(self) -> Result<Box<dyn Model>, LoadError> {
        self.refuse_int8_cache()?;
        tch::set_num_threads(i32::try_from(self.threads).unwrap_or(i32::MAX));
        let libtorch = Libtorch::new(self.device, self.kind);
        Ok(Box::new(self.decoder(libtorch)?))
    }

    /// Only our kernels for CPUs have it.
    fn refuse_int8_cache(&self) -> Result<(), LoadError> {
        match self.cache {
            CacheChoice::AsWeights => Ok(()),
            CacheChoice::Int8 => Err(LoadError::Int8Cache { device: device::name(self.device) }),
        }
    }

    /// Reads all weights.
    fn decoder<B: Backend>(mut self, mut backend: B) -> Result<Decoder<B>, LoadError> {
        let (vocabulary, hidden) = (self.model.vocabulary, self.model.hidden);
        let embedding = backend.matrix(self.weights.take_matrix(EMBEDDING, [vocabulary, hidden])?, None)?;
        let layers =
            (0..self.model.layers).map(|index| self.layer(&mut backend, index)).collect::<Result<_, _>>()?;
        let norm = self.norm(&backend, "model.norm")?;
        let head = if self.model.tied {
            self.weights.ignore("lm_head.weight");
            None
        } else {
            Some(backend.matrix(self.weights.take_matrix("lm_head.weight", [vocabulary, hidden])?, None)?)
        };
        let shape = Shape {
            heads: self.model.heads,
            kv_heads: self.model.kv_heads,
            head_dim: self.model.head_dim,
            blocks: 0,
            block_size: 0,
        };
        let kv_bytes = backend.kv_bytes(&shape) * self.model.layers;
        let widths = Widths {
            layers: self.model.layers,
            hidden: self.model.hidden,
            intermediate: self.model.intermediate,
            queries: self.model.heads * self.model.head_dim,
            keys: self.model.kv_heads * self.model.head_dim,
        };
        let rope = self.model.rope.clone();
        let frequencies = (!rope.depends_on_length()).then(|| rope.frequencies(0));
        let info = self.info(kv_bytes)?;
        Ok(Decoder {
            backend,
            info,
            shape,
            widths,
            rope,
            frequencies,
            network: Network { embedding, head, norm, layers, caches: Vec::new() },
            scorer: Scorer::default(),
        })
    }

    fn layer<B: Backend>(&mut self, backend: &mut B, index: usize) -> Result<Layer<B>, LoadError> {
        let at = |part: &str| format!("model.layers.{index}.{part}");
        let model = &self.model;
        let (hidden, intermediate) = (model.hidden, model.intermediate);
        let (queries, keys) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
        let (qkv_bias, output_bias, mlp_bias) = (model.qkv_bias, model.output_bias, model.mlp_bias);
        let qkv = [
            (at("self_attn.q_proj"), queries),
            (at("self_attn.k_proj"), keys),
            (at("self_attn.v_proj"), keys),
        ];
        let gate_up = [(at("mlp.gate_proj"), intermediate), (at("mlp.up_proj"), intermediate)];
        Ok(Layer {
            attention_norm: self.norm(backend, &at("input_layernorm"))?,
            qkv: self.linear(backend, &qkv, hidden, qkv_bias)?,
            head_norms: self.head_norms(backend, &at("self_attn"))?,
            output: self.linear(backend, &[(at("self_attn.o_proj"), hidden)], queries, output_bias)?,
            mlp_norm: self.norm(backend, &at("post_attention_layernorm"))?,
            gate_up: self.linear(backend, &gate_up, hidden, mlp_bias)?,
            down: self.linear(backend, &[(at("mlp.down_proj"), hidden)], intermediate, mlp_bias)?,
        })
    }

    /// One matrix of several projections, `(name, outputs)` each, stacked.
    fn linear<B: Backend>(
        &mut self,
        backend: &mut B,
        parts: &[(String, usize)],
        inputs: usize,
        biased: bool,
    ) -> Result<B::Matrix, LoadError> {
        let weight = self.stacked_matrix(parts, inputs)?;
        let bias = if biased {
            let biases =
                parts.iter().map(|(name, outputs)| self.weights.take(&format!("{name}.bias"), &[*outputs]));
            Some(stacked(biases.collect::<Result<_, _>>()?)?)
        } else {
            None
        };
        backend.matrix(weight, bias.as_ref())
    }

    /// The weights of several projections, `(name, outputs)` each, one below the other.
    fn stacked_matrix(&mut self, parts: &[(String, usize)], inputs: usize) -> Result<Weight, LoadError> {
        let (mut plain, mut quantized): (Vec<Tensor>, Option<QuantizedMatrix>) = (Vec::new(), None);
        for (name, outputs) in parts {
            let name = format!("{name}.weight");
            let fits = match (self.weights.take_matrix(&name, [*outputs, inputs])?, &mut quantized) {
                (Weight::Plain(tensor), None) => {
                    plain.push(tensor);
                    true
                }
                (Weight::Quantized(matrix), Some(above)) => above.append(matrix),
                (Weight::Quantized(matrix), None) => {
                    quantized = Some(matrix);
                    plain.is_empty()
                }
                (Weight::Plain(_), Some(_)) => false,
            };
            if !fits {
                return Err(LoadError::MixedFormats {
                    file: self.weights.file_of(&name).into(),
                    tensor: name,
                });
            }
        }
        match quantized {
            Some(matrix) => Ok(Weight::Quantized(matrix)),
            None => stacked(plain).map(Weight::Plain),
        }
    }

    fn norm<B: Backend>(&mut self, backend: &B, name: &str) -> Result<B::Norm, LoadError> {
        let weight = self.weights.take(&format!("{name}.weight"), &[self.model.hidden])?;
        backend.norm_weight(&weight, self.model.norm_epsilon)
    }

    fn head_norms<B: Backend>(&mut self, backend: &B, name: &str) -> Result<Option<B::HeadNorms>, LoadError> {
        if !self.model.head_norms {
            return Ok(None);
        }
        let query = self.weights.take(&format!("{name}.q_norm.weight"), &[self.model.head_dim])?;
        let key = self.weights.take(&format!("{name}.k_norm.weight"), &[self.model.head_dim])?;
        backend.head_norms(&query, &key, self.model.norm_epsilon).map(Some)
    }

    /// What the model says of itself; ends the reading of weights.
    fn info(self, kv_bytes_per_token: usize) -> Result<ModelInfo, LoadError> {
        let generation = Generation::read(self.folder)?;
        Ok(ModelInfo {
            kv_dtype: match self.cache {
                CacheChoice::AsWeights => float_name(self.kind).into(),
                CacheChoice::Int8 => "int8".into(),
            },
            dtype: self.weights.format().map_or(float_name(self.kind), Format::name).into(),
            device: device::name(self.device),
            vocabulary_size: self.model.vocabulary,
            context_length: self.model.context,
            hidden_size: self.model.hidden,
            end_token_ids: generation.end_ids().unwrap_or(self.model.end_ids),
            default_temperature: generation.temperature,
            default_top_p: generation.top_p,
            default_top_k: generation.top_k,
            default_repetition_penalty: generation.repetition_penalty,
            tokenizer_fingerprint: fingerprint(self.folder)?,
            parameters: self.weights.finish(&self.model.architecture)?,
            architecture: self.model.architecture,
            keys_depend_on_length: self.model.rope.depends_on_length(),
            kv_bytes_per_token,
        })
    }
}

fn float_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bf16",
        Kind::Half => "f16",
        _ => "f32",
    }
}

fn stacked(parts: Vec<Tensor>) -> Result<Tensor, LoadError> {
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// SHA-256 of tokenizer.json in lower-case hex; empty if the folder has none.
fn fingerprint(folder: &Path) -> Result<String, LoadError> {
    let file = folder.join("tokenizer.json");
    match std::fs::read(&file) {
        Ok(bytes) => Ok(hex::encode(Sha256::digest(bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(LoadError::Read { file, source }),
    }
}
