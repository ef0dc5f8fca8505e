//! Who calls `step`: one OS thread that owns the model; in tests with a paused clock, a task.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{runtime::Handle, sync::oneshot};
use weft_runtime::{
    BoxError, Context,
    drain::{Drain, Phase},
};

use super::{
    Engine, EngineHandle, Pace, Turn,
    handle::Door,
    inbox::{self, Inbox},
    load::{Loaded, Plan, timed},
    places::Places,
};
use crate::{
    error::{EngineError, StartError},
    metrics::EngineMetrics,
    model::{AdapterLoader, Model, ModelInfo},
};

/// An engine that is ready.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) handle: EngineHandle,
    pub(crate) info: ModelInfo,
    pub(crate) adapter_loader: Option<Arc<dyn AdapterLoader>>,
}

/// What the door is built from, beside what the engine says of itself.
struct DoorPlan {
    inbox: inbox::Sender,
    places: Arc<Places>,
    metrics: EngineMetrics,
    drain: Drain,
}

/// Starts the thread, lets it make the model and warm it up, and waits until it has.
///
/// # Errors
/// The thread, the model, the cache or the first steps.
pub(crate) async fn start_thread<F>(
    plan: Plan,
    places: Arc<Places>,
    context: &Context,
    factory: F,
) -> Result<Started, StartError>
where
    F: FnOnce() -> Result<Box<dyn Model>, BoxError> + Send + 'static,
{
    let (sender, inbox) = Inbox::new();
    let door = DoorPlan::new(sender, places, &plan, context);
    let (ready, is_ready) = oneshot::channel();
    let (ended, has_ended) = oneshot::channel();
    let runtime = Handle::current();
    // Spans and logs of the engine go where the process's go, also where a test has its own subscriber.
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    let life = move || {
        let _runtime = runtime.enter();
        tracing::dispatcher::with_default(&dispatch, || live(plan, inbox, factory, ready));
        // Only now is all dropped that the thread owned.
        let _ = ended.send(());
    };
    std::thread::Builder::new().name("engine".to_owned()).spawn(life).map_err(StartError::Thread)?;
    let loaded = is_ready.await.unwrap_or(Err(StartError::Panicked))?;
    let started = door.open(loaded);
    let handle = started.handle.clone();
    let drain = context.drain.clone();
    context.tasks.spawn("engine", async move {
        drain.reached(Phase::Stopping).await;
        handle.stop();
        // An error says that the thread has panicked: it has ended all the same.
        let _ = has_ended.await;
    });
    Ok(started)
}

/// The thread's whole life.
fn live<F>(plan: Plan, inbox: Inbox, factory: F, ready: oneshot::Sender<Result<Loaded, StartError>>)
where
    F: FnOnce() -> Result<Box<dyn Model>, BoxError>,
{
    let mut engine = match timed(factory).and_then(|model| Engine::prepare(plan, inbox, model)) {
        Ok((engine, loaded)) => {
            let _ = ready.send(Ok(loaded));
            engine
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let runtime = Handle::current();
    loop {
        match engine.guarded_step() {
            Turn::Worked => {}
            Turn::Idle if runtime.block_on(engine.wait()) => {}
            Turn::Idle | Turn::Stopped => return,
        }
    }
}

/// Starts an engine that a task steps, at this pace: with a paused clock a thread would be outside time.
///
/// # Errors
/// The cache or the first steps.
pub(crate) async fn start_stepped(
    plan: Plan,
    places: Arc<Places>,
    context: &Context,
    model: Box<dyn Model + Send>,
    pace: Pace,
) -> Result<Started, StartError> {
    let (sender, inbox) = Inbox::new();
    let door = DoorPlan::new(sender, places, &plan, context);
    let (mut engine, loaded) = Engine::prepare(plan, inbox, model)?;
    context.tasks.spawn("engine", async move {
        loop {
            pace.turn().await;
            match engine.guarded_step() {
                Turn::Worked => {}
                Turn::Idle if engine.wait().await => {}
                Turn::Idle | Turn::Stopped => return,
            }
        }
    });
    let started = door.open(loaded);
    let (handle, drain) = (started.handle.clone(), context.drain.clone());
    context.tasks.spawn("engine_stop", async move {
        drain.reached(Phase::Stopping).await;
        handle.stop();
    });
    Ok(started)
}

impl DoorPlan {
    fn new(inbox: inbox::Sender, places: Arc<Places>, plan: &Plan, context: &Context) -> Self {
        Self { inbox, places, metrics: plan.metrics.clone(), drain: context.drain.clone() }
    }

    fn open(self, loaded: Loaded) -> Started {
        let door = Door {
            inbox: self.inbox,
            sent: AtomicU64::new(0),
            arrivals: AtomicU64::new(0),
            places: self.places,
            sharing: loaded.sharing,
            status: loaded.status,
            metrics: self.metrics,
            drain: self.drain,
        };
        Started { handle: EngineHandle::new(door), info: loaded.info, adapter_loader: loaded.adapter_loader }
    }
}

impl<M: Model + ?Sized> Engine<M> {
    /// A step whose panic ends the engine, with an answer for everybody.
    pub(super) fn guarded_step(&mut self) -> Turn {
        match catch_unwind(AssertUnwindSafe(|| self.step())) {
            Ok(turn) => turn,
            Err(panic) => {
                let reason = format!("the engine panicked: {}", words(panic.as_ref()));
                self.condition.fails(reason.clone());
                self.failure.report(reason);
                self.dismiss_all(&EngineError::Panicked, &EngineError::Gone);
                Turn::Stopped
            }
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}
