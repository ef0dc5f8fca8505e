use std::sync::atomic::{AtomicU32, Ordering};

use crate::kernels::pool::Pool;

#[test]
fn every_item_runs_once_in_every_call() {
    for threads in [1, 2, 5] {
        let mut pool = Pool::new(threads).unwrap();
        for items in [0, 1, 2, 7, 100, 1000] {
            for _ in 0..50 {
                let runs: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                pool.run(items, &|item| {
                    runs[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {items} items"
                );
            }
        }
    }
}

#[test]
fn what_helpers_wrote_is_seen_after_the_call() {
    let mut pool = Pool::new(3).unwrap();
    for call in 0..2000_u32 {
        let cells: Vec<AtomicU32> = (0..8).map(|_| AtomicU32::new(0)).collect();
        pool.run(8, &|item| cells[item].store(call, Ordering::Relaxed));
        assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == call));
    }
}

#[test]
fn a_pool_whose_helpers_sleep_wakes_them() {
    let mut pool = Pool::new(2).unwrap();
    for _ in 0..3 {
        while !pool.is_asleep() {
            std::thread::yield_now();
        }
        let runs = AtomicU32::new(0);
        pool.run(64, &|_| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(runs.into_inner(), 64);
    }
}

#[test]
#[should_panic(expected = "a kernel panicked")]
fn a_panic_in_an_item_reaches_the_caller() {
    Pool::new(2).unwrap().run(16, &|item| assert!(item != 3, "item three"));
}
