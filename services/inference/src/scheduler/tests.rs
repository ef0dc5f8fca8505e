//! The scheduler against a driver that does what an engine does, and checks every plan.

mod fairness;

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::sequence::Goal;

const BLOCK_SIZE: usize = 4;

/// What a test keeps with a sequence: how many tokens it wants.
type Wants = usize;

/// A scheduler, and what has become of every sequence that it was given.
struct Driver {
    scheduler: Scheduler<Wants>,
    batch: Batch,
    now: Instant,
    finished: Vec<Rank>,
    /// The ranks of each plan, with the rows of each.
    plans: Vec<Vec<(Rank, usize)>>,
}

impl Driver {
    fn new(limits: StepLimits, blocks: u32) -> Self {
        Self {
            scheduler: Scheduler::new(limits, BlockPool::new(blocks, BLOCK_SIZE)),
            batch: Batch::default(),
            now: Instant::now(),
            finished: Vec::new(),
            plans: Vec::new(),
        }
    }

    fn enqueue(&mut self, rank: Rank, prompt: usize, wants: Wants) {
        self.enqueue_for("", rank, prompt, wants);
    }

    fn enqueue_for(&mut self, tenant: &str, rank: Rank, prompt: usize, wants: Wants) {
        let sequence = Sequence::new(rank, Goal::Tokens, vec![1; prompt], wants);
        self.scheduler.enqueue(sequence.charged_to(tenant.into()));
    }

    /// One step, as an engine does it, with every rule about plans checked.
    fn step(&mut self) {
        let work = self.scheduler.has_work();
        self.scheduler.schedule(&mut self.batch);
        assert_eq!(
            work,
            !self.batch.token_ids.is_empty(),
            "a plan is empty where there is nothing to do, only there"
        );
        self.check_plan();
        let mut plan = Vec::new();
        let finished = &mut self.finished;
        self.scheduler.commit(&mut self.batch, |sequence, ran| {
            plan.push((sequence.rank, ran.rows));
            if ran.wanted == Wanted::Nothing {
                return Fate::Stays;
            }
            sequence.push(2);
            if sequence.output_len() < sequence.payload {
                return Fate::Stays;
            }
            finished.push(sequence.rank);
            Fate::Leaves
        });
        self.plans.push(plan);
    }

    fn check_plan(&self) {
        let limits = self.scheduler.limits;
        assert!(self.batch.token_ids.len() <= limits.max_batched_tokens);
        assert!(self.scheduler.running() <= limits.max_sequences);
        let mut next_row = 0;
        let mut blocks = HashSet::new();
        for share in &self.batch.sequences {
            assert_eq!(share.rows.start, next_row, "rows stand one after another");
            next_row = share.rows.end;
            assert_eq!(self.batch.positions[share.rows.end - 1] as usize + 1, share.context_len);
            assert!(share.blocks.len() * BLOCK_SIZE >= share.context_len, "a table covers its context");
            assert!(share.blocks.iter().all(|block| blocks.insert(*block)), "no block stands in two tables");
        }
        assert_eq!(next_row, self.batch.token_ids.len());
    }

    fn run(&mut self) {
        while self.scheduler.has_work() {
            self.step();
            assert!(self.plans.len() < 100_000, "it never ends");
        }
        assert_eq!(
            self.scheduler.pool().free(),
            self.scheduler.pool().total(),
            "all blocks are free at the end"
        );
    }
}

fn limits(max_sequences: usize, max_batched_tokens: usize) -> StepLimits {
    StepLimits { max_sequences, max_batched_tokens }
}

fn rank(arrival: u64) -> Rank {
    Rank::new(0, arrival)
}

#[test]
fn a_long_prompt_goes_in_chunks_beside_decodes_that_never_stall() {
    let mut driver = Driver::new(limits(4, 8), 64);
    driver.enqueue(rank(0), 2, 20);
    driver.step();
    driver.enqueue(rank(1), 30, 1);
    (0..5).for_each(|_| driver.step());
    let expected: Vec<Vec<(Rank, usize)>> =
        [7, 7, 7, 7, 2].map(|rows| vec![(rank(0), 1), (rank(1), rows)]).to_vec();
    assert_eq!(driver.plans[1..], expected);
}

#[test]
fn prompts_share_what_decodes_leave_of_the_budget_in_order_of_arrival() {
    let mut driver = Driver::new(limits(8, 10), 64);
    for arrival in 0..3 {
        driver.enqueue(rank(arrival), 6, 4);
    }
    driver.step();
    assert_eq!(driver.plans[0], [(rank(0), 6), (rank(1), 4)]);
    driver.step();
    assert_eq!(driver.plans[1], [(rank(0), 1), (rank(1), 2), (rank(2), 6)]);
}

#[test]
fn a_higher_priority_runs_first_and_then_whoever_came_first() {
    let mut driver = Driver::new(limits(1, 8), 64);
    for (priority, arrival) in [(0, 0), (5, 1), (0, 2), (5, 3)] {
        driver.enqueue(Rank::new(priority, arrival), 2, 1);
    }
    driver.run();
    assert_eq!(driver.finished, [Rank::new(5, 1), Rank::new(5, 3), Rank::new(0, 0), Rank::new(0, 2)]);
}

#[test]
fn whoever_ranks_last_gives_up_its_blocks_and_is_first_of_its_class_to_come_back() {
    // Three sequences of 7 tokens hold 2 blocks each; at the 9th token there is no third block for all.
    let mut driver = Driver::new(limits(3, 32), 9);
    driver.enqueue(Rank::new(1, 2), 7, 8);
    driver.enqueue(rank(0), 7, 8);
    driver.enqueue(rank(1), 7, 8);
    driver.enqueue(rank(3), 1, 1);
    let mut preempted_at = None;
    while driver.scheduler.has_work() {
        driver.step();
        if driver.scheduler.preemptions() == 1 && preempted_at.is_none() {
            preempted_at = Some(driver.plans.len());
            let waiting: Vec<Rank> = driver.scheduler.queue.waiting.keys().copied().collect();
            assert_eq!(
                waiting,
                [rank(1), rank(3)],
                "the last arrival of the lowest class stands before the newcomer"
            );
        }
    }
    assert!(preempted_at.is_some());
    assert_eq!(driver.finished.first(), Some(&Rank::new(1, 2)));
    assert_eq!(driver.finished.len(), 4);
}

#[test]
fn a_preempted_sequence_is_computed_again_from_its_first_token() {
    let mut driver = Driver::new(limits(2, 32), 5);
    driver.enqueue(rank(0), 7, 8);
    driver.enqueue(rank(1), 7, 8);
    driver.run();
    assert!(driver.scheduler.preemptions() > 0);
    let rows: usize =
        driver.plans.iter().flatten().filter(|(who, _)| *who == rank(1)).map(|(_, rows)| rows).sum();
    assert!(rows > 7 + 7, "its prompt was computed more than once, but only {rows} rows were its");
}

#[test]
fn an_expired_sequence_is_never_planned() {
    let mut driver = Driver::new(limits(2, 32), 16);
    let deadline = driver.now + Duration::from_secs(1);
    let sequence = Sequence::new(rank(0), Goal::Tokens, vec![1; 4], 4).until(Some(deadline));
    driver.scheduler.enqueue(sequence);
    assert!(driver.scheduler.expire(deadline - Duration::from_millis(1)).is_none());
    assert_eq!(driver.scheduler.expire(deadline).map(|sequence| sequence.rank), Some(rank(0)));
    assert!(!driver.scheduler.has_work());
    driver.step();
    assert_eq!(driver.plans, [vec![]]);
}

#[test]
fn a_running_sequence_that_expires_frees_its_blocks() {
    let mut driver = Driver::new(limits(2, 32), 16);
    let deadline = driver.now + Duration::from_secs(1);
    driver.scheduler.enqueue(Sequence::new(rank(0), Goal::Tokens, vec![1; 9], 4).until(Some(deadline)));
    driver.step();
    assert_eq!(driver.scheduler.pool().free(), 13);
    assert!(driver.scheduler.expire(deadline).is_some());
    assert_eq!(driver.scheduler.pool().free(), 16);
}

#[test]
fn the_head_of_the_queue_is_not_overtaken_by_who_would_fit() {
    let mut driver = Driver::new(limits(4, 64), 8);
    driver.enqueue(rank(0), 16, 12);
    driver.step();
    driver.enqueue(rank(1), 20, 1);
    driver.enqueue(rank(2), 1, 1);
    driver.run();
    assert_eq!(driver.finished, [rank(0), rank(1), rank(2)]);
}

/// What happens between two steps.
#[derive(Clone, Debug)]
enum Act {
    Arrive { priority: i32, prompt: usize, wants: usize, patience: Option<u64> },
    Abort { which: usize },
    Wait { millis: u64 },
    Step,
}

const BLOCKS: u32 = 12;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    // The largest request, 24 + 24 tokens, just fits the whole cache.
    let arrival = (-1..=1i32, 1..=24usize, 1..=24usize, prop::option::of(1..200u64));
    let act = prop_oneof![
        3 => arrival.prop_map(|(priority, prompt, wants, patience)| Act::Arrive { priority, prompt, wants, patience }),
        1 => any::<usize>().prop_map(|which| Act::Abort { which }),
        1 => (1..50u64).prop_map(|millis| Act::Wait { millis }),
        6 => Just(Act::Step),
    ];
    prop::collection::vec(act, 0..300)
}

/// How each sequence left.
#[derive(Debug, Default)]
struct Ledger {
    arrived: Vec<Rank>,
    left: BTreeMap<Rank, &'static str>,
}

impl Ledger {
    fn leaves(&mut self, rank: Rank, how: &'static str) {
        assert_eq!(self.left.insert(rank, how), None, "{rank:?} leaves a second time, {how}");
    }
}

fn act(driver: &mut Driver, ledger: &mut Ledger, act: &Act) {
    match act {
        Act::Arrive { priority, prompt, wants, patience } => {
            let rank = Rank::new(*priority, ledger.arrived.len() as u64);
            let deadline = patience.map(|millis| driver.now + Duration::from_millis(millis));
            ledger.arrived.push(rank);
            driver
                .scheduler
                .enqueue(Sequence::new(rank, Goal::Tokens, vec![1; *prompt], *wants).until(deadline));
        }
        Act::Abort { which } => {
            let Some(rank) = ledger.arrived.get(which % ledger.arrived.len().max(1)) else { return };
            if driver.scheduler.remove(*rank).is_some() {
                ledger.leaves(*rank, "aborted");
            }
        }
        Act::Wait { millis } => driver.now += Duration::from_millis(*millis),
        Act::Step => {
            while let Some(sequence) = driver.scheduler.expire(driver.now) {
                ledger.leaves(sequence.rank, "expired");
            }
            driver.step();
        }
    }
    for rank in std::mem::take(&mut driver.finished) {
        ledger.leaves(rank, "finished");
    }
}

proptest! {
    #[test]
    fn no_request_is_lost_or_doubled_and_blocks_are_conserved(
        acts in acts(),
        max_sequences in 1..6usize,
        spare_tokens in 0..12usize,
    ) {
        let mut driver = Driver::new(limits(max_sequences, max_sequences + spare_tokens), BLOCKS);
        let mut ledger = Ledger::default();
        for one in &acts {
            act(&mut driver, &mut ledger, one);
            let held: usize = driver.scheduler.queue.running.iter().map(|running| running.sequence.table.len()).sum();
            prop_assert_eq!(held + driver.scheduler.pool().free(), BLOCKS as usize);
            prop_assert!(driver.scheduler.queue.waiting.values().all(|waiting| waiting.table.is_empty()));
        }
        driver.run();
        for rank in std::mem::take(&mut driver.finished) {
            ledger.leaves(rank, "finished");
        }
        let left: Vec<Rank> = ledger.left.keys().copied().collect();
        ledger.arrived.sort();
        prop_assert_eq!(left, ledger.arrived);
    }

    #[test]
    fn whoever_ranks_first_is_in_every_plan_until_it_is_done(wants in 1..20usize, others in 1..8usize) {
        let mut driver = Driver::new(limits(4, 8), BLOCKS);
        driver.enqueue(Rank::new(1, 0), 9, wants);
        (1..=others).for_each(|other| driver.enqueue(rank(other as u64), 20, 20));
        driver.run();
        let last = driver.plans.iter().rposition(|plan| plan.iter().any(|(who, _)| *who == Rank::new(1, 0))).unwrap();
        let in_all = driver.plans[..=last].iter().all(|plan| plan.iter().any(|(who, _)| *who == Rank::new(1, 0)));
        prop_assert!(in_all);
        // Its 9 tokens take two steps of at most 8, the second of which gives the first token.
        prop_assert_eq!(last + 1, 1 + wants);
    }
}
