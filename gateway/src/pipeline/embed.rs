//! Embeddings: texts → ids → vectors, screened like any prompt.
//!
//! What the policy redacts in prompts is redacted before the model sees it. What it blocks cannot be answered with part
//! of the vectors, so the whole call is refused, naming the inputs.

use futures::{StreamExt as _, TryStreamExt as _, future::try_join, stream};
use tracing::{Instrument as _, info_span};
use weft_runtime::telemetry::fields;

use super::{
    Pipeline, count,
    prompt::{self, Screening, Verdict},
    record::Record,
    timed,
};
use crate::{
    answer::{Findings, Usage},
    error::{Error, Failure},
    inbound::{
        admission::{Extent, Size},
        quota::Lease,
    },
    latency::Phase,
    request::Scope,
};

/// Inputs of one request that the tokenizer works on at the same time: enough to hide the way there and back, few enough
/// that one large request does not crowd out the others.
const AT_ONCE: usize = 8;

/// What is embedded.
#[derive(Clone, Debug)]
pub(crate) enum Inputs {
    Texts(Vec<String>),
    /// Tokens, given to the model as they are and screened as the texts that they are.
    Ids(Vec<Vec<u32>>),
}

impl Inputs {
    /// No answer follows, and all of them are one request.
    fn size(&self) -> Size {
        let prompt = match self {
            Self::Texts(texts) => Extent::Bytes(texts.iter().map(String::len).sum()),
            Self::Ids(lists) => Extent::Tokens(lists.iter().map(Vec::len).sum()),
        };
        Size { prompt, max_tokens: Some(0), answers: 1 }
    }
}

/// The vectors of the inputs, in order, and what they cost.
#[derive(Debug)]
pub(crate) struct Embedded {
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) usage: Usage,
}

impl Pipeline {
    /// Embeds inputs with the model of this name (empty: the only one served), under the gateway's default policy.
    pub(crate) async fn embed(&self, scope: &Scope, model: &str, inputs: Inputs) -> Result<Embedded, Error> {
        let served = self.models.find(model, scope.deadline).await?;
        let record = Record::begin(&self.metrics, scope, "embeddings", &served.model.id);
        match self.vectors(scope, &served.model.id, inputs).await {
            Ok(embedded) => {
                self.metrics.input_tokens(&served.model.id).inc_by(embedded.usage.prompt.into());
                record.done();
                Ok(embedded)
            }
            Err(error) => Err(record.fail(error)),
        }
    }

    async fn vectors(&self, scope: &Scope, model: &str, inputs: Inputs) -> Result<Embedded, Error> {
        let lease = self.enter(scope, model, None)?;
        let vectors = self.vectors_within(scope, inputs, &lease).await;
        vectors.inspect_err(|error| lease.waive_for(error))
    }

    async fn vectors_within(&self, scope: &Scope, inputs: Inputs, lease: &Lease) -> Result<Embedded, Error> {
        let size = inputs.size();
        let permit = self.admit(scope, None, size).await?;
        scope.latency.enter(Phase::Tokenizer);
        let (texts, given) = match inputs {
            Inputs::Texts(texts) => (texts, None),
            Inputs::Ids(lists) => (self.texts(scope, &lists).await?, Some(lists)),
        };
        let policy = self.policy(None);
        let screening = Screening { policy: &policy, field: "inputs", deadline: scope.deadline };
        let screen = async { Ok(prompt::screen(&self.outbound.safety, texts.clone(), screening).await?) };
        let screen = timed(
            self.metrics.stage("screen_prompt"),
            screen.instrument(info_span!(target: fields::SPANS, "screen_prompt")),
        );
        let ids = async {
            let ids = match given {
                Some(lists) => Ok(lists),
                None => self.ids(scope, &texts).await,
            };
            scope.latency.enter(Phase::Screening);
            ids
        };
        let (ids, (verdict, findings)) = try_join(ids, screen).await?;
        self.metrics.count_findings("prompt", &findings);
        let ids = match verdict {
            Verdict::Clear => ids,
            Verdict::Redacted(texts) => {
                scope.latency.enter(Phase::Tokenizer);
                self.ids(scope, &texts).await?
            }
            Verdict::Blocked { texts } => return Err(blocked(&texts, &findings)),
        };
        let tokens = ids.iter().map(|ids| count(ids)).fold(0, u32::saturating_add);
        permit.prompt_has(tokens as usize);
        let reservation = lease.reserve(tokens, 0, 0)?;
        scope.latency.enter(Phase::Prefill);
        let embed =
            self.outbound.inference.embed(ids, scope).instrument(info_span!(target: fields::SPANS, "embed"));
        reservation.charge_prompt()?;
        let embedded = timed(self.metrics.stage("embed"), embed).await;
        let vectors = embedded.inspect_err(|error| reservation.waive_for(error))?;
        scope.latency.enter(Phase::Gateway);
        Ok(Embedded { vectors, usage: Usage { prompt: tokens, ..Usage::default() } })
    }

    /// What inputs of tokens say.
    async fn texts(&self, scope: &Scope, lists: &[Vec<u32>]) -> Result<Vec<String>, Error> {
        let text = |(index, ids): (usize, &Vec<u32>)| {
            let (tokenizer, ids) = (self.outbound.tokenizer.clone(), ids.clone());
            async move { tokenizer.decode_all(ids, &format!("inputs[{index}]"), scope.deadline).await }
        };
        let all: Vec<_> = lists.iter().enumerate().map(text).collect();
        let decode = stream::iter(all).buffered(AT_ONCE).try_collect();
        let decode = decode.instrument(info_span!(target: fields::SPANS, "decode_prompt"));
        Ok(timed(self.metrics.stage("decode_prompt"), decode).await?)
    }

    async fn ids(&self, scope: &Scope, texts: &[String]) -> Result<Vec<Vec<u32>>, Error> {
        let all: Vec<_> = (0..texts.len()).map(|index| self.ids_of(scope, texts, index)).collect();
        let encode = stream::iter(all).buffered(AT_ONCE).try_collect();
        let encode = encode.instrument(info_span!(target: fields::SPANS, "encode"));
        Ok(timed(self.metrics.stage("encode"), encode).await?)
    }

    async fn ids_of(&self, scope: &Scope, texts: &[String], index: usize) -> Result<Vec<u32>, Failure> {
        let field = format!("inputs[{index}]");
        self.outbound.tokenizer.encode(&texts[index], None, &field, scope.deadline).await
    }
}

/// Inputs that a refusal names; it has to fit into a header, so the rest is counted.
const MOST_NAMED: usize = 16;

fn blocked(texts: &[usize], findings: &Findings) -> Error {
    let mut inputs: Vec<_> = texts.iter().take(MOST_NAMED).map(|index| format!("inputs[{index}]")).collect();
    if texts.len() > MOST_NAMED {
        inputs.push(format!("and {} more", texts.len() - MOST_NAMED));
    }
    let categories: Vec<_> = findings.keys().take(MOST_NAMED).map(String::as_str).collect();
    Error::Blocked { inputs: inputs.join(", "), categories: categories.join(", ") }
}
