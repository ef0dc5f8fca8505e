//! Values that a model gives away.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

/// f32 values: of the heap, or in memory that a device fills by itself and that goes back to the model once it is read.
#[derive(Debug)]
pub struct Values(Memory);

#[derive(Debug)]
enum Memory {
    Owned(Vec<f32>),
    Lent(Box<dyn Lent>),
}

/// What lends values.
trait Lent: DerefMut<Target = [f32]> + fmt::Debug + Send {}

impl<T: DerefMut<Target = [f32]> + fmt::Debug + Send> Lent for T {}

impl Values {
    /// Values in memory of another kind.
    pub fn lent(memory: impl DerefMut<Target = [f32]> + fmt::Debug + Send + 'static) -> Self {
        Self(Memory::Lent(Box::new(memory)))
    }

    /// The same on the heap.
    #[must_use]
    pub fn into_vec(self) -> Vec<f32> {
        match self.0 {
            Memory::Owned(values) => values,
            Memory::Lent(values) => values.to_vec(),
        }
    }
}

impl Default for Values {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl Clone for Values {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self(Memory::Owned(values))
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Memory::Owned(values) => values,
            Memory::Lent(values) => values,
        }
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Memory::Owned(values) => values,
            Memory::Lent(values) => values,
        }
    }
}
