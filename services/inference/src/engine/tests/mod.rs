//! The engine stepped by hand: no thread, no timer, a real paged cache of token ids.

mod claims;
mod constrained;
mod failures;
mod prefix;
mod resumption;
mod sameness;
mod scores;
mod speculation;
mod threads;
mod traces;

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt as _, StreamExt as _};
use weft_runtime::{Context, Process, RuntimeConfig};

use super::{handle::Door, inbox::Inbox, *};
use crate::{
    config::{ByteSize, CacheDtype, KvCacheConfig},
    metrics::EngineMetrics,
    model::scripted::{Controls, Scripted},
    request::Generate,
    sampler::SamplingParams,
    scheduler::{Pacing, Prices, StepLimits},
    speculation::Speculation,
    stop::{Ending, StopRules},
};

const VOCABULARY: usize = 97;
const BLOCK_SIZE: usize = 4;
const BYTES_PER_TOKEN: u64 = 1024;
/// The model's end token.
const END: u32 = 96;

/// What a test may vary.
struct Setup {
    model: Scripted,
    blocks: u64,
    limits: StepLimits,
    pacing: Pacing,
    capacity: usize,
    prefix_caching: bool,
    speculation: Speculation,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            model: Scripted::unsure(VOCABULARY),
            blocks: 64,
            limits: StepLimits { max_sequences: 8, max_batched_tokens: 16 },
            // Tests that do not hold the clock must not depend on how fast this machine is.
            pacing: Pacing { step_stretch: None, refuse_hopeless: false },
            capacity: 64,
            prefix_caching: true,
            speculation: Speculation::default(),
        }
    }
}

/// Places of which a tenant with a name may have half.
fn places(capacity: usize) -> Arc<Places> {
    Places::new(capacity, capacity / 2)
}

/// An engine under a test's thumb.
struct Bench {
    engine: Engine<Scripted>,
    handle: EngineHandle,
    controls: Controls,
    context: Context,
}

fn plan(setup: &Setup, context: &Context) -> Plan {
    Plan {
        model_id: "scripted".to_owned(),
        kv_cache: KvCacheConfig {
            block_size: BLOCK_SIZE,
            dtype: CacheDtype::Auto,
            memory: ByteSize(setup.blocks * BLOCK_SIZE as u64 * BYTES_PER_TOKEN),
            prefix_caching: setup.prefix_caching,
        },
        limits: setup.limits,
        prices: Prices::default(),
        pacing: setup.pacing,
        speculation: setup.speculation,
        threads: 3,
        metrics: EngineMetrics::new(&context.metrics),
        condition: context.health.condition("model", "loading"),
        failure: context.failure.clone(),
    }
}

impl Bench {
    fn new(setup: Setup) -> Self {
        let context = Process::new("inference", RuntimeConfig::default()).context().clone();
        let plan = plan(&setup, &context);
        let controls = setup.model.controls();
        let (sender, inbox) = Inbox::new();
        let metrics = plan.metrics.clone();
        let (engine, loaded) = Engine::prepare(plan, inbox, Box::new(setup.model)).unwrap();
        let door = Door {
            inbox: sender,
            sent: Default::default(),
            arrivals: Default::default(),
            places: places(setup.capacity),
            sharing: loaded.sharing,
            status: loaded.status,
            metrics,
            drain: context.drain.clone(),
        };
        Self { engine, handle: EngineHandle::new(door), controls, context }
    }

    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| assert_eq!(self.engine.step(), Turn::Worked));
    }

    fn run(&mut self) {
        let mut steps = 0;
        while self.engine.step() == Turn::Worked {
            steps += 1;
            assert!(steps < 100_000, "it never ends");
        }
    }

    fn start(&self, request: Generate) -> Generation {
        self.handle.generate(request, None).unwrap()
    }

    fn free(&self) -> usize {
        self.handle.status().blocks_free
    }

    fn total(&self) -> usize {
        self.handle.status().blocks_total
    }

    fn count_of(&self, outcome: Outcome) -> u64 {
        self.engine.reporter.metrics.count_of(outcome)
    }
}

/// A greedy generation of exactly `tokens` tokens.
fn request(prompt: &[u32], tokens: usize) -> Generate {
    let params = SamplingParams { seed: 5, ..SamplingParams::greedy() };
    Generate { params, ..Generate::greedy(prompt.to_vec(), tokens) }
}

/// The same, sampled.
fn sampled(prompt: &[u32], tokens: usize, seed: u64) -> Generate {
    let params =
        SamplingParams { temperature: 0.9, top_p: 0.95, top_k: 40, seed, ..SamplingParams::greedy() };
    Generate { params, ..request(prompt, tokens) }
}

/// Everything that has been handed out so far.
fn heard(generation: &mut Generation) -> Vec<Result<Event, EngineError>> {
    std::iter::from_fn(|| generation.next().now_or_never().flatten()).collect()
}

/// The tokens among the events.
fn tokens(events: &[Result<Event, EngineError>]) -> Vec<u32> {
    let token = |event: &Result<Event, EngineError>| match event {
        Ok(Event::Token { choice, .. }) => Some(choice.token),
        _ => None,
    };
    events.iter().filter_map(token).collect()
}

/// The tokens of a request that has the engine to itself.
fn alone(request: Generate) -> Vec<u32> {
    let mut bench = Bench::new(Setup::default());
    let mut generation = bench.start(request);
    bench.run();
    tokens(&heard(&mut generation))
}
