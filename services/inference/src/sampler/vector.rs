//! Passes over all logits, compiled for the vector instructions of this machine.
//!
//! The passes keep sixteen sums of their own, whatever the instructions, and nothing contracts a product and a sum: so
//! every machine comes to the same numbers, bit for bit.

#[cfg(feature = "torch")]
pub(super) use crate::kernels::Loops;

/// Plain loops; `run` is `#[inline(always)]`, and so is what it calls.
#[cfg(not(feature = "torch"))]
pub(super) trait Loops {
    /// Runs them.
    fn run(self);
}

/// The vector instructions of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector {
    #[cfg(feature = "torch")]
    isa: crate::kernels::Isa,
}

impl Default for Vector {
    fn default() -> Self {
        Self {
            #[cfg(feature = "torch")]
            isa: crate::kernels::Isa::best(),
        }
    }
}

#[cfg(all(test, feature = "torch"))]
impl Vector {
    /// Each that this machine has.
    pub(super) fn available() -> Vec<Self> {
        crate::kernels::Isa::available().into_iter().map(|isa| Self { isa }).collect()
    }
}

impl Vector {
    /// Runs loops with these instructions.
    #[cfg(feature = "torch")]
    pub(super) fn run(self, loops: impl Loops) {
        self.isa.run_loops(loops);
    }

    /// Runs loops. Without the kernels' room there are no other instructions than the build's own.
    #[cfg(not(feature = "torch"))]
    pub(super) fn run(self, loops: impl Loops) {
        loops.run();
    }
}
