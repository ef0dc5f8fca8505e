//! How likely given tokens are: whole inputs, and prompts of generations.

use super::*;
use crate::sampler::Choice;

/// Runs until the future is done.
pub(super) fn run_with<T>(bench: &mut Bench, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        if let Some(answer) = future.as_mut().now_or_never() {
            return answer;
        }
        assert_eq!(bench.engine.step(), Turn::Worked, "it never ends");
    }
}

fn scores(bench: &mut Bench, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError> {
    let handle = bench.handle.clone();
    run_with(bench, handle.score(inputs.iter().map(|input| input.to_vec()).collect::<Vec<_>>(), None, None))
}

/// What a generation tells of its prompt.
fn told(events: &[Result<Event, EngineError>]) -> Vec<Choice> {
    let pieces = events.iter().filter_map(|event| match event {
        Ok(Event::Prompt(tokens)) => Some(tokens.clone()),
        _ => None,
    });
    pieces.flatten().collect()
}

fn with_prompt(request: Generate, top: usize) -> Generate {
    Generate { prompt_top_logprobs: Some(top), ..request }
}

#[test]
fn each_token_after_the_first_is_scored_whatever_else_is_in_the_batch() {
    let long: Vec<u32> = (0..70).map(|index| index * 13 % 96).collect();
    let mut bench = Bench::new(Setup::default());
    let alone = scores(&mut bench, &[&long]).unwrap();
    let together = scores(&mut bench, &[&[5, 6, 7], &long, &[9]]).unwrap();
    assert_eq!(together[1], alone[0], "chunks of a step of 16 are cut elsewhere");
    assert_eq!(together.iter().map(Vec::len).collect::<Vec<_>>(), [2, 69, 0]);
    assert!(alone[0].iter().all(|logprob| *logprob < 0.0 && *logprob > -20.0));
    assert_eq!(bench.free(), bench.total());
    assert_eq!(bench.count_of(Outcome::Scored), 4);
}

#[test]
fn scores_of_an_output_are_the_log_probabilities_that_it_came_with() {
    let mut bench = Bench::new(Setup::default());
    let mut generation = bench.start(Generate { top_logprobs: Some(0), ..sampled(&[1, 2, 3], 20, 9) });
    bench.run();
    let events = heard(&mut generation);
    let chosen: Vec<f32> = events
        .iter()
        .filter_map(|event| match event {
            Ok(Event::Token { choice, .. }) => choice.logprobs.as_ref().map(|logprobs| logprobs.chosen),
            _ => None,
        })
        .collect();
    let whole = [vec![1, 2, 3], tokens(&events)].concat();
    let scores = scores(&mut bench, &[&whole]).unwrap();
    assert_eq!(scores[0][2..], chosen);
}

#[test]
fn a_prompt_is_told_after_the_start_and_before_the_first_token() {
    let prompt: Vec<u32> = (0..40).map(|index| index * 7 % 96).collect();
    let mut bench = Bench::new(Setup::default());
    let mut generation = bench.start(with_prompt(request(&prompt, 3), 4));
    bench.run();
    let events = heard(&mut generation);
    assert!(matches!(events[0], Ok(Event::Started { .. })));
    assert!(matches!(events[1], Ok(Event::Prompt(_))));
    let told = told(&events);
    assert_eq!(told.iter().map(|token| token.token).collect::<Vec<_>>(), prompt);
    assert_eq!(told[0].logprobs, None, "nothing stands before it");
    let chosen: Vec<f32> = told[1..].iter().map(|token| token.logprobs.as_ref().unwrap().chosen).collect();
    assert_eq!(chosen, scores(&mut bench, &[&prompt]).unwrap()[0]);
    assert!(told[1..].iter().all(|token| token.logprobs.as_ref().unwrap().top.len() == 4));
    assert_eq!(tokens(&events), alone(request(&prompt, 3)), "what follows is the same");
}

#[test]
fn a_long_prompt_is_told_in_pieces_that_fit_the_channel_of_a_reader_who_sleeps() {
    let setup = Setup { blocks: 400, ..Setup::default() };
    let prompt: Vec<u32> = (0..600).map(|index| index % 96).collect();
    let mut bench = Bench::new(setup);
    let mut generation = bench.start(with_prompt(request(&prompt, 5), 0));
    bench.run();
    let events = heard(&mut generation);
    let pieces: Vec<usize> = events
        .iter()
        .filter_map(|event| if let Ok(Event::Prompt(tokens)) = event { Some(tokens.len()) } else { None })
        .collect();
    assert_eq!(pieces, [256, 256, 88]);
    assert_eq!((told(&events).len(), tokens(&events).len()), (600, 5));
}

#[test]
fn a_preempted_prompt_is_told_once_and_whole() {
    // 12 blocks of 4 hold one of the two at their full length.
    let setup = || Setup { blocks: 12, ..Setup::default() };
    let prompts = [[3; 12], [4; 12]];
    let expected = prompts.map(|prompt| {
        let mut bench = Bench::new(setup());
        scores(&mut bench, &[&prompt]).unwrap().remove(0)
    });
    let mut bench = Bench::new(setup());
    let mut generations = prompts.map(|prompt| bench.start(with_prompt(request(&prompt, 30), 0)));
    bench.run();
    assert!(bench.handle.status().preemptions > 0, "the test wants one");
    for (generation, expected) in generations.iter_mut().zip(expected) {
        let told = told(&heard(generation));
        assert_eq!(told.len(), 12);
        let chosen: Vec<f32> =
            told[1..].iter().map(|token| token.logprobs.as_ref().unwrap().chosen).collect();
        assert_eq!(chosen, expected);
    }
}

#[test]
fn a_logit_that_is_not_a_number_fails_the_input_that_it_belongs_to() {
    let mut bench = Bench::new(Setup::default());
    bench.controls.spoil_a_logit();
    let error = scores(&mut bench, &[&[1, 2, 3]]).unwrap_err();
    assert!(matches!(error, EngineError::Sampling(_)), "{error:?}");
    assert_eq!(bench.count_of(Outcome::UnusableOutput), 1);
    assert!(scores(&mut bench, &[&[1, 2, 3]]).is_ok());
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn scores_that_nobody_waits_for_or_whose_time_is_over_free_their_blocks() {
    let mut bench = Bench::new(Setup::default());
    let handle = bench.handle.clone();
    let mut dropped = Box::pin(handle.score(vec![vec![1; 60]], None, None));
    assert!(dropped.as_mut().now_or_never().is_none());
    bench.steps(1);
    assert!(bench.free() < bench.total());
    drop(dropped);
    bench.engine.step();
    assert_eq!(bench.free(), bench.total());
    let past = Instant::now() - std::time::Duration::from_secs(1);
    let expired = handle.score(vec![vec![1; 60]], None, Some(past));
    let mut expired = std::pin::pin!(expired);
    assert!(expired.as_mut().now_or_never().is_none());
    bench.engine.step();
    assert_eq!(expired.now_or_never(), Some(Err(EngineError::Expired)));
}
