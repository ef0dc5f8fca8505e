//! Names for what blocks hold.
//!
//! What a full block holds is decided by every token up to its end, by the weights that computed it, and by who may
//! see it. Its hash covers all of that: each is the SHA-256 of the hash before it and of its own tokens, and the first
//! follows a root that stands for salt and adapter.
//!
//! # Why SHA-256
//! Whoever could make two different prefixes hash alike would read another caller's cache. So the hash must resist a
//! caller who chooses tokens at will, which neither a checksum nor a plain hash-map hash does. SHA-256 needs no secret
//! to resist, processors have instructions for it, and a block takes two of its rounds: far less than computing a token.

use sha2::{Digest as _, Sha256};

/// First byte of what a root hashes.
const ROOT: u8 = 0;
/// First byte of what a root hashes that is one request's own.
const PRIVATE_ROOT: u8 = 1;
/// First byte of what a block hashes.
const BLOCK: u8 = 2;

/// What a block holds, with all that came before it; or a root, which no block follows yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// The root of all that is computed with this adapter (name and generation; none for the model alone) for callers
    /// with this salt. No two different ones share a root.
    pub fn shared_root(salt: &str, adapter: Option<(&str, u64)>) -> Self {
        let mut hash = Sha256::new();
        hash.update([ROOT]);
        update_text(&mut hash, salt);
        if let Some((name, generation)) = adapter {
            update_text(&mut hash, name);
            hash.update(generation.to_le_bytes());
        }
        Self(hash.finalize().into())
    }

    /// A root that belongs to one request alone; no two numbers share one.
    pub fn private_root(number: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update([PRIVATE_ROOT]);
        hash.update(number.to_le_bytes());
        Self(hash.finalize().into())
    }

    /// The hash of a block of `tokens` that follows this one.
    #[must_use]
    pub fn followed_by(&self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new();
        hash.update([BLOCK]);
        hash.update(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self(hash.finalize().into())
    }
}

/// With its length, so that no two lists of texts look alike.
fn update_text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text.as_bytes());
}

/// The hashes of a sequence's full blocks, as far as somebody has asked for them. Each is computed once.
#[derive(Debug)]
pub struct Chain {
    root: BlockHash,
    hashes: Vec<BlockHash>,
}

impl Chain {
    /// A chain that starts from `root`.
    pub fn new(root: BlockHash) -> Self {
        Self { root, hashes: Vec::new() }
    }

    /// The hash of the `index`-th block of `tokens`, which must be full: `tokens` may only grow between two calls.
    pub fn hash(&mut self, index: usize, tokens: &[u32], block_size: usize) -> BlockHash {
        while self.hashes.len() <= index {
            let at = self.hashes.len() * block_size;
            let last = self.hashes.last().unwrap_or(&self.root);
            self.hashes.push(last.followed_by(&tokens[at..at + block_size]));
        }
        self.hashes[index]
    }
}
