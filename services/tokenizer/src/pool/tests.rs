use std::sync::{Arc, Barrier, mpsc};

use futures::{FutureExt as _, poll};

use super::Pool;
use crate::{config::PoolConfig, error::Error, metrics::PoolMetrics};

fn pool(threads: usize, queue: usize) -> (Pool, PoolMetrics) {
    let metrics = PoolMetrics::default();
    let config = PoolConfig { threads, queue, inline_bytes: 8 };
    (Pool::start(&config, metrics.clone()).unwrap(), metrics)
}

/// Keeps the pool's only thread busy until the barrier is waited for a second time.
async fn occupy(pool: &Pool) -> (Arc<Barrier>, impl Future<Output = Result<(), Error>>) {
    let barrier = Arc::new(Barrier::new(2));
    let (started, has_started) = tokio::sync::oneshot::channel();
    let busy = {
        let (pool, barrier) = (pool.clone(), Arc::clone(&barrier));
        async move {
            pool.run(move || {
                started.send(()).unwrap();
                barrier.wait();
            })
            .await
        }
    };
    let mut busy = Box::pin(busy);
    assert!(poll!(&mut busy).is_pending());
    has_started.await.unwrap();
    (barrier, busy)
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let (pool, metrics) = pool(1, 1);
    let (release, busy) = occupy(&pool).await;
    let mut waiting = Box::pin(pool.run(|| 7));
    assert!(poll!(&mut waiting).is_pending());
    assert_eq!(metrics.queue_depth.get(), 1);

    let refused = pool.run(|| 8).now_or_never().expect("a refusal waits for nothing");
    assert!(matches!(refused, Err(Error::Busy { queue: 1 })), "{refused:?}");
    assert_eq!(metrics.refused.get(), 1);

    release.wait();
    busy.await.unwrap();
    assert_eq!(waiting.await.unwrap(), 7);
    assert_eq!(metrics.queue_depth.get(), 0);
}

#[tokio::test]
async fn a_job_whose_caller_has_left_is_not_begun() {
    // Two places: the job that nobody waits for may still hold one when the next one comes.
    let (pool, metrics) = pool(1, 2);
    let (release, busy) = occupy(&pool).await;
    let (begun, was_begun) = mpsc::channel();
    let mut waiting = Box::pin(pool.run(move || begun.send(())));
    assert!(poll!(&mut waiting).is_pending());
    drop(waiting);

    release.wait();
    busy.await.unwrap();
    pool.run(|| ()).await.unwrap();
    assert!(was_begun.recv().is_err(), "the job ran for nobody");
    assert_eq!(metrics.queue_depth.get(), 0);
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_thread_lives_on() {
    let (pool, _) = pool(1, 4);
    let panicked = pool.run(|| panic!("as the test wants")).await;
    assert!(matches!(panicked, Err::<(), _>(Error::Panicked)), "{panicked:?}");
    assert_eq!(pool.run(|| 1).await.unwrap(), 1);
}

#[tokio::test]
async fn short_work_stays_on_its_thread_and_long_work_leaves_it() {
    let (pool, _) = pool(1, 4);
    let here = std::thread::current().id();
    let thread = || std::thread::current().id();
    assert_eq!(pool.run_sized(8, thread).await.unwrap(), here);
    assert_ne!(pool.run_sized(9, thread).await.unwrap(), here);
}
