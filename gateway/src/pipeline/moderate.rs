//! Moderation: what the safety filter finds in texts, and nothing else.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tracing::{Instrument as _, info_span};
use weft_runtime::telemetry::fields;

use super::{Pipeline, record::Record, timed};
use crate::{error::Error, outbound::safety::Screened, request::Scope};

/// Texts of one request that the filter reads at the same time.
const AT_ONCE: usize = 4;

/// What a policy says of texts.
#[derive(Debug)]
pub(crate) struct Moderated {
    /// The policy that was asked.
    pub(crate) policy: String,
    /// What it looks for.
    pub(crate) categories: Vec<String>,
    /// Of each text, in order.
    pub(crate) screened: Vec<Screened>,
}

impl Pipeline {
    /// Screens texts as prompts, each by itself, under the policy of this name (or the gateway's default).
    pub(crate) async fn moderate(
        &self,
        scope: &Scope,
        policy: Option<&str>,
        texts: Vec<String>,
    ) -> Result<Moderated, Error> {
        let asked = self.policy(policy);
        let policies = self.outbound.safety.policies(scope.deadline).await?;
        // The empty name is the filter's default, which it lists first.
        let Some(policy) = policies.iter().find(|known| asked.is_empty() || known.name == asked) else {
            let known: Vec<_> = policies.into_iter().map(|policy| policy.name).collect();
            return Err(Error::UnknownPolicy { policy: asked, known: known.join(", ") });
        };
        let record = Record::begin(&self.metrics, scope, "moderation", "");
        let _lease = match self.doors.quotas.begin(scope.tenant(), &policy.name) {
            Ok(lease) => lease,
            Err(refusal) => return Err(record.fail(refusal)),
        };
        let screen = self.screen_all(scope, &policy.name, texts);
        let screen = screen.instrument(info_span!(target: fields::SPANS, "screen_prompt"));
        match timed(self.metrics.stage("screen_prompt"), screen).await {
            Ok(screened) => {
                record.done();
                let (policy, categories) = (policy.name.clone(), policy.categories.clone());
                Ok(Moderated { policy, categories, screened })
            }
            Err(error) => Err(record.fail(error)),
        }
    }

    async fn screen_all(
        &self,
        scope: &Scope,
        policy: &str,
        texts: Vec<String>,
    ) -> Result<Vec<Screened>, Error> {
        let one = |(index, text): (usize, String)| async move {
            let field = format!("inputs[{index}]");
            self.outbound.safety.screen_prompt(text, policy, &field, scope.deadline).await
        };
        let all: Vec<_> = texts.into_iter().enumerate().map(one).collect();
        Ok(stream::iter(all).buffered(AT_ONCE).try_collect().await?)
    }
}
