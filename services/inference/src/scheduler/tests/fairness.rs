//! Tenants of one priority share the engine, whatever each of them asks for.

use super::*;

const TENANTS: [&str; 2] = ["one", "other"];

/// What a tenant asks for, over and over.
#[derive(Clone, Copy, Debug)]
struct Habit {
    prompt: usize,
    wants: usize,
}

fn habit(prompts: std::ops::Range<usize>, wants: std::ops::Range<usize>) -> impl Strategy<Value = Habit> {
    (prompts, wants).prop_map(|(prompt, wants)| Habit { prompt, wants })
}

/// Two tenants that always have requests waiting, and what each was served.
struct Rivals {
    driver: Driver,
    prices: Prices,
    arrivals: u64,
    /// The tenant and the prompt of each request.
    requests: Vec<(usize, usize)>,
    begun: HashSet<Rank>,
    /// As the paper counts: a prompt when it is admitted, output as it comes.
    admitted: [i64; 2],
    /// As it is computed.
    computed: [i64; 2],
}

impl Rivals {
    fn new(prices: Prices, limits: StepLimits) -> Self {
        let mut driver = Driver::new(limits, 256);
        driver.scheduler = driver.scheduler.charging(prices);
        let (requests, begun) = (Vec::new(), HashSet::new());
        Self { driver, prices, arrivals: 0, requests, begun, admitted: [0; 2], computed: [0; 2] }
    }

    fn arrive(&mut self, tenant: usize, habit: Habit) {
        let rank = rank(self.arrivals);
        self.driver.enqueue_for(TENANTS[tenant], rank, habit.prompt, habit.wants);
        self.requests.push((tenant, habit.prompt));
        self.arrivals += 1;
    }

    fn waiting(&self, tenant: usize) -> usize {
        let waits = |sequence: &&Sequence<Wants>| &*sequence.tenant == TENANTS[tenant];
        self.driver.scheduler.queue.waiting.values().filter(waits).count()
    }

    /// One step, of which the plan tells who was served what.
    fn step(&mut self) {
        self.driver.step();
        let (prefill, decode) = (self.prices.prefill as i64, self.prices.decode as i64);
        for (who, rows) in self.driver.plans.last().unwrap() {
            let arrival = (0..self.arrivals).find(|arrival| rank(*arrival) == *who).unwrap();
            let (tenant, prompt) = self.requests[arrival as usize];
            if self.begun.insert(*who) {
                self.admitted[tenant] += prefill * prompt as i64;
            }
            let before = self.driver.rows_before(*who);
            let of_prompt = prompt.saturating_sub(before).min(*rows);
            let generated = i64::from(before + rows >= prompt);
            self.computed[tenant] += prefill * of_prompt as i64 + decode * generated;
            self.admitted[tenant] += decode * generated;
        }
    }
}

impl Driver {
    /// Rows that a sequence had before the last plan.
    fn rows_before(&self, who: Rank) -> usize {
        let earlier = self.plans.iter().rev().skip(1);
        earlier.flatten().filter(|(rank, _)| *rank == who).map(|(_, rows)| rows).sum()
    }
}

/// The widest that the difference has been open, in either direction, over any stretch of time.
#[derive(Default)]
struct Gap {
    least: i64,
    most: i64,
}

impl Gap {
    fn note(&mut self, served: [i64; 2]) -> i64 {
        let difference = served[0] - served[1];
        self.least = self.least.min(difference);
        self.most = self.most.max(difference);
        self.most - self.least
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Theorem 4.4 of the paper: `|W_f(t1, t2) - W_g(t1, t2)| <= 2 max(w_p L_input, w_q M)` for two tenants that have
    /// requests waiting from t1 to t2. `M` is what a batch can hold. It counts all of that at the price of decoding, so it
    /// holds where that is not the lower one.
    #[test]
    fn two_tenants_who_always_wait_are_served_alike(
        habits in [habit(1..40, 1..4), habit(1..12, 1..40)],
        bursts in prop::collection::vec((0..2usize, 1..6usize), 150),
        prices in (1..4u64, 0..4u64),
        max_sequences in 1..6usize,
        spare_tokens in 1..24usize,
    ) {
        let prices = Prices { prefill: prices.0, decode: prices.0 + prices.1, ..Prices::default() };
        let mut rivals = Rivals::new(prices, limits(max_sequences, max_sequences + spare_tokens));
        let longest = habits.iter().map(|habit| habit.prompt).max().unwrap();
        let batch = max_sequences * habits.iter().map(|habit| habit.prompt + habit.wants).max().unwrap();
        let bound = 2 * (prices.prefill * longest as u64).max(prices.decode * batch as u64) as i64;
        // What is admitted but not computed yet: one prompt of each.
        let underway = 2 * (prices.prefill as usize * longest) as i64;
        let (mut admitted, mut computed) = (Gap::default(), Gap::default());
        for (tenant, count) in bursts {
            (0..count).for_each(|_| rivals.arrive(tenant, habits[tenant]));
            for (tenant, habit) in habits.iter().enumerate() {
                while rivals.waiting(tenant) <= max_sequences {
                    rivals.arrive(tenant, *habit);
                }
            }
            rivals.step();
            let gap = admitted.note(rivals.admitted);
            prop_assert!(gap <= bound, "{gap} is more than {bound}");
            let gap = computed.note(rivals.computed);
            prop_assert!(gap <= bound + underway, "{gap} is more than {bound} and {underway} underway");
        }
    }

    #[test]
    fn accounts_of_tenants_that_left_do_not_pile_up(visits in prop::collection::vec((0..500u32, 1..20usize), 1..400)) {
        let prices = Prices { max_idle_tenants: 20, ..Prices::default() };
        let mut driver = Driver::new(limits(2, 16), 64);
        driver.scheduler = driver.scheduler.charging(prices);
        for (arrival, (tenant, wants)) in visits.into_iter().enumerate() {
            driver.enqueue_for(&tenant.to_string(), rank(arrival as u64), 3, wants);
            driver.step();
            let held = driver.scheduler.waiting() + driver.scheduler.running();
            prop_assert!(driver.scheduler.tenants() <= held + 20);
        }
        driver.run();
        prop_assert!(driver.scheduler.tenants() <= 20);
    }
}

#[test]
fn a_quiet_tenant_is_next_however_much_a_noisy_one_has_waiting() {
    let mut driver = Driver::new(limits(2, 16), 64);
    let mut arrival = 0;
    let mut enqueue = |driver: &mut Driver, tenant: &str| {
        driver.enqueue_for(tenant, rank(arrival), 4, 6);
        arrival += 1;
        rank(arrival - 1)
    };
    for _ in 0..20 {
        (0..10).for_each(|_| _ = enqueue(&mut driver, "noisy"));
        let quiet = enqueue(&mut driver, "quiet");
        let begun_before = driver.begun();
        while !driver.begun().contains(&quiet) {
            driver.step();
        }
        let overtaken_by = driver.begun().difference(&begun_before).filter(|rank| **rank != quiet).count();
        assert!(overtaken_by <= 1, "{overtaken_by} requests of the noisy tenant ran first");
    }
}

impl Driver {
    /// Everybody who has run.
    fn begun(&self) -> HashSet<Rank> {
        self.plans.iter().flatten().map(|(rank, _)| *rank).collect()
    }
}

#[test]
fn a_tenant_that_was_away_has_saved_up_nothing() {
    let mut driver = Driver::new(limits(1, 16), 64);
    (0..40).for_each(|arrival| driver.enqueue_for("busy", rank(arrival), 4, 4));
    (0..60).for_each(|_| driver.step());
    let before = driver.finished.len();
    (40..60).for_each(|arrival| driver.enqueue_for("back", rank(arrival), 4, 4));
    (0..40).for_each(|_| driver.step());
    let back = driver.finished[before..].iter().filter(|who| **who >= rank(40)).count();
    let all = driver.finished.len() - before;
    assert!(back.abs_diff(all - back) <= 1, "{back} of {all} were the returning tenant's");
}

#[test]
fn a_higher_priority_comes_before_a_tenant_that_was_served_less() {
    let mut driver = Driver::new(limits(1, 16), 64);
    (0..4).for_each(|arrival| driver.enqueue_for("urgent", Rank::new(1, arrival), 4, 4));
    driver.enqueue_for("quiet", rank(4), 1, 1);
    driver.run();
    assert_eq!(driver.finished.last(), Some(&rank(4)));
}

#[test]
fn whose_tenant_was_served_most_gives_way_first() {
    // Each holds two blocks of 4; the one with the longer prompt takes the last one, and then the other has none.
    let mut driver = Driver::new(limits(2, 32), 5);
    driver.enqueue_for("heavy", rank(0), 8, 8);
    driver.enqueue_for("light", rank(1), 7, 8);
    while driver.scheduler.preemptions() == 0 {
        driver.step();
    }
    let waiting: Vec<Rank> = driver.scheduler.queue.waiting.keys().copied().collect();
    assert_eq!(waiting, [rank(0)], "it came first, but its tenant has had more");
    driver.run();
}

#[test]
fn what_is_never_computed_is_not_charged() {
    let mut driver = Driver::new(limits(1, 8), 64);
    driver.enqueue_for("leaves", rank(0), 100, 4);
    driver.enqueue_for("stays", rank(1), 12, 1);
    driver.enqueue_for("leaves", rank(2), 4, 1);
    driver.step();
    assert!(driver.scheduler.remove(rank(0)).is_some(), "after 8 of its 100 tokens");
    driver.enqueue_for("stays", rank(3), 12, 1);
    driver.run();
    // 8 tokens were served to the one, nothing to the other; then 8 are less than the 14 of the first of "stays".
    assert_eq!(driver.finished, [rank(1), rank(2), rank(3)]);
}
