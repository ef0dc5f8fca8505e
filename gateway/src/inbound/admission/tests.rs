//! A room in simulated time: what overload does to waiting, to goodput and to neighbours, to the microsecond and always
//! alike.

use std::{cmp::Reverse, collections::BinaryHeap};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use weft_runtime::config::parse;

use super::{refusal::Cause, *};

const CONFIG: &str =
    "max_running = 20\nmax_tokens_in_flight = 100_000\nmax_waiting = 50\nmax_wait = \"200ms\"";
/// How long a request is worked on. So 20 of them at a time are 20 a second.
const WORK: Duration = Duration::from_secs(1);
const TOKENS: u64 = 100;
const CAPACITY: f64 = 20.0;

fn named(name: &str) -> Tenant {
    Tenant::named(name)
}

fn asked(tenant: &str, priority: i32) -> Asked {
    Asked { tenant: named(tenant), priority, load: Load::of(TOKENS), deadline: None }
}

fn worked() -> Stayed {
    Stayed { whole: WORK, queued: Duration::ZERO }
}

fn room(config: &str) -> Room {
    Room::new(&parse(config, &[]).unwrap())
}

/// What came of a tenant's requests.
#[derive(Debug, Default)]
struct Outcome {
    let_in: usize,
    waits: Vec<Duration>,
    refused: Vec<Refusal>,
}

impl Outcome {
    fn wait(&self, share: f64) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort();
        waits[(share * (waits.len() - 1) as f64) as usize]
    }
}

/// A stream of requests of one tenant.
struct Source {
    tenant: &'static str,
    priority: i32,
    rate: f64,
    seconds: f64,
}

/// What can happen.
enum Happening {
    Arrives(usize),
    Ends(Asked),
    Expires(usize),
}

/// Who waits: which source, its ticket, what it will hear, since when, and what it asked.
type Waits = (usize, u64, oneshot::Receiver<Verdict>, Duration, Asked);

struct Simulation {
    room: Room,
    start: Instant,
    happenings: BinaryHeap<(Reverse<(Duration, u64)>, usize)>,
    what: Vec<Option<Happening>>,
    waiting: Vec<Option<Waits>>,
    outcomes: Vec<Outcome>,
}

impl Simulation {
    fn run(room: Room, sources: &[Source]) -> Vec<Outcome> {
        let mut this = Self {
            room,
            start: Instant::now(),
            happenings: BinaryHeap::new(),
            what: Vec::new(),
            waiting: Vec::new(),
            outcomes: sources.iter().map(|_| Outcome::default()).collect(),
        };
        let mut rng = StdRng::seed_from_u64(1);
        for (index, source) in sources.iter().enumerate() {
            let mut at = 0.0;
            while at < source.seconds {
                at += -(1.0 - rng.random::<f64>()).ln() / source.rate;
                this.plan(Duration::from_secs_f64(at), Happening::Arrives(index));
            }
        }
        while let Some((Reverse((at, _)), which)) = this.happenings.pop() {
            let happening = this.what[which].take().unwrap();
            this.happens(at, happening, sources);
        }
        assert_eq!((this.room.used(), this.room.waiting()), (Load::default(), 0), "somebody is left");
        this.outcomes
    }

    fn plan(&mut self, at: Duration, happening: Happening) {
        let which = self.what.len();
        self.what.push(Some(happening));
        self.happenings.push((Reverse((at, which as u64)), which));
    }

    fn happens(&mut self, at: Duration, happening: Happening, sources: &[Source]) {
        let now = self.start + at;
        match happening {
            Happening::Arrives(index) => {
                let asked = asked(sources[index].tenant, sources[index].priority);
                match self.room.arrive(asked.clone(), now) {
                    Ok(Entry::In) => self.let_in(index, asked, at, at),
                    Ok(Entry::Waits { ticket, told, at_most }) => {
                        self.waiting.push(Some((index, ticket, told, at, asked)));
                        let which = self.waiting.len() - 1;
                        self.plan(at + at_most, Happening::Expires(which));
                    }
                    Err(refusal) => self.outcomes[index].refused.push(refusal),
                }
            }
            Happening::Ends(asked) => self.room.leave(&asked, worked(), now),
            Happening::Expires(which) => {
                if let Some((index, ticket, ..)) = &self.waiting[which] {
                    let (index, refusal) = (*index, self.room.give_up(*ticket, now).unwrap());
                    self.waiting[which] = None;
                    self.outcomes[index].refused.push(refusal);
                }
            }
        }
        for which in 0..self.waiting.len() {
            let Some((_, _, told, _, _)) = &mut self.waiting[which] else { continue };
            let Ok(verdict) = told.try_recv() else { continue };
            let (index, _, _, since, asked) = self.waiting[which].take().unwrap();
            match verdict {
                Ok(()) => self.let_in(index, asked, since, at),
                Err(refusal) => self.outcomes[index].refused.push(refusal),
            }
        }
    }

    fn let_in(&mut self, index: usize, asked: Asked, since: Duration, at: Duration) {
        self.outcomes[index].let_in += 1;
        self.outcomes[index].waits.push(at - since);
        self.plan(at + WORK, Happening::Ends(asked));
    }
}

fn source(tenant: &'static str, times_capacity: f64) -> Source {
    Source { tenant, priority: 0, rate: times_capacity * CAPACITY, seconds: 60.0 }
}

#[test]
fn at_three_times_its_capacity_the_room_is_full_and_hardly_anybody_waits() {
    let outcomes = Simulation::run(room(CONFIG), &[source("", 3.0)]);
    let [all] = outcomes.as_slice() else { unreachable!() };
    let goodput = all.let_in as f64 / 60.0 / CAPACITY;
    assert!(goodput > 0.95, "{goodput} of its capacity");
    assert!(all.wait(0.95) < Duration::from_millis(60), "{:?}", all.wait(0.95));
    for refusal in &all.refused {
        assert_eq!(
            (refusal.code(), refusal.scarce.knob),
            (tonic::Code::Unavailable, "admission.max_running")
        );
    }
    // Who comes back when told finds the room no fuller than it was.
    let told = all.refused.iter().map(|refusal| refusal.retry_after).max().unwrap();
    assert!(told < 2 * WORK, "{told:?}");
}

#[test]
fn a_burst_waits_and_is_not_refused() {
    let mut room = room(CONFIG);
    let now = Instant::now();
    let inside: Vec<_> = (0..20).map(|_| asked("", 0)).collect();
    assert!(inside.iter().all(|asked| matches!(room.arrive(asked.clone(), now), Ok(Entry::In))));
    room.drain.left(WORK, Duration::ZERO);
    let waits: Vec<_> = (0..4).map(|_| room.arrive(asked("", 0), now)).collect();
    assert!(
        waits.iter().all(|entry| matches!(entry, Ok(Entry::Waits { .. }))),
        "a fifth of a second is 4 places"
    );
    let refusal = room.arrive(asked("", 0), now).unwrap_err();
    assert_eq!(
        (&refusal.cause, refusal.wait),
        (&Cause::Wait("admission.max_wait"), Some(Duration::from_millis(250)))
    );
    let refusal = room.arrive(asked("", 0), now).unwrap_err();
    assert_eq!(refusal.waiting, 5, "now that it is overloaded nobody waits longer than a tenth of that");
}

#[test]
fn a_quiet_tenant_beside_a_noisy_one_is_let_in_and_soon() {
    let quiet = || Source { rate: 2.0, ..source("quiet", 0.0) };
    let alone = Simulation::run(room(CONFIG), &[quiet()]);
    let both = Simulation::run(room(CONFIG), &[quiet(), source("noisy", 3.0)]);
    let [quiet, noisy] = both.as_slice() else { unreachable!() };
    // The first finds a room that the other has filled while it was alone, and may wait in vain.
    assert!(quiet.refused.len() <= 1, "{:?}", quiet.refused);
    assert_eq!((quiet.wait(0.5), alone[0].wait(0.5)), (Duration::ZERO, Duration::ZERO));
    assert!(quiet.wait(0.99) < Duration::from_millis(250), "{:?}", quiet.wait(0.99));
    let goodput = (noisy.let_in + quiet.let_in) as f64 / 60.0 / CAPACITY;
    // A part is kept free, of which the quiet one uses a part.
    assert!(goodput > 0.92, "{goodput} of its capacity");
    let share = |refusal: &&Refusal| matches!(&refusal.cause, Cause::Share { tenant: Some(tenant), .. } if tenant == "noisy");
    // But for those before the quiet one came.
    let shares = noisy.refused.iter().filter(share).count() as f64 / noisy.refused.len() as f64;
    assert!(shares > 0.95, "{shares} say whose share is full");
}

#[test]
fn a_burst_within_a_fair_share_is_served_by_the_next_places_that_others_leave() {
    let long = |tenant, times| Source { seconds: 600.0, ..source(tenant, times) };
    let sources = [long("quiet", 0.25), long("noisy", 2.0)];
    let refused = |longer: &str| {
        let config = format!("{CONFIG}\nmax_wait_within_share = \"{longer}\"");
        let outcomes = Simulation::run(room(&config), &sources);
        let within = |refusal: &&Refusal| !matches!(refusal.cause, Cause::Share { .. });
        outcomes[0].refused.iter().filter(within).count()
    };
    assert!(refused("0s") > 4 * refused("500ms"), "{} and {}", refused("0s"), refused("500ms"));
}

#[test]
fn tenants_that_all_want_too_much_get_alike() {
    let outcomes = Simulation::run(room(CONFIG), &[source("a", 1.0), source("b", 2.0), source("c", 4.0)]);
    let shares: Vec<f64> = outcomes.iter().map(|outcome| outcome.let_in as f64).collect();
    let jain =
        shares.iter().sum::<f64>().powi(2) / (3.0 * shares.iter().map(|share| share * share).sum::<f64>());
    assert!(jain > 0.99, "{shares:?}: {jain}");
}

#[test]
fn background_work_leaves_room_and_urgent_work_comes_first() {
    let background = Source { priority: -1, ..source("", 3.0) };
    let normal = source("", 0.1);
    let outcomes = Simulation::run(room(CONFIG), &[background, normal]);
    assert_eq!(outcomes[1].refused.len(), 0);
    assert_eq!(outcomes[1].wait(0.9), Duration::ZERO, "there is room for it");

    let mut room = room(CONFIG);
    let now = Instant::now();
    let inside: Vec<_> = (0..20).map(|_| asked("", 0)).collect();
    inside.iter().for_each(|asked| drop(room.arrive(asked.clone(), now)));
    let Ok(Entry::Waits { told: mut first, .. }) = room.arrive(asked("", 0), now) else { unreachable!() };
    let Ok(Entry::Waits { told: mut urgent, .. }) = room.arrive(asked("", 1), now) else { unreachable!() };
    room.leave(&inside[0], worked(), now);
    assert!(urgent.try_recv().unwrap().is_ok());
    assert!(first.try_recv().is_err());
}

#[test]
fn a_full_line_is_left_by_who_comes_last_in_it() {
    let mut room = room("max_running = 2\nmax_waiting = 1");
    let now = Instant::now();
    (0..2).for_each(|_| drop(room.arrive(asked("noisy", 0), now)));
    let Ok(Entry::Waits { told: mut noisy, .. }) = room.arrive(asked("noisy", 0), now) else {
        unreachable!()
    };
    let Ok(Entry::Waits { told: mut quiet, .. }) = room.arrive(asked("quiet", 0), now) else {
        unreachable!()
    };
    let refusal = noisy.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
    assert!(quiet.try_recv().is_err(), "it waits on");
}

#[test]
fn nobody_waits_beyond_a_deadline_and_what_is_too_large_is_let_in_alone() {
    let mut room = room("max_running = 2\nmax_tokens_in_flight = 5_000\nmax_wait = \"5s\"");
    let now = Instant::now();
    let large = Asked { load: Load::of(1_000_000), ..asked("", 0) };
    assert!(matches!(room.arrive(large.clone(), now), Ok(Entry::In)));
    room.drain.left(WORK, Duration::ZERO);
    let hurried = Asked { deadline: Some(now + Duration::from_millis(900)), ..asked("", 0) };
    let refusal = room.arrive(hurried, now).unwrap_err();
    assert_eq!((&refusal.cause, refusal.scarce.knob), (&Cause::Deadline, "admission.max_tokens_in_flight"));
    let later = now + Duration::from_secs(2);
    let Ok(Entry::Waits { ticket, .. }) = room.arrive(asked("", 0), later) else { unreachable!() };
    assert!(room.abandon(ticket, later), "a caller who leaves is not waited for");
    room.leave(&large, worked(), now);
    assert_eq!((room.used(), room.waiting()), (Load::default(), 0));
}

#[test]
fn a_refusal_says_that_the_limit_was_lowered_and_from_what() {
    let mut room = room("max_tokens_in_flight = 10_000\nmin_tokens_in_flight = 1_000");
    let start = Instant::now();
    let large = Asked { load: Load::of(9_000), ..asked("", 0) };
    assert!(matches!(room.arrive(large, start), Ok(Entry::In)));
    for at in 0..6 {
        let now = start + Duration::from_millis(100 * at);
        room.started(Started { sent: now, queued: Duration::from_secs(9) }, now);
    }
    room.drain.left(WORK, Duration::ZERO);
    let hurried = Asked { deadline: Some(start + Duration::from_millis(900)), ..asked("", 0) };
    let text = room.arrive(hurried, start + Duration::from_millis(600)).unwrap_err().to_string();
    let expected = "9000 tokens are in flight and admission.max_tokens_in_flight is 10000, lowered to 2250 because \
                    requests wait in inference's queue";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_permit_or_a_wait_makes_room() {
    let config = parse("max_running = 1\nmax_wait = \"1s\"", &[]).unwrap();
    let admission = Admission::new(&config, &weft_runtime::metrics::Metrics::default());
    let (tenant, size) =
        (Tenant::default(), Size { prompt: Extent::Bytes(40), max_tokens: Some(10), answers: 1 });
    let visitor = Visitor { tenant: &tenant, priority: 0, deadline: None, size };
    let permit = admission.admit(visitor).await.unwrap();
    permit.prompt_has(30);
    assert_eq!(lock(&admission.inner.room).used(), Load::of(40));
    let begun = Instant::now();
    let refusal = admission.admit(visitor).await.unwrap_err();
    assert_eq!(
        (refusal.cause, begun.elapsed()),
        (Cause::Waited("admission.max_wait"), Duration::from_secs(1))
    );
    let waits = tokio::time::timeout(Duration::from_millis(5), admission.admit(visitor));
    assert!(waits.await.is_err());
    assert_eq!(lock(&admission.inner.room).waiting(), 0);
    drop(permit);
    let _next = admission.admit(visitor).await.unwrap();
    assert_eq!(lock(&admission.inner.room).used().requests, 1);
}
