//! The KV cache as the scheduler sees it: numbered blocks, and who holds them. The tensors belong to the model.
//!
//! Map: `block_pool` (which blocks are free), `block_table` (which blocks a sequence holds).
//!
//! Rules: every operation is O(1) per block; a block has at most one holder; taking is all or nothing.

mod block_pool;
mod block_table;
#[cfg(test)]
mod tests;

pub use block_pool::BlockPool;
pub use block_table::BlockTable;
