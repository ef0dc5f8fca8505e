//! The sampler against the formulae, computed slowly in f64.

use proptest::prelude::*;

use super::*;

fn sorted(ids: &[usize]) -> Vec<usize> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

fn params() -> SamplingParams {
    SamplingParams { temperature: 1.0, seed: 7, ..SamplingParams::greedy() }
}

fn choose(logits: &[f32], params: SamplingParams, position: usize) -> Result<Choice, SamplingError> {
    let mut chooser = Chooser::new(params, None, &[]);
    Sampler::default().choose(&mut logits.to_vec(), &mut chooser, Allowed::default(), position)
}

fn forbids(forbidden: &[u32]) -> Allowed<'_> {
    Allowed { forbidden, mask: None }
}

fn token(logits: &[f32], params: SamplingParams, position: usize) -> u32 {
    choose(logits, params, position).unwrap().token
}

/// The probabilities that temperature, top-k, top-p and min-p leave, as their definitions say.
fn expected(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| (f64::from(logit - highest) / f64::from(params.temperature)).exp();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap().then(a.cmp(b)));
    if params.top_k > 0 {
        order.truncate(params.top_k);
    }
    let total: f64 = order.iter().map(|id| weight(logits[*id])).sum();
    let mut kept = Vec::new();
    let mut mass = 0.0;
    for id in order {
        if mass >= f64::from(params.top_p) * total || weight(logits[id]) < f64::from(params.min_p) {
            break;
        }
        mass += weight(logits[id]);
        kept.push(id);
    }
    let mut probabilities = vec![0.0; logits.len()];
    kept.iter().for_each(|id| probabilities[*id] = weight(logits[*id]) / mass);
    probabilities
}

/// Draws often, and compares the frequencies with the expected probabilities: none is off by more than five standard
/// deviations, and what is impossible never comes.
fn check_frequencies(logits: &[f32], params: SamplingParams) {
    const DRAWS: usize = 40_000;
    let expected = expected(logits, &params);
    let mut counts = vec![0usize; logits.len()];
    let mut chooser = Chooser::new(params, None, &[]);
    let mut sampler = Sampler::default();
    for position in 0..DRAWS {
        let choice =
            sampler.choose(&mut logits.to_vec(), &mut chooser, Allowed::default(), position).unwrap();
        counts[choice.token as usize] += 1;
    }
    for (id, (count, probability)) in counts.iter().zip(&expected).enumerate() {
        if *probability == 0.0 {
            assert_eq!(*count, 0, "token {id} is impossible");
            continue;
        }
        let deviation = (probability * (1.0 - probability) / DRAWS as f64).sqrt();
        let off = (*count as f64 / DRAWS as f64 - probability).abs();
        assert!(
            off <= 5.0 * deviation + 1e-9,
            "token {id}: {count} of {DRAWS} draws, expected {probability}"
        );
    }
}

const LOGITS: [f32; 9] = [0.3, 2.0, -1.0, 2.0, 1.2, f32::NEG_INFINITY, 0.0, -3.0, 1.9];

#[test]
fn plain_sampling_follows_the_softmax() {
    check_frequencies(&LOGITS, params());
}

#[test]
fn temperature_divides_the_logits() {
    check_frequencies(&LOGITS, SamplingParams { temperature: 0.5, ..params() });
    check_frequencies(&LOGITS, SamplingParams { temperature: 3.0, ..params() });
}

#[test]
fn top_k_keeps_the_k_likeliest_and_of_equals_the_lowest_id() {
    check_frequencies(&LOGITS, SamplingParams { top_k: 3, ..params() });
    check_frequencies(&LOGITS, SamplingParams { top_k: 1, ..params() });
    check_frequencies(&LOGITS, SamplingParams { top_k: 100, ..params() });
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_it() {
    check_frequencies(&LOGITS, SamplingParams { top_p: 0.6, ..params() });
    check_frequencies(&LOGITS, SamplingParams { top_p: 1e-6, ..params() });
    check_frequencies(&LOGITS, SamplingParams { top_p: 0.8, top_k: 4, temperature: 1.5, ..params() });
}

#[test]
fn min_p_drops_what_is_far_less_likely_than_the_likeliest() {
    check_frequencies(&LOGITS, SamplingParams { min_p: 0.3, ..params() });
    check_frequencies(&LOGITS, SamplingParams { min_p: 0.3, top_p: 0.95, ..params() });
    check_frequencies(&LOGITS, SamplingParams { min_p: 1.0, ..params() });
}

#[test]
fn a_large_vocabulary_is_cut_where_the_formula_says() {
    // Flat enough that the nucleus outgrows the first prefixes that are searched.
    let logits: Vec<f32> = (0..3000).map(|id| ((id * 7919) % 3000) as f32 / 1000.0).collect();
    for params in [
        SamplingParams { top_p: 0.9, ..params() },
        SamplingParams { top_p: 0.2, ..params() },
        SamplingParams { top_k: 100, top_p: 0.5, ..params() },
        SamplingParams { top_k: 1000, ..params() },
        SamplingParams { top_k: 1000, top_p: 0.9, min_p: 0.7, ..params() },
    ] {
        let possible = expected(&logits, &params);
        for position in 0..500 {
            let token = token(&logits, params.clone(), position);
            assert!(possible[token as usize] > 0.0, "{token} is outside the nucleus of {params:?}");
        }
    }
}

#[test]
fn greedy_takes_the_lowest_id_of_the_likeliest() {
    assert_eq!(token(&LOGITS, SamplingParams { temperature: 0.0, ..params() }, 0), 1);
    let mut logits = vec![0.0; 1000];
    logits[999] = 1.0;
    logits[321] = 1.0;
    assert_eq!(token(&logits, SamplingParams { temperature: 0.0, ..params() }, 0), 321);
}

#[test]
fn a_logit_that_is_not_a_number_is_an_error_wherever_it_stands() {
    for at in [0, 8, 15, 16, 17, 40] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut logits = vec![0.5; 41];
            logits[at] = bad;
            for temperature in [0.0, 1.0] {
                let outcome = choose(&logits, SamplingParams { temperature, ..params() }, 0);
                assert_eq!(outcome, Err(SamplingError::NotANumber), "{bad} at {at}");
            }
        }
    }
}

#[test]
fn nothing_is_possible_where_every_logit_is_minus_infinity() {
    let outcome = choose(&[f32::NEG_INFINITY; 20], params(), 0);
    assert_eq!(outcome, Err(SamplingError::NothingPossible));
}

#[test]
fn penalties_and_bias_change_the_logits_as_their_formulae_say() {
    let params = SamplingParams {
        temperature: 0.0,
        repetition_penalty: 2.0,
        frequency_penalty: 0.25,
        presence_penalty: 0.5,
        logit_bias: vec![(5, -1.0), (1, 0.5)],
        ..params()
    };
    let said = {
        let mut said = edits::Said::new(&params, &[0, 1]);
        [1, 1, 3].into_iter().for_each(|token| said.note(token));
        said
    };
    let mut logits = vec![1.0, 2.5, -1.0, -1.0, 0.0, 4.0, 7.0];
    let untouched = logits.clone();
    let mut edits = Edits::default();
    assert!(edits.apply(&mut logits, &params, &said, &[6]));
    let expected = [
        1.0 / 2.0,                            // in the prompt: repetition only
        (2.5 + 0.5) / 2.0 - 2.0 * 0.25 - 0.5, // bias, then repetition, said twice
        -1.0,                                 // never seen
        -2.0 - 0.25 - 0.5,                    // said once, negative: multiplied
        0.0,                                  // never seen
        4.0 - 1.0,                            // bias only
        f32::NEG_INFINITY,                    // forbidden
    ];
    assert_eq!(logits, expected);
    edits.undo(&mut logits);
    assert_eq!(logits, untouched);
}

#[test]
fn a_forbidden_token_is_never_chosen() {
    let mut chooser = Chooser::new(SamplingParams { temperature: 0.0, ..params() }, None, &[]);
    let choice = Sampler::default().choose(&mut LOGITS.to_vec(), &mut chooser, forbids(&[1, 3]), 0).unwrap();
    assert_eq!(choice.token, 8);
}

#[test]
fn repetition_is_remembered_from_token_to_token() {
    let params = SamplingParams { temperature: 0.0, presence_penalty: 1.0, ..params() };
    let mut chooser = Chooser::new(params, None, &[]);
    let mut sampler = Sampler::default();
    let mut next = |position| {
        sampler.choose(&mut [1.0, 1.5, 0.8], &mut chooser, Allowed::default(), position).unwrap().token
    };
    // 1.5, then 1.0 against 0.5, then 0.8 against 0.0 and 0.5, then 1.5 - 1 = 0.5 again.
    assert_eq!([next(0), next(1), next(2), next(3)], [1, 0, 2, 1]);
}

#[test]
fn logprobs_are_those_of_the_unmodified_distribution() {
    let params = SamplingParams { temperature: 0.0, logit_bias: vec![(2, 50.0)], ..params() };
    let mut chooser = Chooser::new(params, Some(3), &[]);
    let choice =
        Sampler::default().choose(&mut LOGITS.to_vec(), &mut chooser, Allowed::default(), 0).unwrap();
    assert_eq!(choice.token, 2);
    let total: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
    let logprob = |id: usize| (f64::from(LOGITS[id]) - total.ln()) as f32;
    let logprobs = choice.logprobs.unwrap();
    assert!((logprobs.chosen - logprob(2)).abs() < 1e-5);
    let ids: Vec<u32> = logprobs.top.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 3, 8]);
    assert!(logprobs.top.iter().all(|(id, found)| (found - logprob(*id as usize)).abs() < 1e-5));
}

#[test]
fn logprobs_of_none_of_the_likeliest_are_that_of_the_chosen_alone() {
    let mut chooser = Chooser::new(params(), Some(0), &[]);
    let choice =
        Sampler::default().choose(&mut LOGITS.to_vec(), &mut chooser, Allowed::default(), 0).unwrap();
    assert!(choice.logprobs.is_some_and(|logprobs| logprobs.top.is_empty()));
}

#[test]
fn what_is_drawn_depends_on_seed_and_position_alone() {
    let logits: Vec<f32> = (0..500).map(|id| (id % 17) as f32 / 10.0).collect();
    let forward: Vec<u32> = (0..50).map(|position| token(&logits, params(), position)).collect();
    let mut chooser = Chooser::new(params(), None, &[]);
    let mut sampler = Sampler::default();
    let mut at = |position| {
        sampler.choose(&mut logits.clone(), &mut chooser, Allowed::default(), position).unwrap().token
    };
    let backward: Vec<u32> = (0..50).rev().map(&mut at).collect();
    assert!(forward.iter().eq(backward.iter().rev()));
    let other_seed: Vec<u32> =
        (0..50).map(|position| token(&logits, SamplingParams { seed: 8, ..params() }, position)).collect();
    assert_ne!(forward, other_seed);
}

#[test]
fn the_stream_of_a_seed_never_changes() {
    // Pinned: a client that recorded a seed gets the same answer from every later version.
    let mut draws = Draws::new(42);
    let drawn: Vec<u32> = [0, 1, 1000].map(|position| (draws.at(position) * 1e6) as u32).to_vec();
    assert_eq!(drawn, PINNED);
}

const PINNED: [u32; 3] = [681_896, 771_248, 16_879];

#[test]
fn the_exponential_is_exact_to_two_units() {
    let mut x = 0.0f32;
    while x > -86.9 {
        let (found, exact) = (f64::from(weights::exp(x)), f64::from(x).exp());
        assert!((found - exact).abs() <= 2.5e-7 * exact, "exp({x}) = {found}, not {exact}");
        x -= 0.001_37;
    }
    assert_eq!(weights::exp(0.0), 1.0);
    assert_eq!(weights::exp(-200.0), 0.0);
    assert_eq!(weights::exp(f32::NEG_INFINITY), 0.0);
}

proptest! {
    #[test]
    fn selection_equals_sorting(
        logits in prop::collection::vec(prop_oneof![8 => (-50i8..50).prop_map(f32::from), 1 => Just(f32::NEG_INFINITY)], 1..700),
        count in 0..750usize,
    ) {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap().then(a.cmp(b)));
        order.truncate(count);
        let mut survey = Survey::default();
        prop_assert!(survey.take(&logits));
        let mut selector = select::Selector::default();
        let found = selector.top(&logits, &survey, count);
        let ids: Vec<usize> = found.iter().map(|candidate| candidate.id as usize).collect();
        prop_assert_eq!(ids, order);
    }

    #[test]
    fn a_cut_by_weight_equals_a_cut_of_the_sorted(
        logits in prop::collection::vec((-20i8..20).prop_map(|logit| f32::from(logit) / 3.0), 1..400),
        (count, share) in (1..450usize, 0.01f64..0.99),
    ) {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap().then(a.cmp(b)));
        let weight = |id: &usize| f64::from(weights::exp(logits[*id] - highest));
        let total: f64 = order.iter().map(weight).sum();

        let mut by_count = weights::Weights::default();
        by_count.fill(&logits, highest, 1.0);
        by_count.keep_count(count);
        prop_assert_eq!(by_count.kept(), sorted(&order[..count.min(order.len())]));

        let mut by_mass = weights::Weights::default();
        by_mass.fill(&logits, highest, 1.0);
        by_mass.keep_mass(share * total);
        let kept = by_mass.kept();
        prop_assert_eq!(&kept, &sorted(&order[..kept.len()]), "the likeliest, and of equals the lowest ids");
        let mass: f64 = order[..kept.len()].iter().map(weight).sum();
        let without_last = mass - weight(&order[kept.len() - 1]);
        prop_assert!(mass >= share * total - 1e-5 * total, "it reaches the share");
        prop_assert!(without_last < share * total + 1e-5 * total, "no fewer would");
    }

    #[test]
    fn a_choice_is_always_a_possible_token(
        logits in prop::collection::vec(-30.0f32..30.0, 1..300),
        (temperature, top_p, min_p) in (0.0f32..4.0, 0.01f32..=1.0, 0.0f32..=1.0),
        (top_k, position) in (0..40usize, 0..1000usize),
    ) {
        let params = SamplingParams { temperature, top_p, min_p, top_k, ..params() };
        let chosen = token(&logits, params.clone(), position) as usize;
        prop_assert!(chosen < logits.len());
        if temperature > 0.01 && temperature < 4.0 {
            // A hair's breadth of slack where f32 and f64 disagree about the border of a nucleus.
            let slack = SamplingParams {
                top_p: (top_p + 1e-4).min(1.0), min_p: (min_p - 1e-4).max(0.0), ..params
            };
            prop_assert!(expected(&logits, &slack)[chosen] > 0.0);
        }
    }
}

#[cfg(feature = "torch")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An answer that goes on at a replica with another processor goes on with the same tokens.
    #[test]
    fn all_instruction_sets_choose_the_same_tokens_with_the_same_log_probabilities(
        logits in prop::collection::vec(-12.0f32..12.0, 1..3000),
        (temperature, top_p, top_k, min_p) in (0.0f32..2.0, 0.1f32..=1.0, 0usize..400, 0.0f32..0.2),
        seed in any::<u64>(),
    ) {
        let params = SamplingParams { temperature, top_p, top_k, min_p, seed, ..params() };
        let top = logits.len().min(5);
        let bits = |choice: Choice| {
            let logprobs = choice.logprobs.unwrap();
            let top: Vec<_> = logprobs.top.iter().map(|(id, logprob)| (*id, logprob.to_bits())).collect();
            (choice.token, logprobs.chosen.to_bits(), top)
        };
        let choose = |vector| {
            let (mut sampler, mut logits) = (Sampler::on(vector), logits.clone());
            let mut chooser = Chooser::new(params.clone(), Some(top), &[]);
            let mut next = |position| sampler.choose(&mut logits, &mut chooser, Allowed::default(), position);
            (0..20).map(|position| bits(next(position).unwrap())).collect::<Vec<_>>()
        };
        let mut choices = vector::Vector::available().into_iter().map(choose);
        let first = choices.next().unwrap();
        for other in choices {
            prop_assert_eq!(&other, &first);
        }
    }
}

/// A mask of these ids.
fn mask(ids: &[u32]) -> Mask {
    let mut words = vec![0u32; 4];
    ids.iter().for_each(|id| words[*id as usize / 32] |= 1 << (id % 32));
    Mask::new(words)
}

proptest! {
    #[test]
    fn a_mask_is_as_if_the_model_had_given_minus_infinity(
        logits in prop::collection::vec(-8.0f32..8.0, 100),
        ids in prop::collection::btree_set(0u32..100, 1..90),
        (temperature, top_p, top_k, min_p) in (0.0f32..2.0, 0.1f32..=1.0, 0usize..200, 0.0f32..0.5),
        position in 0usize..50,
    ) {
        let params = SamplingParams { temperature, top_p, top_k, min_p, ..params() };
        let ids: Vec<u32> = ids.into_iter().collect();
        let mask = mask(&ids);
        let excluded: Vec<f32> = (0..100)
            .map(|id| if mask.has(id) { logits[id as usize] } else { f32::NEG_INFINITY })
            .collect();
        let mut chooser = Chooser::new(params.clone(), None, &[]);
        let allowed = Allowed { forbidden: &[], mask: Some(&mask) };
        let chosen = Sampler::default().choose(&mut logits.clone(), &mut chooser, allowed, position).unwrap();
        prop_assert!(mask.has(chosen.token));
        prop_assert_eq!(chosen.token, token(&excluded, params, position));
    }
}

#[test]
fn a_mask_wins_over_bias_and_over_what_is_forbidden() {
    let biased = SamplingParams { temperature: 0.0, logit_bias: vec![(0, 100.0)], ..params() };
    let choose = |forbidden: &[u32], ids: &[u32]| {
        let mut chooser = Chooser::new(biased.clone(), None, &[]);
        let mask = mask(ids);
        let allowed = Allowed { forbidden, mask: Some(&mask) };
        Sampler::default().choose(&mut [3.0, 2.0, 1.0, 0.5], &mut chooser, allowed, 0).unwrap().token
    };
    assert_eq!(choose(&[], &[1, 2, 3]), 1);
    assert_eq!(choose(&[1], &[1, 2, 3]), 2, "what is forbidden is not chosen while there is something else");
    assert_eq!(choose(&[1, 2], &[1, 2]), 1, "where there is nothing else, the mask wins");
    assert_eq!(choose(&[3], &[3]), 3);
}

#[test]
fn log_probabilities_know_no_mask() {
    let logits = [3.0f32, 2.0, 1.0, 0.5];
    let total = logits.iter().map(|logit| logit.exp()).sum::<f32>().ln();
    for ids in [&[2u32, 3][..], &[2]] {
        let mut chooser = Chooser::new(SamplingParams { temperature: 0.0, ..params() }, Some(1), &[]);
        let mask = mask(ids);
        let allowed = Allowed { forbidden: &[], mask: Some(&mask) };
        let choice = Sampler::default().choose(&mut logits.to_vec(), &mut chooser, allowed, 0).unwrap();
        let logprobs = choice.logprobs.unwrap();
        assert_eq!((choice.token, logprobs.top[0].0), (2, 0));
        assert!((logprobs.chosen - (1.0 - total)).abs() < 1e-5);
        assert!((logprobs.top[0].1 - (3.0 - total)).abs() < 1e-5);
    }
}

#[test]
fn a_logit_that_is_not_a_number_is_an_error_under_a_mask_too() {
    let mut chooser = Chooser::new(params(), None, &[]);
    let mask = mask(&[1]);
    let allowed = Allowed { forbidden: &[], mask: Some(&mask) };
    let chosen = Sampler::default().choose(&mut [f32::NAN, 1.0], &mut chooser, allowed, 0);
    assert_eq!(chosen.unwrap_err(), SamplingError::NotANumber);
}
