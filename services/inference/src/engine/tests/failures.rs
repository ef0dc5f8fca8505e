//! What breaks, and what does not break with it.

use super::*;

fn failure(generation: &mut Generation) -> Option<EngineError> {
    heard(generation).pop().and_then(Result::err)
}

fn model_condition(bench: &Bench) -> Option<String> {
    let conditions = bench.context.health.conditions();
    conditions.into_iter().find(|state| state.name == "model").and_then(|state| state.reason)
}

#[test]
fn a_failed_step_costs_its_batch_and_nobody_else() {
    let limits = StepLimits { max_sequences: 1, max_batched_tokens: 16 };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    let (mut first, mut second) = (bench.start(request(&[1; 5], 3)), bench.start(request(&[2; 5], 3)));
    bench.controls.fail(1);
    bench.run();
    let error = failure(&mut first).unwrap();
    assert_eq!(error, EngineError::Step("the model failed in a step: told to fail".to_owned()));
    assert_eq!(tonic::Status::from(error).code(), tonic::Code::Internal);
    assert_eq!(tokens(&heard(&mut second)).len(), 3);
    assert_eq!(bench.free(), bench.total());
    assert_eq!(bench.count_of(Outcome::StepFailed), 1);
    assert_eq!(model_condition(&bench), None, "one failure is no reason to be unready");
}

#[tokio::test(start_paused = true)]
async fn steps_that_keep_failing_make_it_unready_until_a_step_of_its_own_succeeds() {
    let mut bench = Bench::new(Setup::default());
    bench.controls.fail(4);
    for _ in 0..3 {
        let _generation = bench.start(request(&[1], 1));
        bench.engine.step();
    }
    assert!(model_condition(&bench).unwrap().contains("3 steps in a row failed"));
    assert_eq!(bench.engine.step(), Turn::Idle);
    assert!(bench.engine.wait().await, "the first try of its own fails too");
    assert!(model_condition(&bench).unwrap().contains("4 steps in a row failed"));
    assert!(bench.engine.wait().await);
    assert_eq!(model_condition(&bench), None);
    let mut generation = bench.start(request(&[1], 2));
    bench.run();
    assert_eq!(tokens(&heard(&mut generation)).len(), 2);
}

#[test]
fn a_logit_that_is_not_a_number_fails_its_own_sequence_alone() {
    let mut bench = Bench::new(Setup::default());
    let (mut first, mut second) = (bench.start(request(&[1; 3], 4)), bench.start(request(&[2; 3], 4)));
    bench.controls.spoil_a_logit();
    bench.run();
    assert_eq!(failure(&mut first), Some(crate::sampler::SamplingError::NotANumber.into()));
    assert_eq!(tokens(&heard(&mut second)), alone(request(&[2; 3], 4)));
    assert_eq!(bench.count_of(Outcome::UnusableOutput), 1);
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn a_panic_answers_everybody_and_ends_the_engine() {
    let limits = StepLimits { max_sequences: 1, max_batched_tokens: 16 };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    let (mut runs, mut waits) = (bench.start(request(&[1; 3], 4)), bench.start(request(&[2; 3], 4)));
    bench.controls.panic();
    assert_eq!(bench.engine.guarded_step(), Turn::Stopped);
    assert_eq!(failure(&mut runs), Some(EngineError::Panicked), "it may be the cause: no retry");
    assert_eq!(failure(&mut waits), Some(EngineError::Gone), "another replica may be asked");
    assert!(model_condition(&bench).unwrap().contains("told to panic"));
    assert!(bench.context.failure.reason().unwrap().contains("told to panic"), "the process must not linger");
    drop(bench.engine);
    assert_eq!(bench.handle.generate(request(&[1], 1), None).unwrap_err(), EngineError::Gone);
}

#[test]
fn a_stop_answers_everybody() {
    let limits = StepLimits { max_sequences: 1, max_batched_tokens: 16 };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    let (mut runs, mut waits) = (bench.start(request(&[1; 3], 4)), bench.start(request(&[2; 3], 4)));
    bench.steps(1);
    bench.handle.stop();
    let mut late = bench.start(request(&[3; 3], 4));
    assert_eq!(bench.engine.step(), Turn::Stopped);
    for generation in [&mut runs, &mut waits, &mut late] {
        assert_eq!(failure(generation), Some(EngineError::Stopping));
    }
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn a_stream_whose_engine_vanished_ends_with_an_error() {
    let bench = Bench::new(Setup::default());
    let mut generation = bench.start(request(&[1], 1));
    drop(bench.engine);
    assert_eq!(failure(&mut generation), Some(EngineError::Gone));
}

#[test]
fn a_cache_that_is_too_small_is_refused_with_its_numbers() {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let setup = Setup { blocks: 1, ..Setup::default() };
    let plan = plan(&setup, &context);
    let error = Engine::prepare(plan, Inbox::new().1, Box::new(setup.model)).err().unwrap().to_string();
    assert!(error.contains("kv_cache.memory = 4096 bytes"), "{error}");
}

#[test]
fn a_model_that_fails_its_first_step_does_not_start() {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let setup = Setup::default();
    setup.model.controls().fail(1);
    let plan = plan(&setup, &context);
    let error = Engine::prepare(plan, Inbox::new().1, Box::new(setup.model)).err().unwrap();
    assert!(matches!(error, crate::StartError::WarmUp(_)), "{error}");
    assert!(context.health.conditions().iter().any(|state| state.name == "model" && state.reason.is_some()));
}
