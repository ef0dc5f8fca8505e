//! What was begun elsewhere ends here as it would have ended there.

use super::{
    constrained::{grammar, keeping_to},
    *,
};
use crate::{constraint::GuideError, resumption::Resumption};

/// Everything of a request that has an engine to itself, without what depends on time.
fn whole(request: Generate) -> Vec<Event> {
    let mut bench = Bench::new(Setup::default());
    let mut generation = bench.start(request);
    bench.run();
    assert_eq!(bench.free(), bench.total());
    let timeless = |event| match event {
        Event::Finished(finished) => Event::Finished(Finished { timings: Timings::default(), ..finished }),
        Event::Started { prompt_tokens, seed, cached_prompt_tokens, .. } => {
            Event::Started { prompt_tokens, seed, cached_prompt_tokens, waited: Waited::default() }
        }
        other => other,
    };
    heard(&mut generation).into_iter().map(|event| timeless(event.unwrap())).collect()
}

fn behind(said: &[u32], request: &Generate) -> Generate {
    let resumption = Resumption { said: said.to_vec(), ..Resumption::default() };
    Generate { resumption: Some(resumption), ..request.clone() }
}

/// Takes a request up behind each of its tokens, the last included, and expects the rest of it each time.
fn goes_on_anywhere(request: &Generate) {
    let undisturbed = whole(request.clone());
    let said = tokens(&undisturbed.iter().cloned().map(Ok).collect::<Vec<_>>());
    assert_eq!(said.len() + 2, undisturbed.len(), "a start, tokens and an end");
    for cut in 1..=said.len() {
        let resumed = whole(behind(&said[..cut], request));
        assert_eq!(resumed[0], undisturbed[0], "the start of what goes on behind {cut} tokens");
        assert_eq!(resumed[1..], undisturbed[1 + cut..], "behind {cut} of {} tokens", said.len());
    }
}

#[test]
fn a_greedy_generation_goes_on_with_the_same_tokens() {
    goes_on_anywhere(&request(&[4, 5, 6, 7, 8], 20));
}

#[test]
fn a_sampled_one_goes_on_with_its_penalties_logprobs_and_lengths() {
    let asked = sampled(&[4, 5, 6, 7, 8], 24, 9);
    let params = SamplingParams {
        repetition_penalty: 1.3,
        frequency_penalty: 0.7,
        presence_penalty: -0.4,
        ..asked.params.clone()
    };
    // Half of all tokens end it, but not before the twelfth.
    let rules = StopRules::new(24, 12, (0..VOCABULARY as u32 / 2).collect());
    goes_on_anywhere(&Generate { params, rules, top_logprobs: Some(3), ..asked });
}

#[test]
fn one_that_keeps_to_a_grammar_goes_on_where_it_stood_in_it() {
    let grammar = grammar("[a-f]{3,9}-[0-9]{2,9}(x|yz){1,3}");
    for seed in 0..4 {
        goes_on_anywhere(&keeping_to(&grammar, sampled(&[1, 7], 40, seed)));
    }
}

#[test]
fn what_does_not_keep_to_its_grammar_is_refused() {
    let mut bench = Bench::new(Setup::default());
    let asked = keeping_to(&grammar("abc"), request(&[1], 10));
    let id = |letter: u8| u32::from(letter - b'!');
    for said in [vec![id(b'b')], vec![id(b'a'), id(b'b'), id(b'c'), id(b'a')]] {
        let mut generation = bench.start(behind(&said, &asked));
        bench.run();
        let error = heard(&mut generation).pop().unwrap().unwrap_err();
        assert_eq!(error, EngineError::Guide(GuideError::NotFollowed), "{said:?}");
        assert_eq!(tonic::Status::from(error).code(), tonic::Code::InvalidArgument);
    }
}

#[test]
fn each_of_several_continuations_goes_on_with_its_own_random_stream() {
    let asked = Generate { continuations: 3, ..sampled(&[1, 2], 20, 8) };
    let events = whole(asked.clone());
    for wanted in 0..3 {
        let own = |event: &&Event| matches!(event, Event::Token { index, .. } if *index == wanted);
        let said = tokens(&events.iter().filter(own).cloned().map(Ok).collect::<Vec<_>>());
        let resumption = Resumption { said: said[..7].to_vec(), index: wanted, ..Resumption::default() };
        let request = Generate { continuations: 1, resumption: Some(resumption), ..asked.clone() };
        assert_eq!(alone(request), said[7..], "continuation {wanted}");
    }
}

#[test]
fn it_goes_on_also_where_blocks_are_short() {
    let mut bench = Bench::new(Setup { blocks: 14, ..Setup::default() });
    let asked = |index: u32| sampled(&[index, 4, 5], 30, u64::from(index));
    let mut generations: Vec<(Vec<u32>, Generation)> = (0..4)
        .map(|index| {
            let said = alone(asked(index));
            let resumed = bench.start(behind(&said[..9], &asked(index)));
            (said, resumed)
        })
        .collect();
    bench.run();
    assert!(bench.handle.status().preemptions > 0, "blocks were never short");
    for (said, generation) in &mut generations {
        assert_eq!(tokens(&heard(generation)), said[9..]);
    }
}
