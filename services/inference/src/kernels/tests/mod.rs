//! Kernels against plain loops, with every instruction set that this machine has.
