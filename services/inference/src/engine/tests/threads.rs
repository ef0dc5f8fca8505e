//! The thread around it all, and the task that stands in for it.

use std::time::Duration;

use super::*;

async fn on_a_thread(setup: Setup) -> (EngineHandle, Context) {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let plan = plan(&setup, &context);
    let model = setup.model;
    let started =
        start_thread(plan, places(setup.capacity), &context, move || Ok(Box::new(model))).await.unwrap();
    (started.handle, context)
}

async fn all(generation: Generation) -> Vec<Result<Event, EngineError>> {
    generation.collect().await
}

#[tokio::test]
async fn an_engine_on_its_thread_answers_and_is_idle_again() {
    let (handle, _context) = on_a_thread(Setup::default()).await;
    let generation = handle.generate(request(&[1, 2, 3], 9), None).unwrap();
    assert_eq!(tokens(&all(generation).await), alone(request(&[1, 2, 3], 9)));
    handle.idle().await;
    assert_eq!(handle.status().blocks_free, handle.status().blocks_total);
}

#[tokio::test]
async fn dropping_a_stream_while_the_model_computes_frees_its_blocks() {
    let setup = Setup::default();
    let controls = setup.model.controls();
    let (handle, _context) = on_a_thread(setup).await;
    controls.gate.close();
    let generation = handle.generate(request(&[1; 9], 50), None).unwrap();
    controls.gate.held().await;
    drop(generation);
    let passes = controls.passes();
    controls.gate.open();
    handle.idle().await;
    assert_eq!(handle.status().blocks_free, handle.status().blocks_total);
    assert_eq!(controls.passes(), passes + 1, "only the pass that had begun");
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_an_error_of_the_start() {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let plan = plan(&Setup::default(), &context);
    let error = start_thread(plan, places(1), &context, || Err("no such folder".into())).await.unwrap_err();
    assert!(matches!(error, crate::StartError::Load(_)));
    let plan = super::plan(&Setup::default(), &context);
    let error = start_thread(plan, places(1), &context, || panic!("a bug in a loader")).await.unwrap_err();
    assert!(matches!(error, crate::StartError::Panicked));
}

#[tokio::test]
async fn a_panic_on_the_thread_ends_the_streams_and_refuses_the_next() {
    let setup = Setup::default();
    let controls = setup.model.controls();
    let (handle, context) = on_a_thread(setup).await;
    controls.panic();
    let generation = handle.generate(request(&[1], 4), None).unwrap();
    assert_eq!(all(generation).await, [Err(EngineError::Panicked)]);
    context.health.not_serving().await;
    // The thread drops what it owned a moment after its last answers.
    handle.door_closed().await;
    assert_eq!(handle.generate(request(&[1], 1), None).unwrap_err(), EngineError::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_stepped_engine_lives_in_virtual_time() {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let setup = Setup::default();
    let plan = plan(&setup, &context);
    let pace = Pace { step_time: Duration::from_millis(100), ..Pace::default() };
    let started = start_stepped(plan, places(8), &context, Box::new(setup.model), pace).await.unwrap();
    let began = Instant::now();
    let deadline = began + Duration::from_secs(1);
    let generation = started.handle.generate(request(&[1, 2, 3], 500), Some(deadline)).unwrap();
    let events = all(generation).await;
    assert_eq!(events.last(), Some(&Err(EngineError::Expired)));
    assert!((8..=10).contains(&tokens(&events).len()), "ten steps fit a second: {}", tokens(&events).len());
    assert!(began.elapsed() < Duration::from_millis(1200));
    started.handle.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_gate_lets_through_as_many_steps_as_a_test_wants() {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let setup = Setup::default();
    let (plan, pace) = (plan(&setup, &context), Pace::default());
    let started =
        start_stepped(plan, places(8), &context, Box::new(setup.model), pace.clone()).await.unwrap();
    pace.gate.close();
    let mut generation = started.handle.generate(request(&[1, 2, 3], 50), None).unwrap();
    pace.gate.held().await;
    assert_eq!(heard(&mut generation), []);
    pace.gate.admit(3);
    for _ in 0..1 + 3 {
        assert!(generation.next().await.unwrap().is_ok());
    }
    pace.gate.held().await;
    assert_eq!(heard(&mut generation), []);
}
