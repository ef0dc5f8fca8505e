//! How busy the engine is, for whoever asks.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::work::Work;
use crate::{
    metrics::EngineMetrics,
    model::Model,
    scheduler::{PrefixCounts, Scheduler},
};

/// How busy the engine is, as of the end of its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that run.
    pub running: usize,
    /// Blocks of the cache.
    pub blocks_total: usize,
    /// Blocks that nobody holds.
    pub blocks_free: usize,
    /// Steps since start.
    pub steps: u64,
    /// Tokens generated since start.
    pub generated: u64,
    /// Tokens prefilled since start, those computed again included.
    pub prefilled: u64,
    /// Preemptions since start.
    pub preemptions: u64,
    /// How the prefix cache does, since start.
    pub prefix: PrefixCounts,
    /// How often a place becomes free, by the pace of the last requests.
    pub place_frees_every: Duration,
    /// Commands taken since start.
    pub(super) taken: u64,
}

/// Counts, and tells. The engine's own.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) metrics: EngineMetrics,
    sender: watch::Sender<EngineStatus>,
    status: EngineStatus,
    last_end: Option<Instant>,
    /// As counted so far.
    evictions: u64,
    /// When the device was last asked for its memory.
    memory_told: Option<Instant>,
}

/// How often the device is asked for its memory: that takes the driver longer than a gauge is worth at every step.
const MEMORY_EVERY: Duration = Duration::from_secs(1);
/// Weight of the newest interval in the running mean of intervals between ends of requests.
const NEWEST: f64 = 0.2;
/// What is said before two requests have ended.
const FIRST_GUESS: Duration = Duration::from_secs(1);

impl Reporter {
    pub(super) fn new(
        metrics: EngineMetrics,
        blocks_total: usize,
        block_size: usize,
    ) -> (Self, watch::Receiver<EngineStatus>) {
        metrics.cache_is(blocks_total, block_size);
        let status = EngineStatus {
            blocks_total,
            blocks_free: blocks_total,
            place_frees_every: FIRST_GUESS,
            ..EngineStatus::default()
        };
        let (sender, receiver) = watch::channel(status);
        (Self { metrics, sender, status, last_end: None, evictions: 0, memory_told: None }, receiver)
    }

    /// Counts a step.
    pub(super) fn stepped(&mut self, rows: usize, generated: u64, prefilled: u64) {
        self.status.steps += 1;
        self.status.generated += generated;
        self.status.prefilled += prefilled;
        self.metrics.step_rows.observe(rows as f64);
        self.metrics.generated.inc_by(generated);
        self.metrics.prefilled.inc_by(prefilled);
    }

    /// Notes that a request has left and its place is free.
    pub(super) fn place_freed(&mut self, now: Instant) {
        if let Some(last) = self.last_end.replace(now) {
            let interval = (now - last).as_secs_f64();
            let mean = self.status.place_frees_every.as_secs_f64();
            self.status.place_frees_every = Duration::from_secs_f64(mean + NEWEST * (interval - mean));
        }
    }

    /// Tells how much of the device's memory is in use, from time to time.
    pub(super) fn tell_memory<M: Model + ?Sized>(&mut self, model: &M) {
        let now = Instant::now();
        if self.memory_told.is_some_and(|told| now - told < MEMORY_EVERY) {
            return;
        }
        self.memory_told = Some(now);
        if let Some(memory) = model.device_memory() {
            self.metrics.device_memory_is(&model.info().device, memory);
        }
    }

    /// Tells everybody how things stand.
    pub(super) fn publish(&mut self, scheduler: &Scheduler<Work>, taken: u64) {
        let pool = scheduler.pool();
        let status = &mut self.status;
        self.metrics.preemptions.inc_by(scheduler.preemptions() - status.preemptions);
        self.metrics.prefix.counted(status.prefix, scheduler.prefix_counts());
        self.metrics.prefix.idle_blocks.set(pool.idle() as i64);
        self.metrics.prefix.evictions.inc_by(pool.evictions() - self.evictions);
        self.evictions = pool.evictions();
        status.prefix = scheduler.prefix_counts();
        status.waiting = scheduler.waiting();
        status.running = scheduler.running();
        status.blocks_free = pool.free();
        status.preemptions = scheduler.preemptions();
        status.taken = taken;
        self.metrics.waiting.set(status.waiting as i64);
        self.metrics.running.set(status.running as i64);
        self.metrics.tenants.set(scheduler.tenants() as i64);
        let used = pool.total() - pool.free();
        self.metrics.blocks_used.set(used as i64);
        self.metrics.cache_use.set(used as f64 / pool.total() as f64);
        self.sender.send_replace(*status);
    }
}
