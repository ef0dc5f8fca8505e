//! How far one sequence is in its grammar.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
};

use llguidance::{TokenParser, api::StopReason};
use tokio::time::Instant;

use super::{metrics::ConstraintMetrics, workers::Workers};
use crate::sampler::Mask;

/// Why a sequence cannot go on in its grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuideError {
    /// A step took more than it may.
    #[error("the constraint became too complex to compute what may come next")]
    TooComplex {
        /// The field of the request that holds the constraint.
        field: &'static str,
    },
    /// What was said can be continued by no token.
    #[error("the constraint allows no token to follow, and the output is not complete")]
    DeadEnd {
        /// The field of the request that holds the constraint.
        field: &'static str,
    },
    /// What a resumed generation is said to have said does not keep to it.
    #[error("do not keep to the constraint")]
    NotFollowed,
    /// llguidance broke.
    #[error("the constraint could not be followed: {0}")]
    Broken(String),
}

/// What a token came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More must or may follow.
    Goes,
    /// The output is complete, and nothing may follow.
    Complete,
}

/// What sequences share: who computes masks, and what is measured.
#[derive(Clone, Debug)]
pub(super) struct Help {
    pub(super) workers: Workers,
    pub(super) metrics: ConstraintMetrics,
}

/// One sequence's way through its grammar.
pub(crate) struct Guide {
    field: &'static str,
    help: Help,
    state: State,
}

enum State {
    /// The next token may be chosen.
    Ready(Box<TokenParser>, Arc<Mask>),
    /// The last token is in the grammar, and its mask was not asked for.
    Advanced(Box<TokenParser>),
    /// A worker computes the mask.
    Computing(Receiver<Computed>),
    /// It has failed, or is complete.
    Over,
}

/// A parser, and what may come next; no mask where nothing may.
type Computed = (Box<TokenParser>, Result<Option<Mask>, GuideError>);

impl fmt::Debug for Guide {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guide").field("field", &self.field).finish_non_exhaustive()
    }
}

impl Guide {
    /// From `parser`, before any token, whose mask is `first`.
    pub(super) fn new(parser: TokenParser, first: Arc<Mask>, field: &'static str, help: Help) -> Self {
        Self { field, help, state: State::Ready(Box::new(parser), first) }
    }

    /// The same behind tokens that were said already: a worker follows `parser` there.
    pub(super) fn behind(parser: TokenParser, said: Vec<u32>, field: &'static str, help: Help) -> Self {
        let computing = help.compute(Box::new(parser), said);
        Self { field, help, state: State::Computing(computing) }
    }

    /// Whether something may follow what was said. Waits for the worker that follows it.
    ///
    /// # Errors
    /// It does not keep to the grammar, or that cannot be found out.
    pub(crate) fn caught_up(&mut self) -> Result<Progress, GuideError> {
        self.receive()?;
        Ok(if matches!(self.state, State::Over) { Progress::Complete } else { Progress::Goes })
    }

    /// The tokens that may come next. Waits for the worker that computes them.
    ///
    /// # Errors
    /// No token may follow, or that cannot be found out.
    pub(crate) fn mask(&mut self) -> Result<Arc<Mask>, GuideError> {
        self.prepare();
        self.receive()?;
        match &self.state {
            State::Ready(_, mask) => Ok(Arc::clone(mask)),
            State::Advanced(_) | State::Computing(_) | State::Over => {
                Err(GuideError::Broken("its state was lost".to_owned()))
            }
        }
    }

    /// Waits for the worker, where one computes.
    fn receive(&mut self) -> Result<(), GuideError> {
        let State::Computing(computed) = &self.state else { return Ok(()) };
        let began = Instant::now();
        let computed = computed.recv();
        self.help.metrics.wait.observe(began.elapsed().as_secs_f64());
        self.state = State::Over;
        // A worker that panics drops what it held.
        let (parser, mask) = computed.map_err(|_| GuideError::Broken("its worker panicked".to_owned()))?;
        if let Some(mask) = mask.map_err(|error| error.at(self.field))? {
            self.state = State::Ready(parser, Arc::new(mask));
        }
        Ok(())
    }

    /// Follows a token of the last mask.
    ///
    /// # Errors
    /// The grammar cannot follow it.
    pub(crate) fn accept(&mut self, token: u32) -> Result<Progress, GuideError> {
        let State::Ready(mut parser, _) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(GuideError::Broken("a token came before its mask".to_owned()));
        };
        let complete = follow(&mut parser, token).map_err(|error| error.at(self.field))?;
        if complete {
            return Ok(Progress::Complete);
        }
        self.state = State::Advanced(parser);
        Ok(Progress::Goes)
    }

    /// Lets a worker compute the next mask, where that has not begun.
    pub(crate) fn prepare(&mut self) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Advanced(parser) => self.state = State::Computing(self.help.compute(parser, Vec::new())),
            other => self.state = other,
        }
    }
}

impl Help {
    /// Lets a worker follow `said`, and compute what may come next.
    fn compute(&self, mut parser: Box<TokenParser>, said: Vec<u32>) -> Receiver<Computed> {
        let (sender, receiver) = sync_channel(1);
        let metrics = self.metrics.clone();
        let job = move || {
            let began = Instant::now();
            let mask = mask_behind(&mut parser, &said);
            metrics.mask.observe(began.elapsed().as_secs_f64());
            // The sequence may have ended meanwhile.
            let _ = sender.send((parser, mask));
        };
        // Never refused with a queue as long as there are sequences; were it, the engine would do it itself.
        if let Err(job) = self.workers.run(job) {
            job();
        }
        receiver
    }
}

impl GuideError {
    fn at(self, field: &'static str) -> Self {
        match self {
            Self::TooComplex { .. } => Self::TooComplex { field },
            Self::DeadEnd { .. } => Self::DeadEnd { field },
            other @ (Self::NotFollowed | Self::Broken(_)) => other,
        }
    }
}

/// The tokens that may come next behind these; none where these are all.
fn mask_behind(parser: &mut TokenParser, said: &[u32]) -> Result<Option<Mask>, GuideError> {
    let mut complete = false;
    for token in said {
        // Asked first: a parser that is given what it does not allow says that it is too complex.
        if complete || guarded(parser, |parser| parser.validate_tokens_raw(&[*token]))? == 0 {
            return Err(GuideError::NotFollowed);
        }
        complete = follow(parser, *token)?;
    }
    if complete { Ok(None) } else { compute_mask(parser).map(Some) }
}

/// The tokens that may come next.
pub(super) fn compute_mask(parser: &mut TokenParser) -> Result<Mask, GuideError> {
    let allowed = guarded(parser, TokenParser::compute_mask)?;
    Ok(Mask::new(allowed.as_slice().to_vec()))
}

/// Takes a token. Answers whether nothing may follow it.
fn follow(parser: &mut TokenParser, token: u32) -> Result<bool, GuideError> {
    guarded(parser, |parser| {
        parser.consume_token(token)?;
        parser.check_stop()
    })
}

/// What llguidance does, its errors told apart by why it stopped, its panics caught.
fn guarded<T, E: fmt::Display>(
    parser: &mut TokenParser,
    work: impl FnOnce(&mut TokenParser) -> Result<T, E>,
) -> Result<T, GuideError> {
    let result = catch_unwind(AssertUnwindSafe(|| work(parser)))
        .map_err(|_| GuideError::Broken("llguidance panicked".to_owned()))?;
    let field = "constraint";
    result.map_err(|error| match parser.stop_reason() {
        StopReason::LexerTooComplex | StopReason::ParserTooComplex => GuideError::TooComplex { field },
        StopReason::NoExtension | StopReason::NoExtensionBias => GuideError::DeadEnd { field },
        _ => GuideError::Broken(error.to_string()),
    })
}
