//! Whatever else is in the batch, and whatever happens to it, changes nothing for a sequence.

use proptest::prelude::*;

use super::*;

fn prompts(count: usize) -> Vec<Vec<u32>> {
    (0..count)
        .map(|index| (0..3 + index as u32 * 5 % 13).map(|at| (at * 7 + index as u32) % 90).collect())
        .collect()
}

#[test]
fn a_request_among_sixteen_others_says_what_it_says_alone() {
    for make in [sampled as fn(&[u32], usize, u64) -> Generate, |prompt, tokens, _| request(prompt, tokens)] {
        let prompts = prompts(17);
        let mut bench = Bench::new(Setup::default());
        let mut generations = Vec::new();
        for (seed, prompt) in prompts.iter().enumerate() {
            generations.push(bench.start(make(prompt, 25, seed as u64)));
            bench.steps(1);
        }
        bench.run();
        for ((seed, prompt), generation) in prompts.iter().enumerate().zip(&mut generations) {
            assert_eq!(tokens(&heard(generation)), alone(make(prompt, 25, seed as u64)));
        }
    }
}

#[test]
fn preemption_gives_the_same_tokens() {
    let mut bench = Bench::new(Setup { blocks: 14, ..Setup::default() });
    let prompts = prompts(4);
    let mut generations: Vec<Generation> = prompts
        .iter()
        .enumerate()
        .map(|(seed, prompt)| bench.start(sampled(prompt, 30, seed as u64)))
        .collect();
    bench.run();
    assert!(bench.handle.status().preemptions > 0, "blocks were never short");
    for ((seed, prompt), generation) in prompts.iter().enumerate().zip(&mut generations) {
        assert_eq!(tokens(&heard(generation)), alone(sampled(prompt, 30, seed as u64)));
    }
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn a_generation_that_is_taken_up_elsewhere_goes_on_with_the_same_tokens() {
    let prompt = [4, 5, 6, 7, 8];
    let whole = alone(sampled(&prompt, 20, 9));
    let so_far = [&prompt[..], &whole[..8]].concat();
    assert_eq!(alone(sampled(&so_far, 12, 9)), whole[8..]);
}

#[derive(Clone, Debug)]
enum Act {
    Start { prompt: Vec<u32>, tokens: usize, seed: u64, priority: i32 },
    Drop { which: usize },
    Step,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let prompt = prop::collection::vec(0..90u32, 1..25);
    let start = (prompt, 1..20usize, any::<u64>(), -1..=1i32);
    let act = prop_oneof![
        2 => start.prop_map(|(prompt, tokens, seed, priority)| Act::Start { prompt, tokens, seed, priority }),
        1 => any::<usize>().prop_map(|which| Act::Drop { which }),
        4 => Just(Act::Step),
    ];
    prop::collection::vec(act, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_request_says_what_it_says_alone(acts in acts(), blocks in 12..24u64, max_batched_tokens in 4..24usize) {
        let limits = StepLimits { max_sequences: 4, max_batched_tokens };
        let mut bench = Bench::new(Setup { blocks, limits, ..Setup::default() });
        let mut started: Vec<(Generate, Option<Generation>)> = Vec::new();
        for act in acts {
            match act {
                Act::Start { prompt, tokens, seed, priority } => {
                    let request = Generate { priority, ..sampled(&prompt, tokens, seed) };
                    let Ok(generation) = bench.handle.generate(request.clone(), None) else { continue };
                    started.push((request, Some(generation)));
                }
                Act::Drop { which } => {
                    let count = started.len().max(1);
                    if let Some((_, generation)) = started.get_mut(which % count) { *generation = None; }
                }
                Act::Step => { bench.engine.step(); }
            }
        }
        bench.run();
        prop_assert_eq!(bench.free(), bench.total());
        for (request, generation) in started {
            let Some(mut generation) = generation else { continue };
            prop_assert_eq!(tokens(&heard(&mut generation)), alone(request));
        }
    }
}
