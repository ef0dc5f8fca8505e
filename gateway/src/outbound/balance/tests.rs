//! Failures that other balancers are known for, and do not happen here.

use std::num::NonZeroUsize;

use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::*;

const BLOCK: usize = 4;

fn policy() -> PrefixAware {
    with(1_000)
}

fn with(max_blocks: usize) -> PrefixAware {
    let mut config: config::Balance = weft_runtime::config::parse("", &[]).unwrap();
    config.max_blocks = NonZeroUsize::new(max_blocks).unwrap();
    PrefixAware::new(config, &Choices::new())
}

/// Replicas with these loads.
fn loaded(loads: &[usize]) -> Vec<Candidate> {
    ids(loads.len()).into_iter().zip(loads).map(|(id, load)| Candidate { id, load: *load }).collect()
}

fn ids(count: usize) -> Vec<ReplicaId> {
    (0..count as u64).map(ReplicaId).collect()
}

fn call(prompt: &[u32]) -> Extensions {
    of(prompt, "", None)
}

fn of(prompt: &[u32], salt: &str, adapter: Option<&str>) -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(Route::of(prompt, salt, adapter, BLOCK));
    extensions
}

/// A prompt like no other.
fn fresh(number: u32) -> Vec<u32> {
    (0..20).map(|at| number * 100 + at).collect()
}

#[test]
fn a_prompt_goes_where_its_beginning_went() {
    let policy = policy();
    for number in 0..50 {
        let first = policy.choose(&call(&fresh(number)), &loaded(&[0, 0, 0]));
        let longer = [fresh(number), vec![7, 8, 9, 10]].concat();
        for _ in 0..5 {
            assert_eq!(policy.choose(&call(&longer), &loaded(&[0, 0, 0])), first);
        }
    }
}

#[test]
fn prompts_that_nobody_has_are_spread_and_do_not_run_to_one_replica() {
    let (policy, mut loads) = (policy(), [0; 4]);
    for number in 0..400 {
        loads[policy.choose(&call(&fresh(number)), &loaded(&loads))] += 1;
    }
    assert!(loads.iter().all(|load| (90..=110).contains(load)), "{loads:?}");
}

#[test]
fn calls_that_come_one_at_a_time_are_spread_too() {
    let (policy, mut chosen) = (policy(), [0; 4]);
    for number in 0..400 {
        chosen[policy.choose(&call(&fresh(number)), &loaded(&[0; 4]))] += 1;
    }
    assert!(chosen.iter().all(|count| (60..140).contains(count)), "{chosen:?}");
}

#[test]
fn however_good_the_match_nobody_gets_more_than_the_bound() {
    let (policy, mut loads) = (policy(), [0_usize; 4]);
    let config = policy.config.clone();
    for _ in 0..400 {
        let chosen = policy.choose(&call(&fresh(1)), &loaded(&loads));
        loads[chosen] += 1;
        let mean = loads.iter().sum::<usize>() as f64 / 4.0;
        let most = (mean * config.load_factor).ceil() as usize + config.load_slack;
        assert!(loads[chosen] <= most, "{loads:?}, of which none may be above {most}");
    }
}

#[test]
fn a_load_that_fell_is_seen_at_once() {
    let policy = policy();
    let home = policy.choose(&call(&fresh(1)), &loaded(&[0, 0]));
    let mut loads = [0, 0];
    loads[home] = 100;
    assert_ne!(policy.choose(&call(&fresh(1)), &loaded(&loads)), home, "it is full");
    loads[home] = 0;
    loads[1 - home] = 100;
    assert_eq!(policy.choose(&call(&fresh(1)), &loaded(&loads)), home, "it is free again");
}

#[test]
fn the_whole_prompt_counts_and_not_its_first_message_alone() {
    let policy = policy();
    // One system prompt for all; after it, two conversations, each on a replica of its own.
    let system = fresh(0);
    let talk = |number| [system.clone(), fresh(number), fresh(number + 1)].concat();
    let busy = |place: usize| loaded(&if place == 0 { [50, 0] } else { [0, 50] });
    assert_eq!(policy.choose(&call(&talk(10)), &busy(1)), 0);
    assert_eq!(policy.choose(&call(&talk(20)), &busy(0)), 1);
    for _ in 0..20 {
        assert_eq!(policy.choose(&call(&[talk(10), fresh(12)].concat()), &loaded(&[0, 0])), 0);
        assert_eq!(policy.choose(&call(&[talk(20), fresh(22)].concat()), &loaded(&[0, 0])), 1);
    }
}

#[test]
fn a_short_common_beginning_does_not_gather_all_prompts() {
    let (policy, mut chosen) = (policy(), [0; 4]);
    // One block that all share, and nineteen that nobody has seen.
    for number in 1..401 {
        let prompt: Vec<u32> = [1, 2, 3, 4].into_iter().chain((0..76).map(|at| number * 100 + at)).collect();
        chosen[policy.choose(&call(&prompt), &loaded(&[0; 4]))] += 1;
    }
    assert!(chosen.iter().all(|count| (60..140).contains(count)), "{chosen:?}");
}

#[test]
fn a_replica_that_is_gone_or_was_away_draws_nobody() {
    let policy = policy();
    let home = policy.choose(&call(&fresh(1)), &loaded(&[0, 0]));
    let left: Vec<Candidate> =
        loaded(&[0, 0]).into_iter().filter(|candidate| candidate.id != ids(2)[home]).collect();
    assert_eq!(policy.choose(&call(&fresh(1)), &left), 0, "the only one that is left");
    // Now both have it; the one that comes back does not.
    policy.forget(ids(2)[home]);
    for _ in 0..20 {
        assert_ne!(policy.choose(&call(&fresh(1)), &loaded(&[0, 0])), home);
    }
}

#[test]
fn requests_of_one_adapter_meet_where_it_was_used() {
    let policy = policy();
    let home = policy.choose(&of(&fresh(1), "", Some("pirate")), &loaded(&[0; 8]));
    for number in 2..30 {
        assert_eq!(policy.choose(&of(&fresh(number), "", Some("pirate")), &loaded(&[0; 8])), home);
    }
}

#[test]
fn caches_of_different_salts_have_nothing_in_common() {
    let (policy, mut elsewhere) = (policy(), 0);
    let home = policy.choose(&of(&fresh(1), "one", None), &loaded(&[0; 4]));
    for number in 0..40 {
        let salt = format!("other {number}");
        elsewhere += usize::from(policy.choose(&of(&fresh(1), &salt, None), &loaded(&[0; 4])) != home);
    }
    assert!(elsewhere > 15, "{elsewhere} of 40");
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded_and_ages() {
    let policy = with(64);
    for number in 0..1_000 {
        policy.choose(&call(&fresh(number)), &loaded(&[0, 0]));
        assert!(policy.prefixes().len() <= 64);
    }
    let home = policy.choose(&call(&fresh(5)), &loaded(&[0, 0]));
    let began = Instant::now();
    tokio::time::advance(policy.config.forget_after).await;
    assert!(began.elapsed() >= policy.config.forget_after);
    let route = Route::of(&fresh(5), "", None, BLOCK);
    assert_eq!(
        policy.prefixes().matched(&route, &loaded(&[0, 0])),
        [0, 0],
        "replica {home} may have it no more"
    );
}

#[test]
fn choices_are_counted_by_their_reason() {
    let (choices, mut registry) = (Choices::new(), Registry::default());
    choices.register(&mut registry);
    let policy = PrefixAware::new(weft_runtime::config::parse("", &[]).unwrap(), &choices);
    policy.choose(&call(&fresh(1)), &loaded(&[0, 0]));
    policy.choose(&call(&fresh(1)), &loaded(&[0, 0]));
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    for line in ["balance_choices_total{reason=\"load\"} 1", "balance_choices_total{reason=\"prefix\"} 1"] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}
