//! Whether the services behind the gateway are there, asked again and again: one task and one condition for each service,
//! and one condition for whether tokenizer and inference fit together. All recover by themselves.
//!
//! Every replica is looked at: a health check and its own account of what it has loaded. What is found decides whether
//! it is given calls. A new one is given none before its first look, which also opens its connection. Looks happen
//! outside of every trace: nobody's request waits for them.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::time::sleep;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};
use weft_runtime::{
    Context, Deadline,
    client::{Fitness, Pool, Replica},
    drain::Phase,
    health::Condition,
};

use crate::{
    config::{Config, Readiness},
    error::{Failure, Peer},
    models::{Models, Verdict},
    outbound::{
        self, Outbound,
        endpoint::Endpoint,
        inference::Inference,
        safety::{Policy, Safety},
        tokenizer::Tokenizer,
    },
};

/// Starts looking. No condition holds until its service has been seen to be well.
pub(crate) fn watch(config: &Config, context: &Context, outbound: &Outbound, models: &Models) {
    let fit = context.health.condition("vocabulary", "tokenizer and inference have not been compared yet");
    let fit = Arc::new(fit);
    for peer in [Peer::Tokenizer, Peer::Inference, Peer::Safety] {
        let watcher = Watcher {
            peer,
            config: config.readiness.clone(),
            policy: config.safety_filter.default_policy.clone(),
            pool: outbound.pool(peer).clone(),
            models: models.clone(),
            condition: context.health.condition(peer.name(), "has not answered yet"),
            fit: Arc::clone(&fit),
        };
        let drain = context.drain.clone();
        context.tasks.spawn("readiness", async move {
            tokio::select! {
                () = watcher.run() => {}
                () = drain.reached(Phase::Draining) => {}
            }
        });
    }
}

/// Looks at the replicas of one service.
struct Watcher {
    peer: Peer,
    config: Readiness,
    /// The policy that the safety filter must have.
    policy: Option<String>,
    pool: Pool,
    models: Models,
    condition: Condition,
    fit: Arc<Condition>,
}

/// Why a replica is not fit.
struct Unfit {
    fitness: Fitness,
    why: String,
}

impl Watcher {
    async fn run(self) {
        loop {
            let replicas = self.pool.replicas();
            let seen = join_all(replicas.iter().map(|replica| self.look(replica))).await;
            let pause = self.tell(&replicas, seen);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.pool.changed() => {}
            }
        }
    }

    /// Says what was seen; returns when to look again.
    fn tell(&self, replicas: &[Replica], seen: Vec<Result<(), String>>) -> Duration {
        match self.models.fit() {
            Some(Ok(())) => self.fit.holds(),
            Some(Err(misfit)) => self.fit.fails(misfit.to_string()),
            None => {}
        }
        let count = replicas.len();
        let needed = ((count as f64 * self.config.min_fit_share).ceil() as usize).max(1);
        let named = replicas.iter().map(|replica| (count > 1).then(|| replica.name()));
        let reasons: Vec<String> = named.zip(seen).filter_map(|(name, seen)| reason(name, seen)).collect();
        if count - reasons.len() >= needed {
            self.condition.holds();
        } else if count == 0 {
            self.condition.fails("no replica is known");
        } else {
            self.condition.fails(reasons.join("; "));
        }
        if reasons.is_empty() && count > 0 { self.config.interval } else { self.config.retry_interval }
    }

    /// Looks at a replica, and says at once whether it may be used: others may take longer.
    async fn look(&self, replica: &Replica) -> Result<(), String> {
        let asking = self.ask(replica, Deadline::after(self.config.timeout));
        let found = asking.with_subscriber(NoSubscriber::default()).await;
        let (fitness, found) = match found {
            Ok(()) => (Fitness::Fit, Ok(())),
            Err(Unfit { fitness, why }) => (fitness, Err(why)),
        };
        self.note(replica, fitness, found.as_ref().err());
        found
    }

    async fn ask(&self, replica: &Replica, deadline: Deadline) -> Result<(), Unfit> {
        self.is_serving(replica, deadline).await.map_err(Unfit::ill)?;
        self.account(replica, deadline).await
    }

    /// A replica's own account of what it has loaded.
    async fn account(&self, replica: &Replica, deadline: Deadline) -> Result<(), Unfit> {
        let ill = |failure: Failure| Unfit::ill(failure.to_string());
        let deadline = Some(deadline);
        let verdict = match self.peer {
            Peer::Tokenizer => {
                let vocabulary = Tokenizer::vocabulary_of(replica, deadline).await.map_err(ill)?;
                self.models.judge_tokenizer(vocabulary, self.has_other(replica))
            }
            Peer::Inference => {
                let model = Inference::model_of(replica, deadline).await.map_err(ill)?;
                self.models.judge_inference(model, self.has_other(replica))
            }
            Peer::Safety => {
                let policies = Safety::policies_of(replica, deadline).await.map_err(ill)?;
                return self.has_policy(&policies).map_err(Unfit::ill);
            }
        };
        match verdict {
            Verdict::Fits => Ok(()),
            Verdict::Differs(why) => Err(Unfit { fitness: Fitness::Foreign, why }),
        }
    }

    /// Whether another replica is fit: then what they have in common is not this one's to change.
    fn has_other(&self, replica: &Replica) -> bool {
        let mut others = self.pool.replicas().into_iter().filter(|other| other.id() != replica.id());
        others.any(|other| other.fitness() == Fitness::Fit)
    }

    fn note(&self, replica: &Replica, fitness: Fitness, why: Option<&String>) {
        if self.pool.set_fitness(replica, fitness) == fitness {
            return;
        }
        let (peer, replica) = (self.peer.name(), replica.name());
        match why {
            Some(why) => tracing::warn!(peer, replica, ?fitness, why, "a replica is not used"),
            None => tracing::info!(peer, replica, "a replica is used"),
        }
    }

    /// The standard health check, of the process as a whole.
    async fn is_serving(&self, replica: &Replica, deadline: Deadline) -> Result<(), String> {
        let request = outbound::request(HealthCheckRequest { service: String::new() }, Some(deadline));
        match HealthClient::new(Endpoint::direct(replica)).check(request).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
            Ok(answer) => Err(format!("says {}", answer.get_ref().status().as_str_name())),
            Err(status) => Err(Failure { peer: self.peer, status }.to_string()),
        }
    }

    fn has_policy(&self, policies: &[Policy]) -> Result<(), String> {
        match &self.policy {
            Some(policy) if !policies.iter().any(|known| known.name == *policy) => Err(format!(
                "safety_filter.default_policy = {policy:?} is not one of its policies: {}",
                policies.iter().map(|known| known.name.as_str()).collect::<Vec<_>>().join(", ")
            )),
            Some(_) | None => Ok(()),
        }
    }
}

impl Unfit {
    fn ill(why: String) -> Self {
        Self { fitness: Fitness::Ill, why }
    }
}

/// Why a replica is not fit, with its name where there are several.
fn reason(name: Option<&str>, seen: Result<(), String>) -> Option<String> {
    let why = seen.err()?;
    Some(name.map_or_else(|| why.clone(), |name| format!("{name}: {why}")))
}
