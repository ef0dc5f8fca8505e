//! The models that are served: what inference and the tokenizer said last, and whether the two fit together.
//!
//! Readiness asks both again and again, and keeps the answers here. A request reads them without a call; only the
//! first ones, before readiness has had an answer, ask for themselves. What is known is kept while a service is away,
//! so that a request meets the service's own error and not a guess of ours.

use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_runtime::Deadline;

use crate::{
    error::{Error, Failure},
    outbound::{Outbound, inference::Model, tokenizer::Vocabulary},
};

/// What is known about the models that are served. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Models {
    outbound: Outbound,
    known: Arc<ArcSwap<Known>>,
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

impl Models {
    pub(crate) fn new(outbound: Outbound) -> Self {
        Self { outbound, known: Arc::default() }
    }

    /// The model of this name; of the only one served, if the name is empty.
    pub(crate) async fn find(&self, name: &str, deadline: Option<Deadline>) -> Result<Served, Error> {
        let served = self.served(deadline).await?;
        if name.is_empty() || name == served.model.id {
            return Ok(served);
        }
        Err(Error::UnknownModel { model: name.to_owned(), served: served.model.id.clone() })
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
        fit(&vocabulary, &model)?;
        Ok(Served { chat: vocabulary.has_chat_template, model })
    }

    /// Asks inference what it has loaded, and keeps the answer.
    pub(crate) async fn ask_inference(&self, deadline: Option<Deadline>) -> Result<Arc<Model>, Failure> {
        let model = Arc::new(self.outbound.inference.model(deadline).await?);
        self.known.rcu(|known| Known { model: Some(Arc::clone(&model)), ..Known::clone(known) });
        Ok(model)
    }

    /// Asks the tokenizer what it has loaded, and keeps the answer.
    pub(crate) async fn ask_tokenizer(&self, deadline: Option<Deadline>) -> Result<Arc<Vocabulary>, Failure> {
        let vocabulary = Arc::new(self.outbound.tokenizer.vocabulary(deadline).await?);
        self.known.rcu(|known| Known { vocabulary: Some(Arc::clone(&vocabulary)), ..Known::clone(known) });
        Ok(vocabulary)
    }

    /// Whether what is known fits together; `None` while one of the two has not answered yet.
    pub(crate) fn fit(&self) -> Option<Result<(), Error>> {
        let known = self.known.load();
        Some(fit(known.vocabulary.as_deref()?, known.model.as_deref()?))
    }
}

/// Whether ids mean the same to both. A model folder without a `tokenizer.json` has no fingerprint to compare; then
/// only the sizes can speak against it.
fn fit(vocabulary: &Vocabulary, model: &Model) -> Result<(), Error> {
    let same =
        model.tokenizer_fingerprint.is_empty() || model.tokenizer_fingerprint == vocabulary.fingerprint;
    // A model may have more rows than there are words (padding), never fewer.
    if same && model.vocabulary_size >= vocabulary.size {
        return Ok(());
    }
    let describe = |fingerprint: &str, size| format!("{fingerprint:?} of {size} ids");
    Err(Error::VocabularyMismatch {
        tokenizer: describe(&vocabulary.fingerprint, vocabulary.size),
        inference: describe(&model.tokenizer_fingerprint, model.vocabulary_size),
    })
}
