//! The KV cache as the scheduler sees it: numbered blocks, who holds them, and what they hold. The tensors belong to
//! the model.
//!
//! Map: `block_pool` (which blocks are free, and where what has a name is), `idle_list` (in which order free blocks
//! give way), `block_table` (which blocks a sequence holds), `block_hash` (names of what blocks hold).
//!
//! Rules:
//! - Every operation is O(1) per block; taking is all or nothing.
//! - Only full blocks have names, and what has a name is never written again. So no block is ever copied: sequences
//!   share full blocks, and each computes the rest of its last one itself.
//! - A block gives way to others only while nobody holds it.

mod block_hash;
mod block_pool;
mod block_table;
mod idle_list;
#[cfg(test)]
mod tests;

pub use block_hash::{BlockHash, Chain};
pub use block_pool::BlockPool;
pub use block_table::BlockTable;
