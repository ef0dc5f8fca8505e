//! In-memory connections: the whole mesh in one process, with connections that a test can cut.

/// Opens connections to the [`Incoming`] that it was made with.
#[derive(Clone, Debug)]
pub struct Connector {}
/// The accepting end; a stream of connections.
#[derive(Debug)]
pub struct Incoming {}

/// Makes a connected pair.
pub fn pipe() -> (Connector, Incoming) { unimplemented!() }

impl Connector {
    /// Breaks all connections that are open, as a cut cable would.
    pub fn cut(&self) {}
    /// Refuses new connections until told otherwise, as a dead process would.
    pub fn refuse(&self, _refuse: bool) {}
}
