//! Keys and values of one layer, in blocks of tiles.
//!
//! A tile is two by sixteen values: of a head's keys, two dimensions of sixteen positions, so that a score needs no sum
//! across lanes; of its values, two positions of sixteen dimensions. In bf16 the two stand side by side, which is what the
//! machine widens fastest.
//!
//! In int8, a head's keys at one position have a unit of their own, and so have its values: the largest magnitude over 127.
//! Scores are multiplied by the units of keys, and what values are weighted with by theirs: once for each position, outside
//! of the products.

use half::{bf16, f16};

use super::{
    Dtype,
    buffer::{Buffer, OutOfMemory, Plain},
    factor::{Factor, PairFactor},
    lanes::{Lanes, WIDTH},
};

/// Shape of a cache and of what attention reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; divides `heads`.
    pub(crate) kv_heads: usize,
    /// Width of a head; even.
    pub(crate) head_dim: usize,
    /// Blocks in the cache.
    pub(crate) blocks: usize,
    /// Positions of a block.
    pub(crate) block_size: usize,
}

impl Geometry {
    /// Bytes of one position's keys and values, where blocks are whole lanes long.
    pub(crate) fn token_bytes(&self, cache: CacheType) -> usize {
        let (element, units) = match cache {
            CacheType::Float(Dtype::F32) => (size_of::<f32>(), 0),
            CacheType::Float(Dtype::Bf16 | Dtype::F16) => (size_of::<u16>(), 0),
            CacheType::Int8 => (size_of::<i8>(), 2 * size_of::<f32>()),
        };
        self.kv_heads * ((self.head_dim + self.value_width()) * element + units)
    }

    /// Query heads that share a key and value head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Values of one row of queries, keys and values.
    pub(super) fn row_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Positions of a block, rounded up to whole lanes.
    pub(super) fn slots(&self) -> usize {
        self.block_size.next_multiple_of(WIDTH)
    }

    /// Dimensions of a head, rounded up to whole lanes.
    pub(super) fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(WIDTH)
    }

    /// Index of a head's first key tile in a block.
    pub(super) fn keys_at(&self, block: usize, head: usize) -> usize {
        (block * self.kv_heads + head) * self.head_dim * self.slots()
    }

    /// Index of a head's first value tile in a block.
    pub(super) fn values_at(&self, block: usize, head: usize) -> usize {
        (block * self.kv_heads + head) * self.slots() * self.value_width()
    }

    /// Index of the unit of a head's keys, or values, at a block's first slot.
    pub(super) fn units_at(&self, block: usize, head: usize) -> usize {
        (block * self.kv_heads + head) * self.slots()
    }

    /// From a head's first key tile to the tile of dimensions `2 * pair` and `2 * pair + 1` at slots from `slot` on.
    pub(super) fn key_tile(&self, pair: usize, slot: usize) -> usize {
        (pair * self.slots() + slot / WIDTH * WIDTH) * 2
    }

    /// From a head's first value tile to the tile of slots `2 * pair` and `2 * pair + 1` at dimensions from `dim` on.
    pub(super) fn value_tile(&self, pair: usize, dim: usize) -> usize {
        (pair * self.value_width() + dim / WIDTH * WIDTH) * 2
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(super) geometry: Geometry,
    pub(super) store: Store,
}

#[derive(Debug)]
pub(super) enum Store {
    F32(Pages<f32>),
    Bf16(Pages<bf16>),
    F16(Pages<f16>),
    Int8(Pages<i8>),
}

/// The type of keys and values in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheType {
    /// As weights.
    Float(Dtype),
    /// 8-bit numbers in units of their own for each position and head.
    Int8,
}

#[derive(Debug)]
pub(super) struct Pages<T> {
    pub(super) keys: Buffer<T>,
    pub(super) values: Buffer<T>,
    /// Of each block, head and slot, where the type has units; else empty.
    pub(super) key_units: Buffer<f32>,
    /// As above.
    pub(super) value_units: Buffer<f32>,
}

impl LayerCache {
    /// Reserves the blocks; memory is taken as they are written.
    ///
    /// # Errors
    /// There is no such amount of memory.
    pub(crate) fn new(geometry: Geometry, cache: CacheType) -> Result<Self, OutOfMemory> {
        let store = match cache {
            CacheType::Float(Dtype::F32) => Store::F32(Pages::new(&geometry)?),
            CacheType::Float(Dtype::Bf16) => Store::Bf16(Pages::new(&geometry)?),
            CacheType::Float(Dtype::F16) => Store::F16(Pages::new(&geometry)?),
            CacheType::Int8 => Store::Int8(Pages::new(&geometry)?),
        };
        Ok(Self { geometry, store })
    }
}

#[cfg(test)]
impl LayerCache {
    /// Writes `value` everywhere, as units too.
    pub(super) fn fill(&mut self, value: f32) {
        fn fill<T: Element>(pages: &mut Pages<T>, value: f32) {
            pages.keys.fill(T::narrow(value));
            pages.values.fill(T::narrow(value));
            pages.key_units.fill(value);
            pages.value_units.fill(value);
        }
        match &mut self.store {
            Store::F32(pages) => fill(pages, value),
            Store::Bf16(pages) => fill(pages, value),
            Store::F16(pages) => fill(pages, value),
            Store::Int8(pages) => fill(pages, value),
        }
    }
}

impl<T: Element> Pages<T> {
    fn new(geometry: &Geometry) -> Result<Self, OutOfMemory> {
        let overflow = OutOfMemory { bytes: usize::MAX };
        let key_block = geometry.keys_at(1, 0);
        let value_block = geometry.values_at(1, 0);
        let units_block = if T::HAS_UNITS { geometry.units_at(1, 0) } else { 0 };
        let of_all = |block: usize| geometry.blocks.checked_mul(block).ok_or(overflow);
        Ok(Self {
            keys: Buffer::zeroed(of_all(key_block)?)?,
            values: Buffer::zeroed(of_all(value_block)?)?,
            key_units: Buffer::zeroed(of_all(units_block)?)?,
            value_units: Buffer::zeroed(of_all(units_block)?)?,
        })
    }
}

/// A type that keys and values are stored in.
pub(super) trait Element: Plain {
    /// What they are multiplied with.
    type Factor<L: Lanes>: Factor<L>;
    /// Whether there are units beside them.
    const HAS_UNITS: bool = false;
    /// What a head's keys, or values, at one position are divided by.
    #[inline(always)]
    fn unit(_: &[f32]) -> f32 {
        1.0
    }
    /// The nearest value of this type.
    fn narrow(value: f32) -> Self;
    /// Where in a tile the value of `row` (0 or 1) and `lane` stands.
    fn place(row: usize, lane: usize) -> usize;
    /// Reads what a step takes of a tile. Where `alone`, only the first row counts (`step` is 0): the second may hold
    /// anything.
    ///
    /// # Safety
    /// As for [`Lanes`]; `tile` is valid for two times sixteen elements.
    unsafe fn load_tile<L: Lanes>(
        tile: *const Self,
        step: usize,
        alone: bool,
    ) -> <Self::Factor<L> as Factor<L>>::Tile;
}

impl Element for f32 {
    type Factor<L: Lanes> = f32;
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn place(row: usize, lane: usize) -> usize {
        row * WIDTH + lane
    }
    #[inline(always)]
    unsafe fn load_tile<L: Lanes>(tile: *const Self, step: usize, _: bool) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load(tile.add(step * WIDTH)) }
    }
}

impl Element for f16 {
    type Factor<L: Lanes> = f32;
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    #[inline(always)]
    fn place(row: usize, lane: usize) -> usize {
        row * WIDTH + lane
    }
    #[inline(always)]
    unsafe fn load_tile<L: Lanes>(tile: *const Self, step: usize, _: bool) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_f16(tile.add(step * WIDTH)) }
    }
}

impl Element for i8 {
    type Factor<L: Lanes> = f32;
    const HAS_UNITS: bool = true;
    #[inline(always)]
    fn unit(values: &[f32]) -> f32 {
        let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        // Codes have no room for what is not a number or infinite: the unit tells, since 0 times it is not a number.
        let none: f32 = values.iter().map(|value| value * 0.0).sum();
        largest / 127.0 + none
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        // What is not a number becomes 0: so does 0 over a unit of 0.
        value.round_ties_even() as Self
    }
    #[inline(always)]
    fn place(row: usize, lane: usize) -> usize {
        row * WIDTH + lane
    }
    #[inline(always)]
    unsafe fn load_tile<L: Lanes>(tile: *const Self, step: usize, _: bool) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_i8(tile.add(step * WIDTH)) }
    }
}

impl Element for bf16 {
    type Factor<L: Lanes> = L::Bf16Factor;
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    #[inline(always)]
    fn place(row: usize, lane: usize) -> usize {
        2 * lane + row
    }
    #[inline(always)]
    unsafe fn load_tile<L: Lanes>(
        tile: *const Self,
        step: usize,
        alone: bool,
    ) -> <L::Bf16Factor as Factor<L>>::Tile {
        // SAFETY: passed on to the caller; a tile is sixteen pairs.
        unsafe { L::Bf16Factor::load_pairs(tile.cast(), step, alone) }
    }
}
