//! The pool against naive models of it.

mod shared;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const BLOCK_SIZE: usize = 4;
const BLOCKS: u32 = 24;

#[derive(Clone, Debug)]
enum Act {
    Grow { holder: usize, tokens: usize },
    Release { holder: usize },
    LendAndRestore { holder: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..6usize, 0..60usize).prop_map(|(holder, tokens)| Act::Grow { holder, tokens }),
        2 => (0..6usize).prop_map(|holder| Act::Release { holder }),
        1 => (0..6usize).prop_map(|holder| Act::LendAndRestore { holder }),
    ];
    prop::collection::vec(act, 0..200)
}

/// What the tables hold, and that no block is held twice.
fn held(tables: &mut [BlockTable]) -> BTreeSet<u32> {
    let mut held = BTreeSet::new();
    for table in tables {
        let blocks = table.lend();
        for block in &blocks {
            assert!(*block < BLOCKS, "block {block} does not exist");
            assert!(held.insert(*block), "block {block} is held twice");
        }
        table.restore(blocks);
    }
    held
}

proptest! {
    #[test]
    fn a_block_has_one_holder_and_none_is_lost(acts in acts()) {
        let mut pool = BlockPool::new(BLOCKS, BLOCK_SIZE);
        let mut tables: Vec<BlockTable> = (0..6).map(|_| BlockTable::default()).collect();
        let mut sizes = [0usize; 6];
        for act in acts {
            match act {
                Act::Grow { holder, tokens } => {
                    let needed = tokens.div_ceil(BLOCK_SIZE).max(sizes[holder]);
                    let others: usize = sizes.iter().sum::<usize>() - sizes[holder];
                    let fits = others + needed <= BLOCKS as usize;
                    prop_assert_eq!(tables[holder].grow_to(tokens, &mut pool), fits);
                    if fits { sizes[holder] = needed; }
                }
                Act::Release { holder } => { tables[holder].release(&mut pool); sizes[holder] = 0; }
                Act::LendAndRestore { holder } => {
                    let lent = tables[holder].lend();
                    prop_assert_eq!(lent.len(), sizes[holder]);
                    tables[holder].restore(lent);
                }
            }
            let held = held(&mut tables);
            prop_assert_eq!(held.len(), sizes.iter().sum::<usize>());
            prop_assert_eq!(pool.free() + held.len(), pool.total());
        }
        for table in &mut tables { table.release(&mut pool); }
        prop_assert_eq!(pool.free(), pool.total());
    }
}

#[test]
fn a_table_that_cannot_grow_stays_as_it_is() {
    let mut pool = BlockPool::new(3, BLOCK_SIZE);
    let mut table = BlockTable::default();
    assert!(table.grow_to(5, &mut pool));
    assert!(!table.grow_to(13, &mut pool));
    assert_eq!((table.len(), pool.free()), (2, 1));
}

#[test]
fn growing_within_the_last_block_takes_nothing() {
    let mut pool = BlockPool::new(3, BLOCK_SIZE);
    let mut table = BlockTable::default();
    assert!(table.grow_to(1, &mut pool) && table.grow_to(4, &mut pool));
    assert_eq!(pool.free(), 2);
}
