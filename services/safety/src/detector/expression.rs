//! An expression as a machine that is fed byte by byte, so that it can stop at the end of a piece of text and go on
//! with the next. Compiled whole ahead of time: no cache, no lock, no growth while it runs.

use regex_automata::{
    Anchored,
    dfa::{Automaton as _, StartError, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, start},
};
use regex_syntax::hir::{Hir, HirKind, Look};

use super::ByteSet;

/// The most memory that one compiled expression may take, in bytes. Bounds what a policy file can cost.
const MACHINE_LIMIT: usize = 4 << 20;
/// The most memory that compiling one may take, in bytes.
const COMPILE_LIMIT: usize = 32 << 20;

/// Why an expression cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExpressionError {
    /// It is not an expression.
    #[error("must be a regular expression: {}", one_line(.0))]
    Syntax(#[source] Box<regex_syntax::Error>),
    /// It is larger than the limits above, or uses what a machine of this kind cannot do.
    #[error("must compile to a machine of at most {limit} MiB: {source}", limit = MACHINE_LIMIT >> 20)]
    Machine {
        /// What the compiler says.
        source: Box<dense::BuildError>,
    },
    /// The expression itself.
    #[error("must compile: {0}")]
    Program(#[source] Box<thompson::BuildError>),
    /// The machine has no state to start in.
    #[error("must be able to start anywhere: {0}")]
    Start(#[from] StartError),
    /// It matches without any text.
    #[error("must not match an empty text")]
    Empty,
    /// It has no longest match.
    #[error(
        "must have a longest match of at most {most} bytes: `*`, `+` and `{{n,}}` have none, write `{{0,40}}`"
    )]
    Endless {
        /// The limit.
        most: usize,
    },
    /// Its longest match is too long.
    #[error("must have a longest match of at most {most} bytes; it can match {found}")]
    Long {
        /// The longest match.
        found: usize,
        /// The limit.
        most: usize,
    },
}

/// The parser draws an arrow under the mistake; a problem in a list has one line.
fn one_line(error: &regex_syntax::Error) -> String {
    match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
    }
}

/// A compiled expression. Matches as Perl would: leftmost alternative first.
pub(crate) struct Expression {
    dfa: dense::DFA<Vec<u32>>,
    /// The state to start in after each byte, and (last) at the start of the text.
    starts: Vec<StateID>,
    /// The bytes that a match may begin with.
    first: ByteSet,
}

impl Expression {
    /// An expression that matches only where it is started.
    pub(crate) fn anchored(pattern: &str) -> Result<Self, ExpressionError> {
        Self::compile(&parse(pattern)?, StartKind::Anchored)
    }

    /// An expression that skips what does not match.
    pub(crate) fn searching(pattern: &str) -> Result<Self, ExpressionError> {
        Self::compile(&parse(pattern)?, StartKind::Unanchored)
    }

    /// An anchored expression that matches at most `most` bytes, and that length.
    pub(crate) fn bounded(pattern: &str, most: usize) -> Result<(Self, usize), ExpressionError> {
        let hir = parse(pattern)?;
        if hir.properties().minimum_len() == Some(0) {
            return Err(ExpressionError::Empty);
        }
        match hir.properties().maximum_len() {
            None => Err(ExpressionError::Endless { most }),
            Some(found) if found > most => Err(ExpressionError::Long { found, most }),
            Some(found) => Ok((Self::compile(&hir, StartKind::Anchored)?, found)),
        }
    }

    fn compile(hir: &Hir, kind: StartKind) -> Result<Self, ExpressionError> {
        let nfa = thompson::Compiler::new()
            .build_from_hir(hir)
            .map_err(|error| ExpressionError::Program(Box::new(error)))?;
        let limits = dense::Config::new()
            .start_kind(kind)
            .dfa_size_limit(Some(MACHINE_LIMIT))
            .determinize_size_limit(Some(COMPILE_LIMIT));
        let dfa = dense::Builder::new()
            .configure(limits)
            .build_from_nfa(&nfa)
            .map_err(|error| ExpressionError::Machine { source: Box::new(error) })?;
        let starts = starts(&dfa, kind)?;
        let first = first(&dfa, &starts);
        Ok(Self { dfa, starts, first })
    }

    /// The bytes that a match may begin with.
    pub(crate) fn first(&self) -> &ByteSet {
        &self.first
    }

    /// The state to start in after this byte, or at the start of the text.
    pub(crate) fn start(&self, before: Option<u8>) -> StateID {
        self.starts[before.map_or(256, usize::from)]
    }

    /// Reads one byte. A match that ended *before* this byte shows in the state after it.
    pub(crate) fn next(&self, state: StateID, byte: u8) -> StateID {
        self.dfa.next_state(state, byte)
    }

    /// Reads the end of the text.
    pub(crate) fn finish(&self, state: StateID) -> StateID {
        self.dfa.next_eoi_state(state)
    }

    /// Whether the state is a match or dead: most are neither, and this is cheap to ask.
    pub(crate) fn is_special(&self, state: StateID) -> bool {
        self.dfa.is_special_state(state)
    }

    /// Whether a match has ended before the byte that was read last.
    pub(crate) fn is_match(&self, state: StateID) -> bool {
        self.dfa.is_match_state(state)
    }

    /// Whether no match can come any more.
    pub(crate) fn is_dead(&self, state: StateID) -> bool {
        self.dfa.is_dead_state(state) || self.dfa.is_quit_state(state)
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expression({} bytes)", self.dfa.memory_usage())
    }
}

fn parse(pattern: &str) -> Result<Hir, ExpressionError> {
    regex_syntax::parse(pattern).map(ascii_words).map_err(|error| ExpressionError::Syntax(Box::new(error)))
}

/// Makes every word boundary an ASCII one: a Unicode one needs more than the one byte of look-ahead that a machine has.
fn ascii_words(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Look(look) => Hir::look(match look {
            Look::WordUnicode => Look::WordAscii,
            Look::WordUnicodeNegate => Look::WordAsciiNegate,
            Look::WordStartUnicode => Look::WordStartAscii,
            Look::WordEndUnicode => Look::WordEndAscii,
            Look::WordStartHalfUnicode => Look::WordStartHalfAscii,
            Look::WordEndHalfUnicode => Look::WordEndHalfAscii,
            other => other,
        }),
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(ascii_words).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.into_iter().map(ascii_words).collect()),
        HirKind::Capture(mut capture) => {
            *capture.sub = ascii_words(*capture.sub);
            Hir::capture(capture)
        }
        HirKind::Repetition(mut repetition) => {
            *repetition.sub = ascii_words(*repetition.sub);
            Hir::repetition(repetition)
        }
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(class),
    }
}

fn starts(dfa: &dense::DFA<Vec<u32>>, kind: StartKind) -> Result<Vec<StateID>, StartError> {
    let anchored = if kind == StartKind::Anchored { Anchored::Yes } else { Anchored::No };
    let start = |before| dfa.start_state(&start::Config::new().anchored(anchored).look_behind(before));
    (0..=u8::MAX).map(Some).chain([None]).map(start).collect()
}

fn first(dfa: &dense::DFA<Vec<u32>>, starts: &[StateID]) -> ByteSet {
    let mut distinct = starts.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let leads = |byte: &u8| distinct.iter().any(|state| !dfa.is_dead_state(dfa.next_state(*state, *byte)));
    (0..=u8::MAX).filter(leads).fold(ByteSet::NONE, ByteSet::with)
}
