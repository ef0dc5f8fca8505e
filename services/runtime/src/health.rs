//! Whether this process should be sent work, and if not, why.

/// All conditions that must hold before the process serves. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {}

/// One of them.
#[derive(Debug)]
pub struct Condition {}

impl Health {
    /// Adds a condition that does not hold yet. The process serves while every condition holds.
    pub fn condition(&self, _name: &'static str, _reason: impl Into<String>) -> Condition { unimplemented!() }
    /// Resolves when every condition holds.
    pub async fn serving(&self) { unimplemented!() }
}
impl Condition {
    /// It holds.
    pub fn holds(&self) { unimplemented!() }
    /// It does not, for this reason (shown by `/readyz`).
    pub fn fails(&self, _reason: impl Into<String>) { unimplemented!() }
}
