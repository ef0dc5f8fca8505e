//! Whether the services behind the gateway are there, asked again and again: one task and one condition for each, and
//! one condition for whether tokenizer and inference fit together. All recover by themselves.
//!
//! A look is a health check and the service's own account of what it has loaded, which [`Models`] keeps. It happens
//! outside of every trace: nobody's request waits for it.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};
use weft_runtime::{Context, Deadline, drain::Phase, health::Condition};

use crate::{
    config::{Config, Readiness},
    error::{Failure, Peer},
    models::Models,
    outbound::{self, Outbound, endpoint::Endpoint},
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
            outbound: outbound.clone(),
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

/// Looks at one service.
struct Watcher {
    peer: Peer,
    config: Readiness,
    /// The policy that the safety filter must have.
    policy: Option<String>,
    outbound: Outbound,
    models: Models,
    condition: Condition,
    fit: Arc<Condition>,
}

impl Watcher {
    async fn run(self) {
        loop {
            let look = self.look(Deadline::after(self.config.timeout));
            let pause = self.tell(look.with_subscriber(NoSubscriber::default()).await);
            sleep(pause).await;
        }
    }

    /// Says what was seen; returns when to look again.
    fn tell(&self, seen: Result<(), String>) -> Duration {
        match self.models.fit() {
            Some(Ok(())) => self.fit.holds(),
            Some(Err(misfit)) => self.fit.fails(misfit.to_string()),
            None => {}
        }
        match seen {
            Ok(()) => {
                self.condition.holds();
                self.config.interval
            }
            Err(why) => {
                self.condition.fails(why);
                self.config.retry_interval
            }
        }
    }

    async fn look(&self, deadline: Deadline) -> Result<(), String> {
        let endpoint = match self.peer {
            Peer::Tokenizer => self.outbound.tokenizer.endpoint(),
            Peer::Inference => self.outbound.inference.endpoint(),
            Peer::Safety => self.outbound.safety.endpoint(),
        };
        self.is_serving(endpoint, deadline).await?;
        let said = |failure: Failure| failure.to_string();
        match self.peer {
            Peer::Tokenizer => self.models.ask_tokenizer(Some(deadline)).await.map(drop).map_err(said),
            Peer::Inference => self.models.ask_inference(Some(deadline)).await.map(drop).map_err(said),
            Peer::Safety => {
                self.has_policy(&self.outbound.safety.policies(Some(deadline)).await.map_err(said)?)
            }
        }
    }

    /// The standard health check, of the process as a whole.
    async fn is_serving(&self, endpoint: Endpoint, deadline: Deadline) -> Result<(), String> {
        let request = outbound::request(HealthCheckRequest { service: String::new() }, Some(deadline));
        match HealthClient::new(endpoint).check(request).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
            Ok(answer) => Err(format!("says {}", answer.get_ref().status().as_str_name())),
            Err(status) => Err(Failure { peer: self.peer, status }.to_string()),
        }
    }

    fn has_policy(&self, policies: &[String]) -> Result<(), String> {
        match &self.policy {
            Some(policy) if !policies.contains(policy) => Err(format!(
                "safety_filter.default_policy = {policy:?} is not one of its policies: {}",
                policies.join(", ")
            )),
            Some(_) | None => Ok(()),
        }
    }
}
