//! The async door: from a form to a guide.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use llguidance::ParserFactory;
use tokio::{sync::oneshot, time::timeout};

use super::{
    form::Form,
    grammar::{CompileError, Grammar},
    guide::Help,
    metrics::{ConstraintMetrics, Origin},
    vocabulary,
    workers::Workers,
};
use crate::config::ConstraintConfig;

pub use vocabulary::Source;

/// Compiles forms and keeps what it compiled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Compiler {
    shared: Arc<Shared>,
    /// Its own threads: a long compilation must not hold up a mask.
    compilers: Workers,
    help: Help,
}

struct Shared {
    source: Source,
    config: ConstraintConfig,
    /// Read at the first constraint: who never sends one pays neither its time nor its memory.
    factory: OnceLock<ParserFactory>,
    kept: Mutex<Kept>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("source", &self.source).finish_non_exhaustive()
    }
}

/// The grammars that were asked for last, latest at the end.
#[derive(Debug, Default)]
struct Kept {
    grammars: VecDeque<(Form, Grammar)>,
}

impl Compiler {
    /// Starts the threads. `sequences` may run at once.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn start(
        source: Source,
        config: ConstraintConfig,
        sequences: usize,
        metrics: ConstraintMetrics,
    ) -> std::io::Result<Self> {
        let compilers = Workers::start("grammar", config.compile_threads, config.compile_queue)?;
        let workers = Workers::start("mask", config.mask_threads, sequences)?;
        let shared = Shared { source, config, factory: OnceLock::new(), kept: Mutex::default() };
        Ok(Self { shared: Arc::new(shared), compilers, help: Help { workers, metrics } })
    }

    /// The most bytes of a form's text.
    pub fn max_bytes(&self) -> usize {
        self.shared.config.max_bytes
    }

    /// The grammar of a form: one that is kept, or compiled on a thread of its own.
    ///
    /// # Errors
    /// The form is not usable, there is no vocabulary, or no time or room to compile.
    pub async fn grammar(&self, form: Form) -> Result<Grammar, CompileError> {
        if let Some(grammar) = self.shared.kept().find(&form) {
            self.help.metrics.had(Origin::Cached);
            return Ok(grammar);
        }
        let made = self.compile(form).await;
        self.help.metrics.had(if made.is_ok() { Origin::Compiled } else { Origin::Refused });
        made
    }

    /// How often callers came to a grammar so.
    #[cfg(test)]
    pub(super) fn count_of(&self, origin: &'static str) -> u64 {
        self.help.metrics.count_of(origin)
    }

    async fn compile(&self, form: Form) -> Result<Grammar, CompileError> {
        let (reply, made) = oneshot::channel();
        let (shared, help) = (Arc::clone(&self.shared), self.help.clone());
        let job = move || {
            if reply.is_closed() {
                return;
            }
            let began = tokio::time::Instant::now();
            let made = shared.make(form, &help);
            help.metrics.compile.observe(began.elapsed().as_secs_f64());
            // The caller may have left meanwhile; what was made is kept all the same.
            let _ = reply.send(made);
        };
        self.compilers.run(job).map_err(|_| CompileError::Busy(self.shared.config.compile_queue))?;
        let limit: Duration = self.shared.config.compile_timeout;
        let made = timeout(limit, made).await.map_err(|_| CompileError::TooSlow(limit))?;
        made.unwrap_or(Err(CompileError::Panicked))
    }
}

impl Shared {
    fn make(&self, form: Form, help: &Help) -> Result<Grammar, CompileError> {
        let factory = match self.factory.get() {
            Some(factory) => factory,
            None => {
                let loaded = vocabulary::load(&self.source)?;
                self.factory.get_or_init(|| loaded)
            }
        };
        let grammar = Grammar::compile(factory, &form, help.clone())?;
        let mut kept = self.kept();
        kept.keep(form, grammar.clone(), self.config.cache);
        help.metrics.kept.set(i64::try_from(kept.grammars.len()).unwrap_or(i64::MAX));
        Ok(grammar)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Few are kept, so looking at each costs less than a map would.
    fn find(&mut self, form: &Form) -> Option<Grammar> {
        let at = self.grammars.iter().position(|(kept, _)| kept == form)?;
        let (form, grammar) = self.grammars.remove(at)?;
        if grammar.is_worn() {
            return None;
        }
        self.grammars.push_back((form, grammar.clone()));
        Some(grammar)
    }

    fn keep(&mut self, form: Form, grammar: Grammar, most: usize) {
        self.grammars.retain(|(kept, _)| *kept != form);
        self.grammars.push_back((form, grammar));
        while self.grammars.len() > most {
            self.grammars.pop_front();
        }
    }
}
