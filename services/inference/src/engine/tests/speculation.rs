//! Guesses change how many steps an answer takes, and nothing else.

use proptest::prelude::*;

use super::*;

/// Guesses wherever a token has stood before.
const EAGER: Speculation = Speculation { max_tokens: 4, least_match: 1, max_sequences: 8 };

/// A model that repeats what it said five tokens ago.
fn echo() -> Scripted {
    Scripted::new(VOCABULARY, |history| history[history.len().saturating_sub(5)])
}

/// Events of a request that has an engine to itself, and how many steps they took.
fn said(
    model: Scripted,
    speculation: Speculation,
    request: Generate,
) -> (Vec<Result<Event, EngineError>>, u64) {
    let mut bench = Bench::new(Setup { model, speculation, ..Setup::default() });
    let mut generation = bench.start(request);
    bench.run();
    assert_eq!(bench.free(), bench.total());
    (heard(&mut generation), bench.handle.status().steps)
}

/// Tokens with what is known of each, and the end.
fn told(events: &[Result<Event, EngineError>]) -> String {
    let tells = |event: &&Result<Event, EngineError>| matches!(event, Ok(Event::Token { .. }));
    let tokens: Vec<_> = events.iter().filter(tells).collect();
    let end = events.iter().find_map(|event| match event {
        Ok(Event::Finished(end)) => Some((end.ending, end.prompt_tokens, end.completion_tokens)),
        _ => None,
    });
    format!("{tokens:?} {end:?}")
}

#[test]
fn what_repeats_comes_in_fewer_steps() {
    let request = || Generate { top_logprobs: Some(3), ..request(&[1, 2, 3, 4, 5, 6, 7], 30) };
    let (plainly, steps) = said(echo(), Speculation::default(), request());
    let (guessed, fewer) = said(echo(), EAGER, request());
    assert_eq!(told(&guessed), told(&plainly));
    assert_eq!(tokens(&guessed).len(), 30);
    assert_eq!(steps, 30);
    assert!(fewer <= 12, "{fewer} steps");
}

#[test]
fn what_never_stood_before_takes_a_step_a_token_and_guesses_that_are_wrong_are_counted() {
    let mut bench = Bench::new(Setup { speculation: EAGER, ..Setup::default() });
    let mut generation = bench.start(sampled(&[1, 2, 3], 40, 1));
    bench.run();
    assert_eq!(tokens(&heard(&mut generation)), alone(sampled(&[1, 2, 3], 40, 1)));
    let text = bench.context.metrics.encode();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the metric is there");
        line.trim().parse::<u64>().unwrap()
    };
    let (guessed, right) =
        (value("weft_speculated_tokens_total "), value("weft_speculated_tokens_accepted_total "));
    assert!(guessed > 0 && right < guessed, "{right} of {guessed}");
    assert_eq!(bench.handle.status().generated, 40);
    assert_eq!(bench.handle.status().prefilled, 3);
}

#[test]
fn an_end_among_the_guesses_ends_it() {
    // The prompt holds all that is said, the end too, and what stood behind it.
    let script = vec![10, 11, 12, 13, 14];
    let prompt = [&script[..], &[END, 50, 51, 52]].concat();
    let ending = || {
        let rules = StopRules::new(20, 0, vec![END]);
        Generate { rules, ..request(&prompt, 20) }
    };
    let model = || Scripted::saying(VOCABULARY, script.clone(), END);
    let (plainly, _) = said(model(), Speculation::default(), ending());
    let (guessed, _) = said(model(), EAGER, ending());
    assert_eq!(tokens(&guessed), [10, 11, 12, 13, 14, END]);
    assert_eq!(told(&guessed), told(&plainly));
}

#[test]
fn nothing_is_guessed_while_many_decode() {
    let few = Speculation { max_sequences: 1, ..EAGER };
    let mut bench = Bench::new(Setup { model: echo(), speculation: few, ..Setup::default() });
    let generations =
        [bench.start(request(&[1, 2, 3, 4, 5, 6], 20)), bench.start(request(&[7, 8, 9, 1, 2, 3], 20))];
    bench.run();
    assert_eq!(bench.handle.status().steps, 20);
    drop(generations);
}

#[test]
fn a_model_whose_keys_depend_on_the_length_takes_no_guesses() {
    let mut setup = Setup { speculation: EAGER, ..Setup::default() };
    setup.model.info_mut().keys_depend_on_length = true;
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let plan = plan(&setup, &context);
    let (_sender, inbox) = Inbox::new();
    let Err(error) = Engine::prepare(plan, inbox, Box::new(setup.model)) else { panic!("it was started") };
    assert!(error.to_string().starts_with("speculation.max_tokens is 4"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_request_says_what_it_says_without_guesses(
        prompts in prop::collection::vec((prop::collection::vec(0..9u32, 1..25), 1..20usize, any::<u64>()), 1..6),
        blocks in 12..24u64,
        max_batched_tokens in 4..24usize,
        max_tokens in 1..6usize,
    ) {
        let limits = StepLimits { max_sequences: 4, max_batched_tokens };
        let speculation = Speculation { max_tokens, ..EAGER };
        for echoes in [true, false] {
            let model = || if echoes { echo() } else { Scripted::unsure(VOCABULARY) };
            let mut bench = Bench::new(Setup { model: model(), blocks, limits, speculation, ..Setup::default() });
            let started: Vec<_> = prompts
                .iter()
                .map(|(prompt, tokens, seed)| sampled(prompt, *tokens, *seed))
                .map(|request| (request.clone(), bench.start(request)))
                .collect();
            bench.run();
            prop_assert_eq!(bench.free(), bench.total());
            for (request, mut generation) in started {
                let (plainly, _) = said(model(), Speculation::default(), request);
                prop_assert_eq!(tokens(&heard(&mut generation)), tokens(&plainly));
            }
        }
    }
}
