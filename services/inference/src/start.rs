//! From configuration to a service.

use std::sync::Arc;

use weft_runtime::{BoxError, Context, Services};

use crate::{
    adapters::Adapters,
    config::{CacheDtype, Config, ModelConfig},
    constraint::{Compiler, ConstraintMetrics, Source},
    engine::{EngineHandle, Pace, Places, Plan, Started, start_stepped as step_as_task, start_thread},
    error::StartError,
    grpc,
    metrics::EngineMetrics,
    model::{Model, ModelInfo},
    request::Served,
    sampler::Defaults,
};

/// A service that is ready, and the engine behind it.
#[derive(Debug)]
pub struct Running {
    /// What the process serves.
    pub services: Services,
    /// The engine's door: for tests that look at it.
    pub engine: EngineHandle,
    /// What requests are checked against.
    pub served: Served,
    /// Its adapters, of those that are configured.
    pub adapters: Adapters,
}

/// Loads the configured model and starts the service.
///
/// # Errors
/// The model, the cache or the first steps.
pub async fn start(config: Config, context: Context) -> Result<Services, StartError> {
    Ok(run(config, context).await?.services)
}

/// As [`start`], for who drives the engine beside the service: measurements in process.
///
/// # Errors
/// The model, the cache or the first steps.
pub async fn run(config: Config, context: Context) -> Result<Running, StartError> {
    let (model, cache) = (config.model.clone(), config.kv_cache.dtype);
    start_with(config, context, move || load(&model, cache)).await
}

/// Starts the service with any model. `factory` runs on the engine's thread, which then owns what it made.
///
/// # Errors
/// The factory's own, the cache or the first steps.
pub async fn start_with<F>(config: Config, context: Context, factory: F) -> Result<Running, StartError>
where
    F: FnOnce() -> Result<Box<dyn Model>, BoxError> + Send + 'static,
{
    let plan = plan(&config, &context);
    let started = start_thread(plan, places(&config), &context, factory).await?;
    serve(&config, started, &context).await
}

/// Starts the service with an engine that a task steps at this pace, for tests with a paused clock.
///
/// # Errors
/// The cache or the first steps.
pub async fn start_stepped(
    config: Config,
    context: Context,
    model: Box<dyn Model + Send>,
    pace: Pace,
) -> Result<Running, StartError> {
    let plan = plan(&config, &context);
    let started = step_as_task(plan, places(&config), &context, model, pace).await?;
    serve(&config, started, &context).await
}

/// One for each request that may be held.
fn places(config: &Config) -> Arc<Places> {
    Places::new(config.scheduler.capacity(), config.scheduler.share())
}

fn plan(config: &Config, context: &Context) -> Plan {
    Plan {
        model_id: model_id(&config.model),
        kv_cache: config.kv_cache.clone(),
        limits: config.scheduler.step_limits(),
        prices: config.scheduler.prices(),
        pacing: config.scheduler.pacing(),
        speculation: config.speculation,
        threads: config.model.threads,
        metrics: EngineMetrics::new(&context.metrics),
        condition: context.health.condition("model", "loading"),
        failure: context.failure.clone(),
    }
}

async fn serve(config: &Config, started: Started, context: &Context) -> Result<Running, StartError> {
    let Started { handle, info, adapter_loader } = started;
    let adapters = Adapters::new(config.adapters.clone(), adapter_loader, &context.metrics);
    adapters.preload().await.map_err(|(id, source)| StartError::Adapter { id, source })?;
    let cache_tokens = handle.status().blocks_total * config.kv_cache.block_size;
    let context_length = info.context_length.min(cache_tokens);
    let asked = &config.limits;
    let served = Served {
        vocabulary_size: info.vocabulary_size,
        context_length,
        max_prompt_tokens: asked.max_prompt_tokens.unwrap_or(context_length),
        max_new_tokens: asked.max_new_tokens.unwrap_or(context_length),
        max_embed_inputs: asked.max_embed_inputs,
        max_continuations: asked.continuations(config.scheduler.capacity()),
        max_constraint_bytes: config.constraint.max_bytes,
        end_token_ids: info.end_token_ids.clone(),
        defaults: Defaults::of(&info).map_err(StartError::Defaults)?,
    };
    let model_id = model_id(&config.model);
    tracing::info!(
        model = model_id,
        architecture = info.architecture,
        dtype = info.dtype,
        kv_dtype = info.kv_dtype,
        device = info.device,
        parameters = info.parameters,
        context_length,
        kv_blocks = handle.status().blocks_total,
        kv_block_size = config.kv_cache.block_size,
        "the model is warm"
    );
    let compiler = compiler(config, &info, context)?;
    let about = grpc::About {
        model_id,
        info,
        scheduler: config.scheduler.clone(),
        block_size: config.kv_cache.block_size,
    };
    let backend = grpc::Backend { engine: handle.clone(), compiler, adapters: adapters.clone() };
    let services = Services::new().add(grpc::service(backend, served.clone(), about, context.limits));
    Ok(Running { services, engine: handle, served, adapters })
}

fn compiler(config: &Config, info: &ModelInfo, context: &Context) -> Result<Compiler, StartError> {
    let source = Source {
        folder: config.model.folder.clone(),
        fingerprint: info.tokenizer_fingerprint.clone(),
        vocabulary_size: info.vocabulary_size,
        end_token_ids: info.end_token_ids.clone(),
    };
    let metrics = ConstraintMetrics::new(&context.metrics);
    Compiler::start(source, config.constraint.clone(), config.scheduler.max_sequences, metrics)
        .map_err(StartError::Thread)
}

/// The name under which the model is served.
fn model_id(config: &ModelConfig) -> String {
    let folder_name = || config.folder.file_name().map(|name| name.to_string_lossy().into_owned());
    config.id.clone().or_else(folder_name).unwrap_or_else(|| config.folder.display().to_string())
}

#[cfg(feature = "torch")]
fn load(config: &ModelConfig, cache: CacheDtype) -> Result<Box<dyn Model>, BoxError> {
    use crate::{
        config::{Device, Dtype},
        model::torch::{CacheChoice, DeviceChoice, DtypeChoice, TorchConfig, load},
    };
    let torch = TorchConfig {
        folder: config.folder.clone(),
        dtype: match config.dtype {
            Dtype::Auto => DtypeChoice::Auto,
            Dtype::F32 => DtypeChoice::F32,
            Dtype::BF16 => DtypeChoice::BF16,
            Dtype::F16 => DtypeChoice::F16,
        },
        cache: match cache {
            CacheDtype::Auto => CacheChoice::AsWeights,
            CacheDtype::Int8 => CacheChoice::Int8,
        },
        weights: config.weights,
        device: match config.device {
            Device::Auto => DeviceChoice::Auto,
            Device::Cpu => DeviceChoice::Cpu,
            Device::Cuda(index) => DeviceChoice::Cuda(index),
        },
        threads: config.threads,
    };
    Ok(load(&torch)?)
}

#[cfg(not(feature = "torch"))]
fn load(_config: &ModelConfig, _cache: CacheDtype) -> Result<Box<dyn Model>, BoxError> {
    Err(StartError::NoBackend.into())
}
