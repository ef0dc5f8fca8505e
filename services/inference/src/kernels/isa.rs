//! Which vector instructions this machine has, and kernels compiled for each.

use super::lanes::{Lanes, Portable, Unpacking};

/// A computation written once over [`Lanes`].
pub(super) trait Kernel {
    /// Does the work. Implementations are `#[inline(always)]`, so that they are compiled with the caller's instructions.
    ///
    /// # Safety
    /// The instructions of `L` are present.
    unsafe fn run<L: Lanes>(self);
}

/// As [`Kernel`], for lanes that are better off with unpacked operands.
pub(super) trait UnpackedKernel {
    /// Does the work.
    ///
    /// # Safety
    /// As for [`Kernel::run`].
    unsafe fn run<L: Unpacking>(self);
}

/// Proof that this machine's lanes are of that kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unpacked(Level);

/// Plain loops that the compiler turns into vector code. `run` is `#[inline(always)]`, and so is what it calls.
pub(crate) trait Loops {
    /// Runs them.
    fn run(self);
}

/// Loops as a kernel.
struct Compiled<W>(W);

impl<W: Loops> Kernel for Compiled<W> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        self.0.run();
    }
}

/// A set of vector instructions that this machine has: a value is proof that they are present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Isa {
    /// The best one.
    pub(crate) fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Level::Portable))
    }

    /// All of them, the best last.
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = vec![Level::Portable];
        #[cfg(target_arch = "x86_64")]
        levels.extend(x86::levels());
        levels.into_iter().map(Self).collect()
    }

    /// Whether there is more than plain Rust loops.
    pub(crate) fn is_vectorized(self) -> bool {
        self.0 != Level::Portable
    }

    /// Whether operands of products are better unpacked beforehand.
    pub(super) fn unpacked(self) -> Option<Unpacked> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Some(Unpacked(self.0)),
            _ => None,
        }
    }

    /// Runs loops, compiled with these instructions.
    pub(crate) fn run_loops(self, loops: impl Loops) {
        self.run(Compiled(loops));
    }

    /// Runs a kernel with these instructions.
    pub(super) fn run(self, kernel: impl Kernel) {
        // SAFETY: a level other than `Portable` exists only if `available` has seen its features.
        unsafe {
            match self.0 {
                Level::Portable => kernel.run::<Portable>(),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => x86::with_avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => x86::with_avx512(kernel),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512Bf16 => x86::with_avx512_bf16(kernel),
            }
        }
    }
}

impl Unpacked {
    /// Runs a kernel with these instructions.
    pub(super) fn run(self, kernel: impl UnpackedKernel) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as for [`Isa::run`].
            Level::Avx2 => unsafe { x86::unpacked_with_avx2(kernel) },
            _ => unreachable!("`Isa::unpacked` makes this of no other level"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Level, UnpackedKernel};
    use crate::kernels::lanes::{Avx2, Avx512};

    /// The levels beyond `Portable`, the best last.
    pub(super) fn levels() -> Vec<Level> {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
        [(avx2, Level::Avx2), (avx512, Level::Avx512), (bf16, Level::Avx512Bf16)]
            .into_iter()
            .filter_map(|(present, level)| present.then_some(level))
            .collect()
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn with_avx2(kernel: impl Kernel) {
        // SAFETY: the features are enabled here, and the caller has seen them.
        unsafe { kernel.run::<Avx2>() }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn unpacked_with_avx2(kernel: impl UnpackedKernel) {
        // SAFETY: as above.
        unsafe { kernel.run::<Avx2>() }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn with_avx512(kernel: impl Kernel) {
        // SAFETY: the features are enabled here, and the caller has seen them.
        unsafe { kernel.run::<Avx512<false>>() }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    pub(super) unsafe fn with_avx512_bf16(kernel: impl Kernel) {
        // SAFETY: the features are enabled here, and the caller has seen them.
        unsafe { kernel.run::<Avx512<true>>() }
    }
}
