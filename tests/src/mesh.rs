//! Starts, kills and revives the four services.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::{sync::oneshot, task::JoinHandle};
use weft_inference::engine::EngineHandle;
use weft_runtime::{
    BoxError, Context, Process, RuntimeConfig, Services, Tasks,
    client::{Members, Target},
    config,
    pipe::{self, Connector, Incoming},
};

use crate::{
    Caller,
    brain::{Brain, Hands},
    golden,
};

/// One of the four services, or a second replica of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Text to ids and back.
    Tokenizer,
    /// The engine.
    Inference,
    /// The filter.
    Safety,
    /// The front door.
    Gateway,
    /// A second replica of inference, in a mesh that has one.
    Spare,
}

impl Room {
    /// All four, in the order in which they start.
    pub const ALL: [Self; 4] = [Self::Tokenizer, Self::Inference, Self::Safety, Self::Gateway];

    fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Inference | Self::Spare => "inference",
            Self::Safety => "safety",
            Self::Gateway => "gateway",
        }
    }
}

/// What a test has of one replica of inference.
#[derive(Clone, Debug, Default)]
struct Grip {
    hands: Hands,
    engine: Arc<Mutex<Option<EngineHandle>>>,
}

/// What a mesh is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What inference runs.
    pub brain: Brain,
    /// Sections of inference's configuration beside `[model]`, as TOML.
    pub inference: String,
    /// Sections of the gateway's configuration beside the peers' addresses, as TOML.
    pub gateway: String,
    /// What every process is told: limits, drain.
    pub runtime: RuntimeConfig,
}

/// The mesh. Dropping it kills it.
#[derive(Debug)]
pub struct Mesh {
    plan: Plan,
    /// Of inference, and of its second replica.
    grips: [Grip; 2],
    services: [Service; 5],
    /// Whether inference has a second replica.
    replicated: bool,
    tasks: Tasks,
}

#[derive(Debug)]
struct Service {
    connector: Connector,
    life: Option<Life>,
}

/// One life of a service.
#[derive(Debug)]
struct Life {
    context: Context,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), BoxError>>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Mesh {
    /// All four services, ready.
    pub async fn with(brain: Brain) -> Self {
        Self::start(Plan {
            brain,
            inference: String::new(),
            gateway: String::new(),
            runtime: RuntimeConfig::default(),
        })
        .await
    }

    /// All four services, ready, as planned.
    pub async fn start(plan: Plan) -> Self {
        Self::unstarted(plan).started().await
    }

    /// All four services, inference twice, ready, as planned.
    pub async fn replicated(plan: Plan) -> Self {
        Self { replicated: true, ..Self::unstarted(plan) }.started().await
    }

    async fn started(mut self) -> Self {
        for room in self.rooms() {
            self.revive(room);
        }
        self.ready().await;
        self
    }

    /// No service runs yet.
    pub fn unstarted(plan: Plan) -> Self {
        let service = || Service { connector: pipe::pipe().0, life: None };
        Self {
            plan,
            grips: Default::default(),
            services: [service(), service(), service(), service(), service()],
            replicated: false,
            tasks: Tasks::default(),
        }
    }

    /// Resolves when every service is ready.
    pub async fn ready(&self) {
        for room in self.rooms() {
            self.context(room).health.serving().await;
        }
    }

    /// The services that this mesh has, in the order in which they start.
    fn rooms(&self) -> Vec<Room> {
        let spare = self.replicated.then_some(Room::Spare);
        spare.into_iter().chain(Room::ALL).collect()
    }

    /// Starts a service that does not run, at the address that it always had.
    pub fn revive(&mut self, room: Room) {
        let process = Process::new(room.name(), self.plan.runtime.clone());
        let context = process.context().clone();
        let incoming = self.service(room).connector.listen();
        let start = self.starter(room, context.clone());
        let (stop, stopped) = oneshot::channel();
        let life = live(process, start, incoming, stopped);
        let running = self.tasks.spawn("service", life);
        self.services[room as usize].life = Some(Life { context, stop: Some(stop), running });
    }

    /// Ends a service without a word, as `kill -9` does.
    pub fn kill(&mut self, room: Room) {
        self.services[room as usize].life = None;
        self.service(room).connector.cut();
    }

    /// Asks a service to stop, as SIGTERM does, and waits until it has.
    ///
    /// # Errors
    /// What the process ends with.
    ///
    /// # Panics
    /// The service does not run.
    pub async fn stop(&mut self, room: Room) -> Result<(), BoxError> {
        let mut life = self.services[room as usize].life.take().expect("the service runs");
        drop(life.stop.take());
        (&mut life.running).await?
    }

    /// Asks a service to stop, and does not wait.
    pub fn begin_stop(&mut self, room: Room) {
        if let Some(life) = &mut self.services[room as usize].life {
            drop(life.stop.take());
        }
    }

    /// What a service lives with.
    ///
    /// # Panics
    /// The service does not run.
    pub fn context(&self, room: Room) -> &Context {
        &self.service(room).life.as_ref().expect("the service runs").context
    }

    /// The way to a service.
    pub fn connector(&self, room: Room) -> &Connector {
        &self.service(room).connector
    }

    /// A client of the gateway.
    pub fn caller(&self) -> Caller {
        Caller::new(self.connector(Room::Gateway).clone())
    }

    /// The engine of the inference service that runs now.
    ///
    /// # Panics
    /// It is not ready.
    pub fn engine(&self) -> EngineHandle {
        self.engine_of(Room::Inference)
    }

    /// The engine of a replica of inference that runs now.
    ///
    /// # Panics
    /// It is not ready.
    pub fn engine_of(&self, room: Room) -> EngineHandle {
        let engine = self.grip(room).engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.clone().expect("inference is ready")
    }

    /// A test's hands on the scripted model.
    pub fn hands(&self) -> &Hands {
        self.hands_of(Room::Inference)
    }

    /// A test's hands on the scripted model of a replica.
    pub fn hands_of(&self, room: Room) -> &Hands {
        &self.grip(room).hands
    }

    fn grip(&self, room: Room) -> &Grip {
        &self.grips[usize::from(room == Room::Spare)]
    }

    fn service(&self, room: Room) -> &Service {
        &self.services[room as usize]
    }

    fn starter(&self, room: Room, context: Context) -> BoxFuture<'static, Result<Services, BoxError>> {
        match room {
            Room::Tokenizer => {
                let folder = golden::model_folder("smollm2-135m-instruct-f32");
                let config = parse(&format!("[tokenizer]\nfolder = {folder:?}\n"));
                Box::pin(async { Ok(weft_tokenizer::start(config, context).await?) })
            }
            Room::Inference | Room::Spare => {
                let (plan, Grip { hands, engine }) = (self.plan.clone(), self.grip(room).clone());
                Box::pin(async move {
                    let running = plan.brain.start(&plan.inference, context, hands).await?;
                    *engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(running.engine);
                    Ok(running.services)
                })
            }
            Room::Safety => {
                let policy = golden::repository().join("deploy/config/policy.toml");
                let config = parse(&format!("[policy]\nfile = {policy:?}\n"));
                Box::pin(async { Ok(weft_safety::start(config, context).await?) })
            }
            Room::Gateway => self.gateway(context),
        }
    }

    fn gateway(&self, context: Context) -> BoxFuture<'static, Result<Services, BoxError>> {
        let peers: String = ["tokenizer", "inference", "safety"]
            .map(|peer| format!("[{peer}]\naddress = \"http://{peer}\"\n"))
            .concat();
        let config = parse(&format!("{peers}{}", self.plan.gateway));
        let target = |room| Target::Pipe(self.connector(room).clone());
        let spare = self.replicated.then(|| target(Room::Spare));
        let targets = weft_gateway::Targets {
            tokenizer: target(Room::Tokenizer).into(),
            inference: Members::Fixed([target(Room::Inference)].into_iter().chain(spare).collect()),
            safety: target(Room::Safety).into(),
        };
        Box::pin(weft_gateway::start_with(config, context, targets, None))
    }
}

async fn live(
    process: Process,
    start: BoxFuture<'static, Result<Services, BoxError>>,
    incoming: Incoming,
    stopped: oneshot::Receiver<()>,
) -> Result<(), BoxError> {
    // A dropped sender means the same as a message: stop.
    process.run(start, incoming, async { stopped.await.unwrap_or_default() }).await
}

fn parse<C: config::FromConfig>(text: &str) -> C {
    config::parse(text, &[]).expect("a test's configuration is usable")
}
