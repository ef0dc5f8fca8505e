//! The models that are served: what inference and the tokenizer said last, and whether the two fit together.
//!
//! Readiness asks every replica of both again and again, and lets what it hears be judged here: replicas of a service must
//! have the same. A request reads what is known without a call; only the first ones, before readiness has had an answer,
//! ask for themselves. What is known is kept while a service is away,
//! so that a request meets the service's own error and not a guess of ours.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use weft_runtime::Deadline;

use crate::{
    error::{Error, Failure},
    inbound::auth::Identity,
    outbound::{Outbound, inference::Model, tokenizer::Vocabulary},
};

/// What is known about the models that are served. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Models {
    outbound: Outbound,
    known: Arc<ArcSwap<Known>>,
    /// The adapters that were loaded when somebody asked last.
    adapters: Arc<ArcSwap<Vec<String>>>,
    /// Whether inference may serve a model whose vocabulary it cannot tell.
    allow_unknown_vocabulary: bool,
}

/// What is thought of a replica's account.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It may be used.
    Fits,
    /// It would do something else than the others, or what none may.
    Differs(String),
}

#[derive(Clone, Debug, Default)]
struct Known {
    model: Option<Arc<Model>>,
    vocabulary: Option<Arc<Vocabulary>>,
}

/// A model that requests can use.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) model: Arc<Model>,
    /// Whether it brings a chat template.
    pub(crate) chat: bool,
}

/// A model, or a model through an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) model: String,
    pub(crate) adapter: Option<String>,
}

/// As it is spelled in requests and in the patterns of keys.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.adapter {
            Some(adapter) => write!(f, "{}:{adapter}", self.model),
            None => f.write_str(&self.model),
        }
    }
}

impl Models {
    pub(crate) fn new(outbound: Outbound, allow_unknown_vocabulary: bool) -> Self {
        Self { outbound, known: Arc::default(), adapters: Arc::default(), allow_unknown_vocabulary }
    }

    /// The model of this name; of the only one served, if the name is empty.
    pub(crate) async fn find(&self, name: &str, deadline: Option<Deadline>) -> Result<Served, Error> {
        let served = self.served(deadline).await?;
        if name.is_empty() || name == served.model.id {
            return Ok(served);
        }
        Err(Error::UnknownModel { model: name.to_owned(), served: served.model.id.clone() })
    }

    /// As [`find`](Self::find), for a caller who wants to know of it: who may not use it is not told.
    pub(crate) async fn describe(
        &self,
        name: &str,
        caller: &Identity,
        deadline: Option<Deadline>,
    ) -> Result<Served, Error> {
        let served = self.find(name, deadline).await?;
        caller.may_use(&served.model.id, None)?;
        Ok(served)
    }

    /// What a name means: a model or, as `MODEL:ADAPTER` or by its own name, a model through an adapter that is loaded.
    ///
    /// # Errors
    /// It is neither. The error names what there is and the caller may use.
    pub(crate) async fn resolve(
        &self,
        name: &str,
        caller: &Identity,
        deadline: Option<Deadline>,
    ) -> Result<Name, Error> {
        let model = self.served(deadline).await?.model.id.clone();
        if name.is_empty() || name == model {
            return Ok(Name { model, adapter: None });
        }
        let within = name.strip_prefix(&model).and_then(|rest| rest.strip_prefix(':'));
        let adapter = within.unwrap_or(name);
        let is_known = |adapters: &[String]| adapters.iter().any(|known| known == adapter);
        // What was loaded a moment ago need not be asked for again: where that has changed, inference says so itself.
        if !is_known(&self.adapters.load()) && !is_known(&self.ask_adapters(deadline).await?) {
            let usable = self.usable_adapters(&model, caller);
            let served = std::iter::once(model).chain(usable.into_iter().map(|name| name.to_string()));
            let served = served.collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownModel { model: name.to_owned(), served });
        }
        Ok(Name { model, adapter: Some(adapter.to_owned()) })
    }

    /// The adapters of a model that a caller may use: as with models, those that were known last while inference is away.
    pub(crate) async fn adapters(
        &self,
        model: &str,
        caller: &Identity,
        deadline: Option<Deadline>,
    ) -> Vec<Name> {
        let _ = self.ask_adapters(deadline).await;
        self.usable_adapters(model, caller)
    }

    fn usable_adapters(&self, model: &str, caller: &Identity) -> Vec<Name> {
        let known = self.adapters.load();
        let usable = known.iter().filter(|adapter| caller.may_use(model, Some(adapter)).is_ok());
        usable.map(|adapter| Name { model: model.to_owned(), adapter: Some(adapter.clone()) }).collect()
    }

    async fn ask_adapters(&self, deadline: Option<Deadline>) -> Result<Arc<Vec<String>>, Failure> {
        let adapters = Arc::new(self.outbound.inference.adapters(deadline).await?);
        self.adapters.store(Arc::clone(&adapters));
        Ok(adapters)
    }

    /// The models that a caller may use.
    pub(crate) async fn list(
        &self,
        caller: &Identity,
        deadline: Option<Deadline>,
    ) -> Result<Option<Served>, Error> {
        let served = self.served(deadline).await?;
        Ok(Some(served).filter(|served| caller.may_use(&served.model.id, None).is_ok()))
    }

    /// The model that is served.
    pub(crate) async fn served(&self, deadline: Option<Deadline>) -> Result<Served, Error> {
        let known = self.known.load_full();
        let model = match &known.model {
            Some(model) => Arc::clone(model),
            None => self.ask_inference(deadline).await?,
        };
        let vocabulary = match &known.vocabulary {
            Some(vocabulary) => Arc::clone(vocabulary),
            None => self.ask_tokenizer(deadline).await?,
        };
        self.compare(&vocabulary, &model)?;
        Ok(Served { chat: vocabulary.has_chat_template, model })
    }

    /// Asks inference what it has loaded, and keeps the answer.
    pub(crate) async fn ask_inference(&self, deadline: Option<Deadline>) -> Result<Arc<Model>, Failure> {
        let model = self.outbound.inference.model(deadline).await?;
        Ok(self.keep_model(model))
    }

    /// Asks the tokenizer what it has loaded, and keeps the answer.
    pub(crate) async fn ask_tokenizer(&self, deadline: Option<Deadline>) -> Result<Arc<Vocabulary>, Failure> {
        let vocabulary = self.outbound.tokenizer.vocabulary(deadline).await?;
        Ok(self.keep_vocabulary(vocabulary))
    }

    /// What to think of a tokenizer with this vocabulary. It is what all must have, unless others (`beside`) are in use.
    pub(crate) fn judge_tokenizer(&self, vocabulary: Vocabulary, beside: bool) -> Verdict {
        let known = self.known.load_full();
        match known.vocabulary.as_deref().filter(|_| beside) {
            Some(known) if *known != vocabulary => Verdict::Differs(format!(
                "has vocabulary {}, the others {}",
                describe(&vocabulary.fingerprint, vocabulary.size),
                describe(&known.fingerprint, known.size)
            )),
            _ => {
                self.keep_vocabulary(vocabulary);
                Verdict::Fits
            }
        }
    }

    /// What to think of an inference replica with this model. It is what all must have, unless others (`beside`) are in
    /// use.
    pub(crate) fn judge_inference(&self, model: Model, beside: bool) -> Verdict {
        let known = self.known.load_full();
        let misfit = known.vocabulary.as_deref().and_then(|words| self.compare(words, &model).err());
        match (misfit, known.model.as_deref().filter(|_| beside)) {
            (Some(misfit), used) => {
                // While none is in use, requests are told of this one.
                if used.is_none() {
                    self.keep_model(model);
                }
                Verdict::Differs(misfit.to_string())
            }
            (None, Some(known)) if !known.is_like(&model) => {
                Verdict::Differs(format!("serves {model:?}, the others {known:?}"))
            }
            (None, _) => {
                self.keep_model(model);
                Verdict::Fits
            }
        }
    }

    fn keep_model(&self, model: Model) -> Arc<Model> {
        let model = Arc::new(model);
        self.known.rcu(|known| Known { model: Some(Arc::clone(&model)), ..Known::clone(known) });
        model
    }

    fn keep_vocabulary(&self, vocabulary: Vocabulary) -> Arc<Vocabulary> {
        let vocabulary = Arc::new(vocabulary);
        self.known.rcu(|known| Known { vocabulary: Some(Arc::clone(&vocabulary)), ..Known::clone(known) });
        vocabulary
    }

    /// Whether what is known fits together; `None` while one of the two has not answered yet.
    pub(crate) fn fit(&self) -> Option<Result<(), Error>> {
        let known = self.known.load();
        Some(self.compare(known.vocabulary.as_deref()?, known.model.as_deref()?))
    }

    /// Whether ids mean the same to both. A model folder without a `tokenizer.json` has no fingerprint to compare; where
    /// that is allowed, only the sizes can speak against it.
    fn compare(&self, vocabulary: &Vocabulary, model: &Model) -> Result<(), Error> {
        let unknown = model.tokenizer_fingerprint.is_empty() && self.allow_unknown_vocabulary;
        let same = unknown || model.tokenizer_fingerprint == vocabulary.fingerprint;
        // A model may have more rows than there are words (padding), never fewer.
        if same && model.vocabulary_size >= vocabulary.size {
            return Ok(());
        }
        Err(Error::VocabularyMismatch {
            tokenizer: describe(&vocabulary.fingerprint, vocabulary.size),
            inference: describe(&model.tokenizer_fingerprint, model.vocabulary_size),
        })
    }
}

fn describe(fingerprint: &str, size: u32) -> String {
    format!("{fingerprint:?} of {size} ids")
}
