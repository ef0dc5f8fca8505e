//! What inference runs.

use std::sync::{Arc, Mutex, PoisonError};

use weft_inference::{
    Config, Running, StartError,
    model::{
        Model,
        scripted::{Controls, Scripted},
    },
};
use weft_runtime::{BoxError, Context, config};

use crate::golden;

/// Logits per position of SmolLM2, whose tokenizer every mesh uses.
pub const VOCABULARY: usize = 49_152;
/// `<|im_end|>` of SmolLM2.
pub const END: u32 = 2;

/// What inference runs.
#[derive(Clone, Debug)]
pub enum Brain {
    /// Says these ids and ends, whatever it is asked.
    Saying(Vec<u32>),
    /// Goes on with id 504 ("The") for as long as it is let.
    Endless,
    /// Has no script: what comes depends on every token before, and on the seed.
    Unsure,
    /// SmolLM2-135M-Instruct in f32: the golden answers' model.
    SmolLm2,
}

/// A test's hands on a scripted brain; those of the newest start.
#[derive(Clone, Debug, Default)]
pub struct Hands(Arc<Mutex<Controls>>);

impl Hands {
    /// The controls of the model that runs now.
    pub fn controls(&self) -> Controls {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Brain {
    /// Starts inference with it.
    ///
    /// # Errors
    /// As [`weft_inference::start_with`].
    pub async fn start(self, sections: &str, context: Context, hands: Hands) -> Result<Running, StartError> {
        let config = self.config(sections);
        weft_inference::start_with(config.clone(), context, move || self.load(&config, &hands)).await
    }

    fn config(&self, sections: &str) -> Config {
        let folder = golden::model_folder("smollm2-135m-instruct-f32");
        let text = format!("[model]\nid = \"smollm2\"\nfolder = {folder:?}\n{sections}");
        config::parse(&text, &[]).expect("a test's configuration is usable")
    }

    fn load(&self, config: &Config, hands: &Hands) -> Result<Box<dyn Model>, BoxError> {
        let mut scripted = match self {
            Self::Saying(script) => Scripted::saying(VOCABULARY, script.clone(), END),
            Self::Endless => Scripted::new(VOCABULARY, |_| 504),
            Self::Unsure => {
                let mut unsure = Scripted::unsure(VOCABULARY);
                unsure.info_mut().end_token_ids = vec![END];
                unsure
            }
            Self::SmolLm2 => return smollm2(config),
        };
        scripted.info_mut().tokenizer_fingerprint = fingerprint(config)?;
        *hands.0.lock().unwrap_or_else(PoisonError::into_inner) = scripted.controls();
        Ok(Box::new(scripted))
    }
}

fn smollm2(config: &Config) -> Result<Box<dyn Model>, BoxError> {
    use weft_inference::model::torch::{CacheChoice, DeviceChoice, DtypeChoice, TorchConfig, load};
    let torch = TorchConfig {
        folder: config.model.folder.clone(),
        dtype: DtypeChoice::F32,
        cache: CacheChoice::AsWeights,
        weights: None,
        device: DeviceChoice::Cpu,
        threads: 0,
    };
    Ok(load(&torch)?)
}

fn fingerprint(config: &Config) -> Result<String, BoxError> {
    let bytes = std::fs::read(config.model.folder.join("tokenizer.json"))?;
    Ok(weft_tokenizer::fingerprint::of(&bytes))
}
