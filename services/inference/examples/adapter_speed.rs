//! What adapters cost: tokens a second of one model alone, and with as many adapters as there are streams, in turn.
//!
//! ```text
//! cargo run --release -p weft-inference --example adapter_speed -- models/smollm2-135m-instruct [adapters] [rank]
//! ```
//!
//! The adapters are random, over all projections. Each stream reads 16 tokens and generates 64; medians of 5.
#![expect(clippy::print_stdout, reason = "a report for a person")]

use std::{collections::BTreeMap, fs, path::Path};

use futures::StreamExt as _;
use rand::RngExt as _;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tokio::time::Instant;
use weft_inference::{
    Config, Running,
    model::torch::{CacheChoice, DeviceChoice, DtypeChoice, TorchConfig, load},
    request::Generate,
    start_with,
};
use weft_runtime::{BoxError, Process, RuntimeConfig};

const PROMPT: usize = 16;
const TOKENS: usize = 64;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: adapter_speed FOLDER [ADAPTERS] [RANK]")?;
    let count: usize = arguments.next().map_or(Ok(16), |count| count.parse())?;
    let rank: usize = arguments.next().map_or(Ok(16), |rank| rank.parse())?;
    let root = std::env::temp_dir().join(format!("weft-adapter-speed-{}", std::process::id()));
    write_adapter(Path::new(&folder), &root.join("random"), rank)?;
    let running = start(&folder, &root, count).await?;
    let mut bytes = 0;
    for index in 0..count {
        let began = Instant::now();
        bytes = running.adapters.load(&index.to_string(), "random", None).await?.bytes;
        if index == 0 {
            println!("an adapter of rank {rank}: {bytes} bytes, loaded in {:.2?}", began.elapsed());
        }
    }
    fs::remove_dir_all(&root)?;
    let (mut base, mut adapted) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        base.push(speed(&running, count, false).await?);
        adapted.push(speed(&running, count, true).await?);
    }
    let (base, adapted) = (median(base), median(adapted));
    println!("{count} streams, the base alone: {base:.1} tokens/s");
    println!("{count} streams, {count} adapters of {bytes} bytes: {adapted:.1} tokens/s");
    println!("ratio {:.3}", adapted / base);
    Ok(())
}

async fn start(folder: &str, root: &Path, count: usize) -> Result<Running, BoxError> {
    let text = format!(
        "[model]\nfolder = \"{folder}\"\n[adapters]\nfolder = \"{}\"\nmax_adapters = {count}\nmemory = \"4GiB\"\n",
        root.display()
    );
    let config: Config = weft_runtime::config::parse(&text, &[])?;
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let torch = TorchConfig {
        folder: folder.into(),
        dtype: DtypeChoice::Auto,
        cache: CacheChoice::AsWeights,
        weights: None,
        device: DeviceChoice::Auto,
        threads: 0,
    };
    Ok(start_with(config, context, move || Ok(load(&torch)?)).await?)
}

/// Tokens a second of `count` streams at once.
async fn speed(running: &Running, count: usize, adapted: bool) -> Result<f64, BoxError> {
    let began = Instant::now();
    let streams = (0..count).map(|index| -> Result<_, BoxError> {
        let lease = adapted.then(|| running.adapters.lease(&index.to_string())).transpose()?;
        Ok(running.engine.generate(request(index, lease), None)?)
    });
    let streams = streams.collect::<Result<Vec<_>, _>>()?;
    let events = futures::future::join_all(streams.into_iter().map(|stream| stream.count())).await;
    assert!(events.iter().all(|events| *events == TOKENS + 2), "every stream came to its end");
    Ok((count * TOKENS) as f64 / began.elapsed().as_secs_f64())
}

fn request(index: usize, adapter: Option<weft_inference::adapters::Lease>) -> Generate {
    let prompt = (0..PROMPT).map(|token| (1000 + token * 31 + index * 7) as u32).collect();
    Generate { adapter, ..Generate::greedy(prompt, TOKENS) }
}

/// Writes an adapter over all projections of a model, as PEFT would.
fn write_adapter(model: &Path, to: &Path, rank: usize) -> Result<(), BoxError> {
    let config: Value = serde_json::from_slice(&fs::read(model.join("config.json"))?)?;
    let number = |key: &str| config[key].as_u64().map(|number| number as usize);
    let need = |key: &str| number(key).ok_or_else(|| format!("config.json has no {key}"));
    let (hidden, intermediate, heads) =
        (need("hidden_size")?, need("intermediate_size")?, need("num_attention_heads")?);
    let head = number("head_dim").unwrap_or(hidden / heads);
    let (queries, keys) = (heads * head, number("num_key_value_heads").unwrap_or(heads) * head);
    let projections = [
        ("self_attn.q_proj", hidden, queries),
        ("self_attn.k_proj", hidden, keys),
        ("self_attn.v_proj", hidden, keys),
        ("self_attn.o_proj", queries, hidden),
        ("mlp.gate_proj", hidden, intermediate),
        ("mlp.up_proj", hidden, intermediate),
        ("mlp.down_proj", intermediate, hidden),
    ];
    let mut tensors = BTreeMap::new();
    for layer in 0..need("num_hidden_layers")? {
        for (module, inputs, outputs) in projections {
            let name = format!("base_model.model.model.layers.{layer}.{module}");
            tensors.insert(format!("{name}.lora_A.weight"), random(rank, inputs));
            tensors.insert(format!("{name}.lora_B.weight"), random(outputs, rank));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| Ok((name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let views = views.collect::<Result<BTreeMap<_, _>, BoxError>>()?;
    fs::create_dir_all(to)?;
    fs::write(to.join("adapter_model.safetensors"), safetensors::serialize(views, None)?)?;
    let names = projections.map(|(module, ..)| module.rsplit('.').next());
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none",
        "r": rank, "lora_alpha": rank, "target_modules": names,
    });
    Ok(fs::write(to.join("adapter_config.json"), config.to_string())?)
}

/// Small values, so that the model still speaks.
fn random(rows: usize, columns: usize) -> (Vec<usize>, Vec<u8>) {
    let mut random = rand::rng();
    let values = (0..rows * columns).map(|_| random.random_range(-0.01..0.01_f32));
    (vec![rows, columns], values.flat_map(f32::to_le_bytes).collect())
}

fn median(mut speeds: Vec<f64>) -> f64 {
    speeds.sort_by(f64::total_cmp);
    speeds[speeds.len() / 2]
}
