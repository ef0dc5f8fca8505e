//! What requests share, and that nobody can tell from an answer.

use proptest::prelude::*;

use super::*;

/// A prompt of whole blocks and a bit more, with an end of its own.
fn prompt(end: u32) -> Vec<u32> {
    (1..=5 * BLOCK_SIZE as u32 + 1).chain([end]).collect()
}

/// Whole blocks of that prompt: what another request with the same beginning can take over.
const SHARED: usize = 5 * BLOCK_SIZE;

fn finished(events: &[Result<Event, EngineError>]) -> Vec<Finished> {
    let finished = |event: &Result<Event, EngineError>| match event {
        Ok(Event::Finished(finished)) => Some(finished.clone()),
        _ => None,
    };
    events.iter().filter_map(finished).collect()
}

fn tokens_of(events: &[Result<Event, EngineError>], continuation: usize) -> Vec<u32> {
    let token = |event: &Result<Event, EngineError>| match event {
        Ok(Event::Token { index, choice }) if *index == continuation => Some(choice.token),
        _ => None,
    };
    events.iter().filter_map(token).collect()
}

/// Runs a request to its end: rows that were computed, events.
fn answered(bench: &mut Bench, request: Generate) -> (u64, Vec<Result<Event, EngineError>>) {
    let before = bench.controls.rows();
    let mut generation = bench.start(request);
    bench.run();
    (bench.controls.rows() - before, heard(&mut generation))
}

#[test]
fn a_prefix_that_was_computed_once_is_not_computed_again_and_changes_nothing() {
    let mut bench = Bench::new(Setup::default());
    let (cold, _) = answered(&mut bench, sampled(&prompt(80), 9, 1));
    let (warm, events) = answered(&mut bench, sampled(&prompt(81), 9, 2));
    assert_eq!(cold - warm, SHARED as u64);
    assert_eq!(tokens(&events), alone(sampled(&prompt(81), 9, 2)));
    let end = &finished(&events)[0];
    assert_eq!((end.prompt_tokens, end.cached_prompt_tokens), (SHARED + 2, SHARED));
    let status = bench.handle.status();
    let counts = (status.prefix.queried_tokens, status.prefix.hit_tokens);
    assert_eq!(counts, (2 * (SHARED as u64 + 2), SHARED as u64));
    assert_eq!(status.blocks_free, status.blocks_total, "what is cached counts as free");
    let page = bench.context.metrics.encode();
    for line in ["weft_prefix_queried_tokens_total 44", "weft_prefix_hit_tokens_total 20"] {
        assert!(page.contains(line), "{line} is missing in:\n{page}");
    }
}

#[test]
fn the_last_token_of_a_prompt_is_always_computed() {
    let mut bench = Bench::new(Setup::default());
    let whole_blocks = &prompt(0)[..SHARED];
    answered(&mut bench, request(whole_blocks, 1));
    let (rows, events) = answered(&mut bench, request(whole_blocks, 1));
    assert_eq!(rows, BLOCK_SIZE as u64, "its block is shared only as a whole");
    assert_eq!(tokens(&events), alone(request(whole_blocks, 1)));
}

#[test]
fn a_conversation_goes_on_from_what_was_generated() {
    let mut bench = Bench::new(Setup::default());
    let first = prompt(80);
    let (_, events) = answered(&mut bench, request(&first, 21));
    let second = [&first[..], &tokens(&events), &[7, 8, 9]].concat();
    let (rows, events) = answered(&mut bench, request(&second, 1));
    // 22 tokens of prompt and all but the last of 21 generated ones are in the cache: ten whole blocks.
    assert_eq!(rows, (second.len() - 10 * BLOCK_SIZE) as u64);
    assert_eq!(tokens(&events), alone(request(&second, 1)));
}

#[test]
fn equal_prefixes_that_arrive_together_are_computed_once() {
    let limits = StepLimits { max_sequences: 8, max_batched_tokens: 512 };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    let before = bench.controls.rows();
    let mut generations: Vec<Generation> =
        (0..8).map(|end| bench.start(request(&prompt(60 + end), 1))).collect();
    bench.steps(2);
    assert_eq!(bench.controls.rows() - before, (SHARED + 8 * 2) as u64);
    for (end, generation) in generations.iter_mut().enumerate() {
        assert_eq!(tokens(&heard(generation)), alone(request(&prompt(60 + end as u32), 1)));
    }
}

#[test]
fn whoever_waits_for_a_prefix_computes_it_where_the_other_goes_away() {
    let limits = StepLimits { max_sequences: 8, max_batched_tokens: 9 };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    let first = bench.start(request(&prompt(60), 1));
    let mut second = bench.start(request(&prompt(61), 1));
    bench.steps(1);
    drop(first);
    bench.run();
    let events = heard(&mut second);
    assert_eq!(tokens(&events), alone(request(&prompt(61), 1)));
    assert_eq!(finished(&events)[0].cached_prompt_tokens, 2 * BLOCK_SIZE, "the two blocks that were done");
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn another_salt_is_as_good_as_another_prompt() {
    let with = |salt: &str, end: u32| Generate { cache_salt: salt.to_owned(), ..request(&prompt(end), 3) };
    let rows_after = |first: Generate| {
        let mut bench = Bench::new(Setup::default());
        answered(&mut bench, first);
        let passes = bench.controls.passes();
        let (rows, events) = answered(&mut bench, with("a", 80));
        (rows, bench.controls.passes() - passes, finished(&events)[0].cached_prompt_tokens)
    };
    let foreign = rows_after(with("b", 80));
    let unrelated = rows_after(Generate { cache_salt: "b".to_owned(), ..request(&[90; 22], 3) });
    assert_eq!(foreign, unrelated, "rows, steps and what the caller is told");
    assert_eq!(rows_after(with("a", 80)).2, SHARED, "the same salt finds it");
}

#[test]
fn without_prefix_caching_nothing_is_shared_between_requests() {
    let mut bench = Bench::new(Setup { prefix_caching: false, ..Setup::default() });
    let (cold, _) = answered(&mut bench, request(&prompt(80), 3));
    let (again, events) = answered(&mut bench, request(&prompt(80), 3));
    assert_eq!(cold, again);
    assert_eq!(finished(&events)[0].cached_prompt_tokens, 0);
    assert_eq!(bench.handle.status().prefix, Default::default());
}

#[test]
fn a_model_whose_keys_depend_on_the_length_shares_nothing() {
    let mut setup = Setup::default();
    setup.model.info_mut().keys_depend_on_length = true;
    let mut bench = Bench::new(setup);
    let (cold, _) = answered(&mut bench, request(&prompt(80), 3));
    let (again, _) = answered(&mut bench, request(&prompt(80), 3));
    assert_eq!(cold, again);
}

#[tokio::test]
async fn an_embedding_takes_nothing_from_the_cache_and_leaves_nothing_there() {
    let mut bench = Bench::new(Setup::default());
    answered(&mut bench, request(&prompt(80), 1));
    let handle = bench.handle.clone();
    let mut vectors = Vec::new();
    for input in [prompt(80), vec![9; 20]] {
        let before = bench.controls.rows();
        let mut embed = std::pin::pin!(handle.embed(vec![input.clone()], None));
        assert!(embed.as_mut().now_or_never().is_none());
        bench.run();
        vectors.push(embed.as_mut().now_or_never().unwrap().unwrap());
        assert_eq!(bench.controls.rows() - before, input.len() as u64, "a mean needs every row");
    }
    let (rows, _) = answered(&mut bench, request(&[9; 20], 1));
    assert_eq!(rows, 20);
}

#[test]
fn what_a_failed_step_has_computed_is_found_by_nobody() {
    let mut bench = Bench::new(Setup::default());
    bench.controls.fail(1);
    answered(&mut bench, request(&prompt(80), 1));
    let (rows, events) = answered(&mut bench, request(&prompt(80), 1));
    assert_eq!(rows, prompt(80).len() as u64);
    assert_eq!(tokens(&events), alone(request(&prompt(80), 1)));
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn a_sequence_with_unusable_logits_takes_its_blocks_with_it() {
    let mut bench = Bench::new(Setup::default());
    bench.controls.spoil_a_logit();
    answered(&mut bench, request(&prompt(80), 1));
    let (rows, _) = answered(&mut bench, request(&prompt(80), 1));
    assert_eq!(rows, prompt(80).len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_engines_own_spoils_no_cached_block() {
    let mut bench = Bench::new(Setup::default());
    let (_, events) = answered(&mut bench, request(&prompt(80), 3));
    bench.controls.fail(3);
    for end in 60..63 {
        answered(&mut bench, request(&[end; 3], 1));
    }
    assert!(bench.engine.wait().await, "it tries by itself");
    let (rows, again) = answered(&mut bench, request(&prompt(80), 3));
    assert_eq!(rows, 2 + 2, "the prefix was still there");
    assert_eq!(tokens(&again), tokens(&events));
}

#[test]
fn continuations_share_a_prompt_and_nothing_else() {
    for prefix_caching in [true, false] {
        let mut bench = Bench::new(Setup { prefix_caching, ..Setup::default() });
        let four = Generate { continuations: 4, ..sampled(&prompt(80), 12, 3) };
        let (rows, events) = answered(&mut bench, four);
        let each = (2 + 12 - 1) as u64;
        assert_eq!(rows, SHARED as u64 + 4 * each, "whole blocks of the prompt are computed once");
        assert_eq!(tokens_of(&events, 0), alone(sampled(&prompt(80), 12, 3)), "the first is as if alone");
        for index in 1..4 {
            assert_eq!(tokens_of(&events, index).len(), 12);
            for other in 0..index {
                assert_ne!(tokens_of(&events, index), tokens_of(&events, other));
            }
        }
        let starts = events.iter().filter(|event| matches!(event, Ok(Event::Started { .. }))).count();
        assert_eq!(starts, 1);
        let mut ended: Vec<usize> = finished(&events).iter().map(|finished| finished.index).collect();
        ended.sort_unstable();
        assert_eq!(ended, [0, 1, 2, 3]);
        assert!(finished(&events).iter().all(|finished| finished.completion_tokens == 12));
        assert_eq!(bench.free(), bench.total());
    }
}

#[test]
fn a_prompt_that_is_to_be_judged_is_computed_whole_and_told_once() {
    let mut bench = Bench::new(Setup::default());
    answered(&mut bench, request(&prompt(80), 1));
    let judged = Generate { prompt_top_logprobs: Some(0), continuations: 3, ..request(&prompt(80), 4) };
    let (rows, events) = answered(&mut bench, judged);
    assert_eq!(
        rows,
        (SHARED + 3 * (2 + 3)) as u64,
        "the first computes every row, the others what is their own"
    );
    let told = events.iter().filter_map(|event| match event {
        Ok(Event::Prompt(tokens)) => Some(tokens.iter().filter(|token| token.logprobs.is_some()).count()),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [SHARED + 1]);
    assert!(matches!(events[..2], [Ok(Event::Started { .. }), Ok(Event::Prompt(_))]));
}

#[test]
fn each_continuation_takes_a_place() {
    let mut bench = Bench::new(Setup { capacity: 4, ..Setup::default() });
    let three = Generate { continuations: 3, ..request(&[1], 2) };
    let _held = bench.start(three.clone());
    let refused = bench.handle.generate(three.clone(), None).unwrap_err();
    assert!(matches!(refused, EngineError::QueueFull { held: 3, capacity: 4, .. }), "{refused:?}");
    bench.run();
    assert!(bench.handle.generate(three, None).is_ok());
}

#[test]
fn a_dropped_generation_drops_all_its_continuations() {
    let mut bench = Bench::new(Setup::default());
    let generation = bench.start(Generate { continuations: 3, ..request(&prompt(80), 50) });
    let mut other = bench.start(request(&prompt(81), 9));
    bench.steps(4);
    drop(generation);
    bench.steps(1);
    assert_eq!(bench.handle.status().running, 1);
    assert_eq!(bench.count_of(Outcome::Aborted), 3);
    bench.run();
    assert_eq!(tokens(&heard(&mut other)), alone(request(&prompt(81), 9)));
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn an_error_of_one_continuation_ends_the_generation() {
    let mut bench = Bench::new(Setup::default());
    let mut generation = bench.start(Generate { continuations: 3, ..sampled(&prompt(80), 50, 1) });
    bench.steps(4);
    bench.controls.spoil_a_logit();
    bench.steps(1);
    let events = heard(&mut generation);
    assert!(matches!(events.last(), Some(Err(EngineError::Sampling(_)))), "{:?}", events.last());
    assert_eq!(bench.engine.step(), Turn::Idle, "the others have nobody to speak to");
    assert_eq!(bench.free(), bench.total());
}

#[derive(Clone, Debug)]
enum Act {
    Start { family: u32, length: usize, tokens: usize, seed: u64, continuations: usize, salt: bool },
    Drop { which: usize },
    Fail,
    Step,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let start = (0..3u32, 1..25usize, 1..12usize, any::<u64>(), 1..4usize, any::<bool>());
    let act = prop_oneof![
        6 => start.prop_map(|(family, length, tokens, seed, continuations, salt)| {
            Act::Start { family, length, tokens, seed, continuations, salt }
        }),
        2 => any::<usize>().prop_map(|which| Act::Drop { which }),
        1 => Just(Act::Fail),
        12 => Just(Act::Step),
    ];
    prop::collection::vec(act, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_is_shared_dropped_preempted_or_failed_answers_are_the_same_and_all_blocks_come_home(
        acts in acts(),
        blocks in 12..24u64,
        max_batched_tokens in 4..24usize,
    ) {
        let limits = StepLimits { max_sequences: 4, max_batched_tokens };
        let mut bench = Bench::new(Setup { blocks, limits, ..Setup::default() });
        let mut started: Vec<(Generate, Option<Generation>)> = Vec::new();
        for act in acts {
            match act {
                Act::Start { family, length, tokens, seed, continuations, salt } => {
                    let prompt: Vec<u32> = (0..length as u32).map(|at| (at * at + family / 2) % 90).collect();
                    let cache_salt = if salt { "salt".to_owned() } else { String::new() };
                    let request = Generate { continuations, cache_salt, ..sampled(&prompt, tokens, seed) };
                    let Ok(generation) = bench.handle.generate(request.clone(), None) else { continue };
                    started.push((request, Some(generation)));
                }
                Act::Drop { which } => {
                    let count = started.len().max(1);
                    if let Some((_, generation)) = started.get_mut(which % count) { *generation = None; }
                }
                Act::Fail => bench.controls.fail(1),
                Act::Step => { bench.engine.step(); }
            }
        }
        bench.controls.fail(0);
        bench.run();
        prop_assert_eq!(bench.free(), bench.total());
        for (request, generation) in started {
            let Some(mut generation) = generation else { continue };
            let events = heard(&mut generation);
            let expected = alone(Generate { continuations: 1, ..request });
            if events.last().is_some_and(Result::is_ok) {
                prop_assert_eq!(tokens_of(&events, 0), expected);
            } else {
                // A failed step took it away: what was said until then is right all the same.
                prop_assert!(expected.starts_with(&tokens_of(&events, 0)));
            }
        }
    }
}
