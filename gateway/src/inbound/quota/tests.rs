//! That a quota is never overshot, whatever happens at once, and that nothing of it is lost.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_runtime::{Process, RuntimeConfig};

use super::*;
use crate::answer::Usage;

const MODEL: &str = "m";

struct Place {
    quotas: Quotas,
    file: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

/// Quotas with these limits.
fn place(limits: &str, window: Duration) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quota.toml");
    fs::write(&file, limits).unwrap();
    let file_config = crate::inbound::watched::FileConfig { path: file.clone(), check_every: window };
    let reloads = crate::metrics::Reloads::default();
    let limits = Watched::open("quota limits", file_config.clone(), reloads, LimitTable::read).unwrap();
    let inner = Inner {
        config: QuotaConfig { window, max_accounts: 2, limits: Some(file_config) },
        clock: Clock::new(window, Instant::now()),
        limits: Some(limits),
        accounts: Mutex::default(),
        metrics: QuotaMetrics::default(),
    };
    Place { quotas: Quotas { inner: Arc::new(inner) }, file, _folder: folder }
}

const HOUR: Duration = Duration::from_secs(3600);

fn acme() -> Tenant {
    Tenant::named("acme")
}

fn in_use(quotas: &Quotas) -> account::Use {
    let accounts = quotas.accounts();
    let account = accounts.values().next().unwrap();
    account.lock().in_use(Instant::now())
}

fn usage(prompt: u32, completion: u32) -> Usage {
    Usage { prompt, completion, cached_prompt: 0 }
}

#[tokio::test(start_paused = true)]
async fn a_request_holds_what_it_may_use_and_pays_what_it_did() {
    let Place { quotas, .. } = &place("[default]\ntokens = 100", HOUR);
    let lease = quotas.begin(&acme(), MODEL).unwrap();
    let reservation = lease.reserve(10, 50, 50).unwrap();
    assert_eq!(reservation.answer(), Some(50));
    assert_eq!((in_use(quotas).tokens, in_use(quotas).reserved), (0, 60));
    reservation.charge(10).unwrap();
    reservation.charge(20).unwrap();
    assert_eq!((in_use(quotas).tokens, in_use(quotas).reserved), (30, 30));
    // A stop string was complete after 15 tokens; inference was ahead by 5.
    reservation.settle(usage(10, 15));
    assert_eq!((in_use(quotas).tokens, in_use(quotas).reserved), (25, 0));
    drop(reservation);
    drop(lease);
    assert_eq!(in_use(quotas), account::Use { requests: 1, tokens: 25, reserved: 0, streams: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_left_pays_for_what_came() {
    let Place { quotas, .. } = &place("[default]\ntokens = 100", HOUR);
    let lease = quotas.begin(&acme(), MODEL).unwrap();
    let reservation = lease.reserve(10, 50, 50).unwrap();
    let other = reservation.clone();
    reservation.charge(13).unwrap();
    drop((lease, reservation));
    assert_eq!(in_use(quotas).reserved, 47, "a clone is the same reservation");
    drop(other);
    assert_eq!(in_use(quotas), account::Use { requests: 1, tokens: 13, reserved: 0, streams: 0 });
}

#[tokio::test(start_paused = true)]
async fn no_more_can_be_used_than_was_reserved() {
    let Place { quotas, .. } = &place("[default]\ntokens = 100", HOUR);
    let lease = quotas.begin(&acme(), MODEL).unwrap();
    // It did not say how much it needs: what is left is all it gets.
    let reservation = lease.reserve(10, 1, 8_000).unwrap();
    assert_eq!(reservation.answer(), Some(90));
    reservation.charge(100).unwrap();
    assert_eq!(Status::from(reservation.charge(1).unwrap_err()).code(), Code::Internal);
    assert_eq!(in_use(quotas).tokens, 100);
}

fn refused(result: Result<impl std::fmt::Debug, Error>) -> Status {
    let status = Status::from(result.unwrap_err());
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    status
}

fn retry(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_which_knob_what_was_measured_and_when_to_come_back() {
    let minute = Duration::from_secs(60);
    let limits = "[[limits]]\ntenant = \"acme\"\ntokens = 100\nrequests = 3\nstreams = 2";
    let Place { quotas, .. } = &place(limits, minute);
    let first = quotas.begin(&acme(), MODEL).unwrap();
    let reservation = first.reserve(40, 40, 40).unwrap();
    reservation.charge(80).unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;

    let second = quotas.begin(&acme(), MODEL).unwrap();
    let status = refused(second.reserve(20, 1, 8_000));
    // Used at 0 s, in the slot that ends at 1 s: forgotten at 61 s.
    assert_eq!(retry(&status), Some(Duration::from_secs(51)));
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "51000");
    let failure = status.get_details_quota_failure().unwrap().violations.remove(0);
    assert_eq!(failure.subject, "tenant:acme model:m");
    assert!(failure.description.contains("80 were used within 60s"), "{failure:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "QUOTA_TOKENS");
    for (key, value) in [("limit", "100"), ("used", "80"), ("reserved", "0"), ("requested", "21")] {
        assert_eq!(info.metadata[key], value, "{key}");
    }

    let never = refused(second.reserve(90, 20, 20));
    assert_eq!(retry(&never), None);
    assert_eq!(never.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");

    let status = refused(quotas.begin(&acme(), MODEL));
    assert_eq!(status.get_details_error_info().unwrap().reason, "QUOTA_STREAMS");
    drop(second);
    drop(quotas.begin(&acme(), MODEL).unwrap());
    let status = refused(quotas.begin(&acme(), MODEL));
    assert_eq!(status.get_details_error_info().unwrap().reason, "QUOTA_REQUESTS");
    assert_eq!(retry(&status), Some(Duration::from_secs(51)));

    tokio::time::advance(Duration::from_secs(51)).await;
    let after = quotas.begin(&acme(), MODEL).unwrap();
    assert!(after.reserve(20, 1, 8_000).is_ok(), "what RetryInfo says is not true");
}

#[tokio::test(start_paused = true)]
async fn accounts_are_bounded_and_idle_ones_make_room() {
    let Place { quotas, .. } = &place("[default]\nrequests = 5", Duration::from_secs(60));
    let tenants = ["a", "b", "c"].map(Tenant::named);
    let _first = quotas.begin(&tenants[0], MODEL).unwrap();
    drop(quotas.begin(&tenants[1], MODEL).unwrap());
    let status = refused(quotas.begin(&tenants[2], MODEL));
    assert_eq!(status.get_details_error_info().unwrap().metadata["knob"], "quota.max_accounts");
    // The second one's only request is forgotten.
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(quotas.begin(&tenants[2], MODEL).is_ok());
}

#[tokio::test(start_paused = true)]
async fn new_limits_hold_from_the_next_request_on() {
    let Place { quotas, file, .. } = &place("[default]\ntokens = 10", HOUR);
    let lease = quotas.begin(&acme(), MODEL).unwrap();
    refused(lease.reserve(5, 6, 6));
    fs::write(file, "[default]\ntokens = 11").unwrap();
    quotas.inner.limits.as_ref().unwrap().look();
    assert!(lease.reserve(5, 6, 6).is_ok());
}

#[tokio::test]
async fn without_a_limits_file_nothing_is_limited() {
    let process = Process::new("gateway", RuntimeConfig::default());
    let metrics = Metrics::new(&process.context().metrics);
    let config = QuotaConfig { window: HOUR, max_accounts: 1, limits: None };
    let quotas = Quotas::new(&config, process.context(), &metrics).unwrap();
    for tenant in ["a", "b"] {
        let lease = quotas.begin(&Tenant::named(tenant), MODEL).unwrap();
        let reservation = lease.reserve(u32::MAX, 1, u64::from(u32::MAX)).unwrap();
        assert_eq!(reservation.answer(), None);
        reservation.charge(1 << 40).unwrap();
    }
}

/// What happens to a quota.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u64),
    Begin { prompt: u32, max: u64 },
    Generate { which: usize, count: u64 },
    Finish { which: usize, ahead: u32 },
    Leave { which: usize },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0_u64..40_000).prop_map(Happening::Pass),
        (1_u32..40, 1_u64..60).prop_map(|(prompt, max)| Happening::Begin { prompt, max }),
        (0_usize..8, 1_u64..20).prop_map(|(which, count)| Happening::Generate { which, count }),
        (0_usize..8, 0_u32..4).prop_map(|(which, ahead)| Happening::Finish { which, ahead }),
        (0_usize..8).prop_map(|which| Happening::Leave { which }),
    ]
}

/// A request in flight, and every token that it was charged, by its time.
struct Flight {
    _lease: Lease,
    reservation: Reservation,
    left: u64,
    prompt: u32,
    generated: Vec<u64>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn in_every_window_no_more_is_used_than_the_limit(happenings in vec(happening(), 1..120)) {
        const LIMIT: u64 = 100;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let Place { quotas, .. } = &place("[default]\ntokens = 100", Duration::from_secs(60));
            let begun = Instant::now();
            let millis = || u64::try_from(begun.elapsed().as_millis()).unwrap();
            let mut flights: Vec<Flight> = Vec::new();
            // When each token was used that is paid for or was on its way to be.
            let mut over: Vec<u64> = Vec::new();
            for happening in happenings {
                match happening {
                    Happening::Pass(time) => tokio::time::advance(Duration::from_millis(time)).await,
                    Happening::Begin { prompt, max } => {
                        let Ok(lease) = quotas.begin(&acme(), MODEL) else { continue };
                        let Ok(reservation) = lease.reserve(prompt, max, max) else { continue };
                        reservation.charge(prompt.into()).unwrap();
                        let generated = vec![millis(); prompt as usize];
                        flights.push(Flight { _lease: lease, reservation, left: max, prompt, generated });
                    }
                    Happening::Generate { which, count } => {
                        let Some(flight) = flights.get_mut(which) else { continue };
                        let count = count.min(flight.left);
                        flight.reservation.charge(count).unwrap();
                        flight.left -= count;
                        flight.generated.extend(std::iter::repeat_n(millis(), count as usize));
                    }
                    Happening::Finish { which, ahead } => {
                        if which >= flights.len() { continue }
                        let mut flight = flights.swap_remove(which);
                        let answer = u32::try_from(flight.generated.len()).unwrap() - flight.prompt;
                        let kept = answer.saturating_sub(ahead);
                        flight.reservation.settle(usage(flight.prompt, kept));
                        flight.generated.truncate((flight.prompt + kept) as usize);
                        over.extend(flight.generated);
                    }
                    Happening::Leave { which } => {
                        if which < flights.len() {
                            over.extend(flights.swap_remove(which).generated);
                        }
                    }
                }
                let now = millis();
                let times = over.iter().chain(flights.iter().flat_map(|flight| &flight.generated));
                let within = times.filter(|at| **at + 60_000 > now).count() as u64;
                prop_assert!(within <= LIMIT, "{within} tokens within a window");
                let Some(used) = quotas.accounts().values().next().map(|account| account.lock().in_use(Instant::now())) else { continue };
                prop_assert!(within <= used.tokens, "{within} were used, {} are noted", used.tokens);
                prop_assert!(used.tokens + used.reserved <= LIMIT, "{used:?}");
                prop_assert_eq!(used.reserved, flights.iter().map(|flight| flight.left).sum::<u64>());
                prop_assert_eq!(used.streams, flights.len() as u64);
            }
            drop(flights);
            tokio::time::advance(Duration::from_secs(61)).await;
            if let Some(account) = quotas.accounts().values().next() {
                prop_assert!(account.lock().is_idle(Instant::now()), "something is lost");
            }
            Ok(())
        })?;
    }
}

#[test]
fn many_requests_at_once_never_hold_more_than_the_limit() {
    const LIMIT: u64 = 300;
    let Place { quotas, .. } = &place("[default]\ntokens = 300", HOUR);
    // What requests hold or have used, as they know it themselves.
    let taken = AtomicU64::new(0);
    let used = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (taken, used) = (&taken, &used);
            scope.spawn(move || {
                for round in 0..500_u64 {
                    let lease = quotas.begin(&acme(), MODEL);
                    let Ok(lease) = lease else { continue };
                    let max = 1 + (thread * 31 + round * 7) % 90;
                    let Ok(reservation) = lease.reserve(10, max, max) else { continue };
                    let before = taken.fetch_add(10 + max, Ordering::SeqCst);
                    assert!(before + 10 + max <= LIMIT, "{before} were taken, and {max} more");
                    // One in a hundred is paid for, the others leave without a token.
                    let paid = if round % 100 == 0 { 1 } else { 0 };
                    reservation.charge(paid).unwrap();
                    used.fetch_add(paid, Ordering::SeqCst);
                    taken.fetch_sub(10 + max - paid, Ordering::SeqCst);
                }
            });
        }
    });
    let end = in_use(quotas);
    assert_eq!((end.tokens, end.reserved, end.streams), (used.into_inner(), 0, 0));
    assert!(end.tokens > 0);
}
