//! The conversation with the API server: list, watch what changes, and again from the beginning when that ends.
//!
//! Ours and not kube's `watcher`, because that one does not tell that a watch stands again after a failure, so nobody
//! could tell what is stale. Listing again is cheap: the slices of one Service, a hundred endpoints each.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, Error, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use weft_runtime::{client::Target, status};

use super::{endpoints, service::Service, told::Told};

/// How long one watch goes on. A connection that died without a word is found when it is over.
const WATCH_SECONDS: u32 = 60;
/// What the API server may take beyond that, and for anything else.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two lists, doubled while they fail.
const PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(15);

const FORBIDDEN: u16 = 403;
const GONE: u16 = 410;

type Events = BoxStream<'static, Result<WatchEvent<EndpointSlice>, Error>>;

/// Watches one Service.
pub(super) struct Watch {
    api: Api<EndpointSlice>,
    service: Service,
    told: Told,
    state: State,
    /// By name.
    slices: BTreeMap<String, EndpointSlice>,
    /// What was said last, if anything was.
    said: Option<Vec<SocketAddr>>,
    /// Whether a watch ever stood.
    stood: bool,
    pause: Duration,
}

enum State {
    /// To be listed, not before this.
    Away { next: Instant },
    /// Listed as they were at this version.
    Listed { version: String },
    /// What changes is told until this.
    Watching { events: Events, until: Instant },
}

/// Why the replicas are not known, or not any more.
enum Failure {
    Refused(Error),
    Silent,
}

impl Watch {
    pub(super) fn new(client: Client, service: Service, told: Told) -> Self {
        Self {
            api: Api::namespaced(client, &service.namespace),
            service,
            told,
            state: State::Away { next: Instant::now() },
            slices: BTreeMap::new(),
            said: None,
            stood: false,
            pause: PAUSE,
        }
    }

    /// Each item is all replicas that may be given calls.
    pub(super) fn follow(self) -> BoxStream<'static, Vec<Target>> {
        stream::unfold(self, |mut this| async move {
            let now = this.change().await;
            Some((now, this))
        })
        .boxed()
    }

    async fn change(&mut self) -> Vec<Target> {
        loop {
            match self.step().await {
                Ok(true) => {
                    let found = self.addresses();
                    if self.said.as_ref() != Some(&found) {
                        self.said = Some(found.clone());
                        return self.targets(found);
                    }
                }
                Ok(false) => {}
                Err(failure) => self.failed(failure),
            }
        }
    }

    /// Goes on by one answer. Whether the slices may be others than before.
    async fn step(&mut self) -> Result<bool, Failure> {
        match &mut self.state {
            State::Away { next } => {
                sleep_until(*next).await;
                self.list().await?;
                Ok(true)
            }
            State::Listed { version } => {
                let version = std::mem::take(version);
                self.watch(&version).await?;
                Ok(false)
            }
            State::Watching { events, until } => match timeout_at(*until, events.next()).await {
                Ok(Some(event)) => self.learn(event.map_err(Failure::Refused)?),
                Ok(None) => Ok(self.begin_again(PAUSE)),
                Err(_) => Err(Failure::Silent),
            },
        }
    }

    async fn list(&mut self) -> Result<(), Failure> {
        let all = ListParams::default().labels(&self.selector());
        let listed = within(self.api.list(&all)).await?;
        self.slices = listed.items.into_iter().map(|slice| (slice.name_any(), slice)).collect();
        self.state = State::Listed { version: listed.metadata.resource_version.unwrap_or_default() };
        Ok(())
    }

    async fn watch(&mut self, version: &str) -> Result<(), Failure> {
        let all = WatchParams::default().labels(&self.selector()).timeout(WATCH_SECONDS);
        let events = within(self.api.watch(&all, version)).await?.boxed();
        let until = Instant::now() + Duration::from_secs(WATCH_SECONDS.into()) + PATIENCE;
        self.state = State::Watching { events, until };
        (self.stood, self.pause) = (true, PAUSE);
        self.told.fresh(&self.service);
        Ok(())
    }

    fn learn(&mut self, event: WatchEvent<EndpointSlice>) -> Result<bool, Failure> {
        match event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                self.slices.insert(slice.name_any(), slice);
                Ok(true)
            }
            WatchEvent::Deleted(slice) => {
                self.slices.remove(&slice.name_any());
                Ok(true)
            }
            WatchEvent::Bookmark(_) => Ok(false),
            // What happened since the version that was listed is not remembered any more.
            WatchEvent::Error(status) if status.code == GONE => Ok(self.begin_again(PAUSE)),
            WatchEvent::Error(status) => Err(Failure::Refused(Error::Api(status))),
        }
    }

    /// Lists again, after a pause. Nothing is another than before yet.
    fn begin_again(&mut self, pause: Duration) -> bool {
        self.state = State::Away { next: Instant::now() + pause };
        false
    }

    fn failed(&mut self, failure: Failure) {
        self.told.stale(&self.service, &failure.explain(&self.service), self.stood);
        self.begin_again(self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let (slices, port) = (&self.slices, &self.service.port);
        if !slices.is_empty() && !endpoints::have(slices.values(), port) {
            self.told.no_port(&self.service, &endpoints::ports(slices.values()));
        }
        endpoints::addresses(slices.values(), port)
    }

    fn targets(&self, addresses: Vec<SocketAddr>) -> Vec<Target> {
        let origin = |address: SocketAddr| self.service.origin(address.port()).ok();
        let target = |address| Some(Target::Resolved { origin: origin(address)?, address });
        addresses.into_iter().filter_map(target).collect()
    }

    fn selector(&self) -> String {
        format!("kubernetes.io/service-name={}", self.service.name)
    }
}

async fn within<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    timeout(PATIENCE, asking).await.map_err(|_| Failure::Silent)?.map_err(Failure::Refused)
}

impl Failure {
    fn explain(self, service: &Service) -> String {
        match self {
            Self::Silent => "the API server does not answer".to_owned(),
            // It names the account, verb, resource and namespace.
            Self::Refused(Error::Api(status)) if status.code == FORBIDDEN => format!(
                "{}; the gateway's account needs a role that may list and watch endpointslices in namespace {}",
                status.message, service.namespace
            ),
            Self::Refused(Error::Api(status)) => {
                format!("the API server answers {} {}: {}", status.code, status.reason, status.message)
            }
            Self::Refused(error) => format!("cannot ask the API server: {}", status::chain(&error)),
        }
    }
}
