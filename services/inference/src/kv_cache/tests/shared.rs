//! Blocks with names: who finds them, who holds them, and which gives way first.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::BlockId;

/// The name of the `content`-th thing that a block may hold.
fn name(content: u32) -> BlockHash {
    BlockHash::shared_root("", None).followed_by(&[content])
}

/// A table that holds one block with this content, and the block.
fn filled(content: u32, pool: &mut BlockPool) -> (BlockTable, BlockId) {
    let mut table = BlockTable::default();
    assert!(table.grow_to(1, pool));
    table.publish(0, name(content), pool);
    let block = pool.find(&name(content)).unwrap();
    (table, block)
}

#[test]
fn a_block_is_found_by_its_content_until_it_gives_way_the_oldest_first() {
    let mut pool = BlockPool::new(3, BLOCK_SIZE);
    let mut tables: Vec<BlockTable> = (0..3).map(|content| filled(content, &mut pool).0).collect();
    for which in [1, 0, 2] {
        tables[which].release(&mut pool);
    }
    assert_eq!((pool.free(), pool.idle(), pool.evictions()), (3, 3, 0));
    let mut other = BlockTable::default();
    for (taken, gone) in [1, 0, 2].into_iter().enumerate() {
        assert!(pool.find(&name(gone)).is_some());
        assert!(other.grow_to((taken + 1) * BLOCK_SIZE, &mut pool));
        assert!(pool.find(&name(gone)).is_none());
    }
    assert_eq!((pool.free(), pool.evictions()), (0, 3));
}

#[test]
fn a_block_that_was_used_again_is_the_newest() {
    let mut pool = BlockPool::new(2, BLOCK_SIZE);
    for content in [0, 1] {
        filled(content, &mut pool).0.release(&mut pool);
    }
    // Taken by `filled` for content 1 was the other blank block, so both contents are still there.
    let mut again = BlockTable::default();
    again.adopt(0, pool.find(&name(0)).unwrap(), &mut pool);
    again.release(&mut pool);
    let mut other = BlockTable::default();
    assert!(other.grow_to(1, &mut pool));
    assert_eq!((pool.find(&name(0)).is_some(), pool.find(&name(1)).is_some()), (true, false));
}

#[test]
fn the_end_of_a_prefix_gives_way_before_its_beginning() {
    let mut pool = BlockPool::new(3, BLOCK_SIZE);
    let mut table = BlockTable::default();
    assert!(table.grow_to(3 * BLOCK_SIZE, &mut pool));
    (0..3).for_each(|index| table.publish(index, name(index as u32), &mut pool));
    table.release(&mut pool);
    let mut other = BlockTable::default();
    assert!(other.grow_to(1, &mut pool));
    let there = [0, 1, 2].map(|content| pool.find(&name(content)).is_some());
    assert_eq!(there, [true, true, false]);
}

#[test]
fn blank_blocks_are_taken_before_cached_ones() {
    let mut pool = BlockPool::new(2, BLOCK_SIZE);
    filled(0, &mut pool).0.release(&mut pool);
    let mut table = BlockTable::default();
    assert!(table.grow_to(1, &mut pool));
    assert!(pool.find(&name(0)).is_some());
}

#[test]
fn the_second_of_two_blocks_with_one_content_stays_without_a_name() {
    let mut pool = BlockPool::new(2, BLOCK_SIZE);
    let (mut first, block) = filled(0, &mut pool);
    let (mut second, found) = filled(0, &mut pool);
    assert_eq!(block, found);
    second.release(&mut pool);
    assert_eq!((pool.free(), pool.idle()), (1, 0));
    first.release(&mut pool);
    assert_eq!((pool.free(), pool.idle()), (2, 1));
}

#[test]
fn what_was_retracted_is_blank_once_its_last_holder_lets_go() {
    let mut pool = BlockPool::new(2, BLOCK_SIZE);
    let (mut first, block) = filled(0, &mut pool);
    let mut second = BlockTable::default();
    second.adopt(0, block, &mut pool);
    first.retract(&mut pool);
    assert_eq!(pool.find(&name(0)), None);
    first.release(&mut pool);
    assert_eq!(pool.free(), 1, "the second still holds it");
    second.release(&mut pool);
    assert_eq!((pool.free(), pool.idle()), (2, 0));
}

#[test]
fn a_hash_tells_salts_adapters_generations_and_places_apart() {
    let adapters = [None, Some(("a", 1)), Some(("a", 2)), Some(("b", 1))];
    let mut hashes = BTreeSet::new();
    let mut count = 0;
    for (salt, adapter) in ["", "a", "b"].into_iter().flat_map(|salt| adapters.map(|adapter| (salt, adapter)))
    {
        let root = BlockHash::shared_root(salt, adapter);
        for hash in [
            root,
            root.followed_by(&[1, 2]),
            root.followed_by(&[2, 1]),
            root.followed_by(&[1, 2]).followed_by(&[1, 2]),
        ] {
            hashes.insert(format!("{hash:?}"));
            count += 1;
        }
    }
    hashes.extend((0..3).map(|number| format!("{:?}", BlockHash::private_root(number))));
    assert_eq!(hashes.len(), count + 3);
}

#[derive(Clone, Debug)]
enum Act {
    Take { table: usize, content: Option<u32> },
    Share { table: usize, content: u32 },
    Release { table: usize },
    Retract { table: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let (tables, contents) = (0..5usize, 0..12u32);
    let act = prop_oneof![
        4 => (tables.clone(), prop::option::of(contents.clone())).prop_map(|(table, content)| Act::Take { table, content }),
        4 => (tables.clone(), contents).prop_map(|(table, content)| Act::Share { table, content }),
        3 => tables.clone().prop_map(|table| Act::Release { table }),
        1 => tables.prop_map(|table| Act::Retract { table }),
    ];
    prop::collection::vec(act, 0..300)
}

/// The same rules, written down slowly.
#[derive(Debug, Default)]
struct Slow {
    /// What each table holds.
    tables: [Vec<BlockId>; 5],
    /// Where each content is.
    named: BTreeMap<u32, BlockId>,
    /// Free blocks with content, the oldest first.
    idle: Vec<BlockId>,
    evictions: u64,
}

impl Slow {
    fn held(&self, block: BlockId) -> bool {
        self.tables.iter().flatten().any(|held| *held == block)
    }

    fn has_name(&self, block: BlockId) -> bool {
        self.named.values().any(|named| *named == block)
    }

    fn free(&self) -> usize {
        (0..BLOCKS).filter(|block| !self.held(*block)).count()
    }

    /// Notes that the pool gave out `block`, which must have been free, and the oldest if it was idle.
    fn took(&mut self, block: BlockId) {
        assert!(!self.held(block), "block {block} was held and handed out");
        if self.free() > self.idle.len() {
            assert!(!self.has_name(block), "a cached block gave way although others were blank");
            return;
        }
        assert_eq!(self.idle.remove(0), block, "not the oldest gave way");
        self.named.retain(|_, named| *named != block);
        self.evictions += 1;
    }

    fn release(&mut self, table: usize) {
        while let Some(block) = self.tables[table].pop() {
            if !self.held(block) && self.has_name(block) {
                self.idle.push(block);
            }
        }
    }
}

/// The blocks of a table.
fn blocks(table: &mut BlockTable) -> Vec<BlockId> {
    let blocks = table.lend();
    table.restore(blocks.clone());
    blocks
}

fn act(act: Act, pool: &mut BlockPool, tables: &mut [BlockTable], slow: &mut Slow) {
    match act {
        Act::Take { table, content } => {
            let index = tables[table].len();
            let fits = slow.free() > 0;
            assert_eq!(tables[table].grow_to((index + 1) * BLOCK_SIZE, pool), fits);
            if !fits {
                return;
            }
            let block = blocks(&mut tables[table])[index];
            slow.took(block);
            slow.tables[table].push(block);
            if let Some(content) = content {
                tables[table].publish(index, name(content), pool);
                slow.named.entry(content).or_insert(block);
            }
        }
        Act::Share { table, content } => {
            let found = slow.named.get(&content).copied();
            assert_eq!(pool.find(&name(content)), found);
            let Some(block) = found.filter(|block| !slow.tables[table].contains(block)) else { return };
            tables[table].adopt(tables[table].len(), block, pool);
            slow.idle.retain(|idle| *idle != block);
            slow.tables[table].push(block);
        }
        Act::Release { table } => {
            tables[table].release(pool);
            slow.release(table);
        }
        Act::Retract { table } => {
            tables[table].retract(pool);
            let held = slow.tables[table].clone();
            slow.named.retain(|_, block| !held.contains(block));
        }
    }
}

proptest! {
    #[test]
    fn no_held_block_is_handed_out_none_is_lost_and_the_oldest_gives_way(acts in acts()) {
        let mut pool = BlockPool::new(BLOCKS, BLOCK_SIZE);
        let mut tables: Vec<BlockTable> = (0..5).map(|_| BlockTable::default()).collect();
        let mut slow = Slow::default();
        for one in acts {
            act(one, &mut pool, &mut tables, &mut slow);
            prop_assert_eq!(pool.free(), slow.free());
            prop_assert_eq!(pool.idle(), slow.idle.len());
            prop_assert_eq!(pool.evictions(), slow.evictions);
            for (table, held) in tables.iter_mut().zip(&slow.tables) {
                prop_assert_eq!(&blocks(table), held);
            }
            for content in 0..12 {
                prop_assert_eq!(pool.find(&name(content)), slow.named.get(&content).copied());
            }
        }
        tables.iter_mut().for_each(|table| table.release(&mut pool));
        prop_assert_eq!(pool.free(), pool.total());
    }
}
