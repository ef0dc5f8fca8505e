//! From a model to an engine that is ready: cache, warm-up.

use std::{ops::Range, sync::Arc};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use weft_runtime::{BoxError, Failure, health::Condition};

use super::{
    Engine,
    choices::Choices,
    forward,
    inbox::Inbox,
    sharing::Sharing,
    status::{EngineStatus, Reporter},
};
use crate::{
    config::KvCacheConfig,
    error::StartError,
    kv_cache::BlockPool,
    metrics::EngineMetrics,
    model::{AdapterLoader, Batch, BlockId, Model, ModelError, ModelInfo, SequenceRows, Wanted},
    scheduler::{Pacing, Prices, Scheduler, StepLimits},
    speculation::Speculation,
};

/// Tokens of the prompt that warms the model up.
const WARM_UP_TOKENS: usize = 4;
/// How long an unready engine that has nothing to do waits before it tries a step of its own.
const PROBE_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// What an engine is built from, beside the model.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The name under which the model is served.
    pub(crate) model_id: String,
    /// The cache.
    pub(crate) kv_cache: KvCacheConfig,
    /// The steps.
    pub(crate) limits: StepLimits,
    /// What tenants are charged.
    pub(crate) prices: Prices,
    /// How steps are bounded by time.
    pub(crate) pacing: Pacing,
    /// What is guessed of answers.
    pub(crate) speculation: Speculation,
    /// Threads that choose tokens; 0 for one per core.
    pub(crate) threads: usize,
    /// Where it counts.
    pub(crate) metrics: EngineMetrics,
    /// Holds once the model is warm, and as long as its steps succeed.
    pub(crate) condition: Condition,
    /// Told when the engine cannot go on.
    pub(crate) failure: Failure,
}

/// What is known once the model is warm.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) info: ModelInfo,
    pub(crate) status: watch::Receiver<EngineStatus>,
    pub(crate) sharing: Sharing,
    pub(crate) adapter_loader: Option<Arc<dyn AdapterLoader>>,
}

impl<M: Model + ?Sized> Engine<M> {
    /// Allocates the cache and runs the first steps.
    pub(super) fn prepare(plan: Plan, inbox: Inbox, mut model: Box<M>) -> Result<(Self, Loaded), StartError> {
        // A guess would change the length that keys are computed for.
        if plan.speculation.max_tokens > 0 && model.info().keys_depend_on_length {
            return Err(StartError::Speculation { max_tokens: plan.speculation.max_tokens });
        }
        let block_size = plan.kv_cache.block_size;
        let blocks = blocks_of(&plan.kv_cache, model.info())?;
        model.allocate_cache(blocks as usize, block_size).map_err(|error| StartError::Cache(error.into()))?;
        let pool = BlockPool::new(blocks, block_size);
        let scheduler = Scheduler::new(plan.limits, pool).charging(plan.prices).paced(plan.pacing);
        let scheduler = scheduler.guessing(plan.speculation);
        let (reporter, status) = Reporter::new(plan.metrics, blocks as usize, block_size);
        let (sharing, adapter_loader) = (Sharing::of(&plan.kv_cache, model.info()), model.adapter_loader());
        let choices = Choices::new(plan.threads).map_err(StartError::Thread)?;
        let loaded = Loaded { info: model.info().clone(), status, sharing, adapter_loader };
        let limits = plan.limits;
        let mut engine = Self {
            scheduler,
            batch: Batch::default(),
            choices,
            reporter,
            inbox,
            condition: plan.condition,
            failure: plan.failure,
            failures: 0,
            last_began: None,
            model_id: plan.model_id,
            model,
        };
        let warmed = engine.warm_up().and_then(|()| engine.record_steps(limits));
        warmed.map_err(|error| StartError::WarmUp(error.to_string()))?;
        engine.condition.holds();
        Ok((engine, loaded))
    }

    /// Waits until there is something to do. Answers `false` once there never will be.
    pub(super) async fn wait(&mut self) -> bool {
        if self.failures < super::FAILURES_UNTIL_UNREADY {
            return self.inbox.arrival().await;
        }
        match timeout(PROBE_EVERY, self.inbox.arrival()).await {
            Ok(open) => open,
            Err(_) => {
                self.probe();
                true
            }
        }
    }

    /// An unready process gets no requests, and so no chance to show that it is well again: it tries by itself.
    fn probe(&mut self) {
        match self.warm_up() {
            Ok(()) => self.note_success(),
            Err(error) => self.note_failure(&error),
        }
    }

    /// A short prompt and one decode, in blocks of its own.
    fn warm_up(&mut self) -> Result<(), ModelError> {
        let pool = self.scheduler.pool();
        let room = self.model.info().context_length.min(pool.free() * pool.block_size());
        let tokens = WARM_UP_TOKENS.min(room.saturating_sub(1)).max(1);
        self.run_alone(tokens + 1, &[(1, 0..tokens), (1, tokens..tokens + 1)])
    }

    /// One step of every size that the model records: ones in which all decode, and ones with prompts.
    fn record_steps(&mut self, limits: StepLimits) -> Result<(), ModelError> {
        let began = Instant::now();
        let sizes = self.model.recorded_rows();
        let decodes = upto(sizes, limits.max_sequences).map(|rows| (rows, 0..1));
        let prompts =
            upto(sizes, limits.max_batched_tokens).filter(|rows| *rows > 1).map(|rows| (rows / 2, 0..2));
        let steps: Vec<_> = decodes.chain(prompts).collect();
        if steps.is_empty() {
            return Ok(());
        }
        self.run_alone(2, &steps)?;
        let (steps, seconds) = (steps.len(), began.elapsed().as_secs_f64());
        tracing::info!(steps, seconds, "steps are recorded");
        Ok(())
    }

    /// Steps of so many sequences at the same positions each, in blocks of their own for `tokens` tokens.
    fn run_alone(&mut self, tokens: usize, steps: &[(usize, Range<usize>)]) -> Result<(), ModelError> {
        let table = self.scheduler.lend_blocks(tokens);
        let mut table = table.ok_or_else(|| ModelError::Step("no block is free".to_owned()))?;
        let blocks = table.lend();
        let outcome = steps.iter().try_for_each(|(sequences, positions)| {
            let output = forward(self.model.as_mut(), &alike(*sequences, positions, &blocks))?;
            self.model.recycle(output);
            Ok(())
        });
        table.restore(blocks);
        self.scheduler.take_back(table);
        outcome
    }
}

/// Of sizes that grow, those up to the first that is enough.
fn upto(sizes: &[usize], enough: usize) -> impl Iterator<Item = usize> {
    let fewer = sizes.partition_point(|size| *size < enough);
    sizes[..sizes.len().min(fewer + 1)].iter().copied()
}

/// A step of sequences that all stand at the same positions of the same blocks: what they write there is the same.
fn alike(sequences: usize, positions: &Range<usize>, blocks: &[BlockId]) -> Batch {
    let each = positions.len();
    let sequence = |index: usize| SequenceRows {
        rows: index * each..(index + 1) * each,
        blocks: blocks.to_vec(),
        context_len: positions.end,
        adapter: None,
        output: Wanted::LastLogits,
    };
    let at = positions.clone().map(|position| position as u32);
    Batch {
        token_ids: vec![0; sequences * each],
        positions: std::iter::repeat_n(at, sequences).flatten().collect(),
        sequences: (0..sequences).map(sequence).collect(),
        ..Batch::default()
    }
}

/// How many blocks the memory holds.
fn blocks_of(config: &KvCacheConfig, info: &ModelInfo) -> Result<u32, StartError> {
    let block_bytes = (config.block_size * info.kv_bytes_per_token).max(1) as u64;
    let blocks = config.memory.0 / block_bytes;
    // The warm-up needs two where a block is a single token.
    if blocks < 2 {
        let (memory, block_size) = (config.memory.0, config.block_size);
        return Err(StartError::CacheTooSmall { memory, block_size, block_bytes });
    }
    Ok(u32::try_from(blocks).unwrap_or(u32::MAX))
}

/// Loads a model, and says how long it took.
pub(super) fn timed<M: ?Sized>(
    factory: impl FnOnce() -> Result<Box<M>, BoxError>,
) -> Result<Box<M>, StartError> {
    let began = Instant::now();
    let model = factory().map_err(StartError::Load)?;
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "model loaded");
    Ok(model)
}
