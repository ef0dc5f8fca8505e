//! What a caller is promised.

use std::time::Duration;

use super::{scores::run_with, *};
use crate::{model::DeviceMemory, request::Inputs};

const SCRIPT: [u32; 4] = [10, 20, 10, 30];

fn scripted() -> Setup {
    Setup { model: Scripted::saying(VOCABULARY, SCRIPT.to_vec(), END), ..Setup::default() }
}

fn ending_at(ids: &[u32], request: Generate, min_tokens: usize) -> Generate {
    let rules = StopRules::new(request.rules.max_tokens(), min_tokens, ids.to_vec());
    Generate { rules, ..request }
}

fn ending_of(events: &[Result<Event, EngineError>]) -> Option<Ending> {
    match events.last() {
        Some(Ok(Event::Finished(finished))) => Some(finished.ending),
        _ => None,
    }
}

#[test]
fn a_generation_is_a_start_tokens_and_an_end() {
    let mut bench = Bench::new(scripted());
    let mut generation = bench.start(ending_at(&[END], request(&[1, 2, 3], 50), 0));
    bench.run();
    let events = heard(&mut generation);
    assert!(matches!(
        events[0],
        Ok(Event::Started { prompt_tokens: 3, seed: 5, cached_prompt_tokens: 0, .. })
    ));
    assert_eq!(tokens(&events), [10, 20, 10, 30, END]);
    let Some(Ok(Event::Finished(finished))) = events.last() else { panic!("no end in {events:?}") };
    assert_eq!(finished.ending, Ending::Stop(END));
    assert_eq!((finished.prompt_tokens, finished.completion_tokens), (3, 5));
    assert_eq!(bench.count_of(Outcome::Stop), 1);
    assert_eq!(generation.next().now_or_never(), Some(None), "nothing follows the end");
}

#[test]
fn a_generation_ends_at_its_greatest_length() {
    let mut bench = Bench::new(scripted());
    let mut generation = bench.start(request(&[1, 2, 3], 2));
    bench.run();
    let events = heard(&mut generation);
    assert_eq!((tokens(&events), ending_of(&events)), (vec![10, 20], Some(Ending::Length)));
}

#[test]
fn a_stop_id_ends_it_and_is_the_last_id_sent() {
    let mut bench = Bench::new(scripted());
    let mut generation = bench.start(ending_at(&[20], request(&[1], 50), 0));
    bench.run();
    let events = heard(&mut generation);
    assert_eq!((tokens(&events), ending_of(&events)), (vec![10, 20], Some(Ending::Stop(20))));
}

#[test]
fn no_end_token_is_chosen_before_the_least_length() {
    let mut bench = Bench::new(scripted());
    let mut generation = bench.start(ending_at(&[10, END], request(&[1], 50), 3));
    bench.run();
    let said = tokens(&heard(&mut generation));
    assert!(said.len() >= 3, "{said:?}");
    assert!(said[..3].iter().all(|token| *token != 10 && *token != END), "{said:?}");
}

#[test]
fn a_dropped_stream_frees_its_blocks_before_the_next_forward_pass() {
    let mut bench = Bench::new(Setup::default());
    let generation = bench.start(request(&[1; 9], 50));
    let mut other = bench.start(request(&[2; 3], 50));
    bench.steps(3);
    let held_by_both = bench.total() - bench.free();
    assert!(held_by_both >= 4);
    drop(generation);
    let rows = bench.controls.rows();
    bench.steps(1);
    assert_eq!(bench.controls.rows(), rows + 1, "the next forward pass has a row for the other alone");
    assert_eq!(bench.total() - bench.free(), 2);
    assert_eq!(bench.count_of(Outcome::Aborted), 1);
    assert!(!heard(&mut other).is_empty());
}

#[test]
fn a_stream_that_is_dropped_while_it_waits_never_runs() {
    let mut bench = Bench::new(Setup::default());
    let rows = bench.controls.rows();
    drop(bench.start(request(&[1; 9], 50)));
    assert_eq!(bench.engine.step(), Turn::Idle);
    assert_eq!(bench.controls.rows(), rows);
}

#[tokio::test(start_paused = true)]
async fn an_expired_request_never_enters_prefill() {
    let mut bench = Bench::new(Setup::default());
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut generation = bench.handle.generate(request(&[1; 9], 50), Some(deadline)).unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    let rows = bench.controls.rows();
    assert_eq!(bench.engine.step(), Turn::Idle);
    assert_eq!(bench.controls.rows(), rows);
    assert_eq!(heard(&mut generation), [Err(EngineError::Expired)]);
    assert_eq!(bench.count_of(Outcome::Expired), 1);
}

#[tokio::test(start_paused = true)]
async fn a_running_request_that_expires_is_dropped_before_the_next_step() {
    let mut bench = Bench::new(Setup::default());
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut generation = bench.handle.generate(request(&[1; 9], 50), Some(deadline)).unwrap();
    bench.steps(2);
    tokio::time::advance(Duration::from_secs(1)).await;
    let passes = bench.controls.passes();
    assert_eq!(bench.engine.step(), Turn::Idle);
    assert_eq!(bench.controls.passes(), passes);
    assert_eq!(bench.free(), bench.total());
    assert_eq!(heard(&mut generation).last(), Some(&Err(EngineError::Expired)));
}

#[test]
fn a_full_house_refuses_and_says_when_to_come_back() {
    let mut bench = Bench::new(Setup { capacity: 2, ..Setup::default() });
    let _first = bench.start(request(&[1], 1));
    let _second = bench.start(request(&[1], 1));
    let refused = bench.handle.generate(request(&[1], 1), None).unwrap_err();
    assert!(matches!(refused, EngineError::QueueFull { held: 2, capacity: 2, .. }), "{refused:?}");
    let status = tonic::Status::from(refused);
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(weft_runtime::status::reason_of(&status).as_deref(), Some("QUEUE_FULL"));
    bench.run();
    assert!(bench.handle.generate(request(&[1], 1), None).is_ok(), "places are free again");
}

#[test]
fn a_slow_reader_stalls_nobody_and_loses_nothing() {
    let mut bench = Bench::new(Setup::default());
    let mut slow = bench.start(request(&[1, 2], 200));
    let mut quick = bench.start(request(&[3, 4], 20));
    for _ in 0..21 {
        bench.engine.step();
        heard(&mut quick);
    }
    assert!(quick.ended(), "the quick reader's generation is done");
    bench.run();
    let events = heard(&mut slow);
    assert_eq!(tokens(&events).len(), 200);
    assert_eq!(ending_of(&events), Some(Ending::Length));
}

#[test]
fn logprobs_come_with_every_token_where_they_were_asked_for() {
    let mut bench = Bench::new(scripted());
    let mut generation = bench.start(Generate { top_logprobs: Some(2), ..request(&[1], 3) });
    bench.run();
    for event in heard(&mut generation) {
        let Ok(Event::Token { choice, .. }) = event else { continue };
        let logprobs = choice.logprobs.unwrap();
        assert_eq!(logprobs.top.len(), 2);
        assert_eq!(logprobs.top[0].0, choice.token);
        assert!(logprobs.chosen <= 0.0 && logprobs.chosen > -1e-3, "the script is all but certain");
    }
}

#[tokio::test(start_paused = true)]
async fn an_embedding_is_the_unit_mean_however_the_prompt_was_cut() {
    let input: Vec<u32> = (1..40).collect();
    let mut vectors = Vec::new();
    for max_batched_tokens in [64, 7] {
        let limits = StepLimits { max_sequences: 4, max_batched_tokens };
        let mut bench = Bench::new(Setup { limits, ..Setup::default() });
        let handle = bench.handle.clone();
        let embed = handle.embed(vec![input.clone(), vec![3, 4]], None);
        let mut embed = std::pin::pin!(embed);
        assert!(embed.as_mut().now_or_never().is_none());
        bench.run();
        let answer = embed.as_mut().now_or_never().unwrap().unwrap();
        assert_eq!(answer.len(), 2);
        vectors.push(answer[0].clone());
        assert_eq!(bench.free(), bench.total());
        assert_eq!(bench.count_of(Outcome::Embedded), 2);
    }
    let length: f32 = vectors[0].iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() < 1e-5);
    vectors[0].iter().zip(&vectors[1]).for_each(|(one, other)| assert!((one - other).abs() < 1e-5));
}

#[tokio::test]
async fn a_dropped_embed_call_frees_its_blocks_and_places() {
    let limits = StepLimits { max_sequences: 4, max_batched_tokens: 4 };
    let mut bench = Bench::new(Setup { limits, capacity: 2, ..Setup::default() });
    let handle = bench.handle.clone();
    {
        let embed = handle.embed(vec![vec![1; 30], vec![2; 30]], None);
        let mut embed = std::pin::pin!(embed);
        assert!(embed.as_mut().now_or_never().is_none());
        bench.steps(1);
    }
    assert_eq!(bench.engine.step(), Turn::Idle);
    assert_eq!(bench.free(), bench.total());
    assert!(bench.handle.generate(request(&[1], 1), None).is_ok());
}

#[test]
fn status_counts_what_was_done() {
    let mut bench = Bench::new(Setup::default());
    let _generation = bench.start(request(&[1; 20], 5));
    bench.run();
    let status = bench.handle.status();
    assert_eq!((status.prefilled, status.generated), (20, 5));
    assert_eq!(status.steps, 2 + 4, "16 and 4 rows of prompt, then four decodes");
    assert_eq!((status.waiting, status.running, status.blocks_free), (0, 0, status.blocks_total));
}

#[test]
fn metrics_are_named_and_counted() {
    let mut bench = Bench::new(Setup::default());
    let _generation = bench.start(request(&[1; 3], 5));
    bench.run();
    let page = bench.context.metrics.encode();
    for line in [
        "weft_tokens_total{kind=\"generated\"} 5",
        "weft_tokens_total{kind=\"prefilled\"} 3",
        "weft_requests_ended_total{outcome=\"length\"} 1",
        "weft_kv_blocks_total 64",
        "weft_kv_blocks_used 0",
        "weft_step_seconds_count{part=\"forward\"} 5",
        "weft_time_to_first_token_seconds_count 1",
        "weft_time_per_output_token_seconds_count 1",
        "weft_queue_seconds_count 1",
        "weft_prefill_seconds_count 1",
        "weft_decode_seconds_count 1",
        "weft_tenants_known 1",
        "weft_preemptions_total 0",
    ] {
        assert!(page.contains(line), "{line} is missing in:\n{page}");
    }
}

#[test]
fn the_memory_of_a_gpu_is_told_and_no_other() {
    let page = |model| {
        let bench = Bench::new(Setup { model, ..Setup::default() });
        let mut bench = bench;
        assert_eq!(bench.engine.step(), Turn::Idle);
        bench.context.metrics.encode()
    };
    let mut model = Scripted::unsure(VOCABULARY).on_device(DeviceMemory { free: 30, total: 80 });
    model.info_mut().device = "cuda:1".to_owned();
    let told = page(model);
    for line in [
        "weft_device_memory_used_bytes{device=\"cuda:1\"} 50",
        "weft_device_memory_total_bytes{device=\"cuda:1\"} 80",
    ] {
        assert!(told.contains(line), "{line} is missing in:\n{told}");
    }
    assert!(!page(Scripted::unsure(VOCABULARY)).contains("weft_device_memory_used_bytes{"));
}

#[test]
fn what_the_inference_extension_reads_has_the_names_that_it_knows() {
    let mut bench = Bench::new(Setup { blocks: 8, ..Setup::default() });
    let limits = StepLimits { max_sequences: 1, max_batched_tokens: 16 };
    let mut full = Bench::new(Setup { blocks: 8, limits, ..Setup::default() });
    let _running = (full.start(request(&[1; 7], 9)), full.start(request(&[1; 3], 5)));
    full.steps(1);
    bench.run();
    for (bench, waiting, running, part) in [(&bench, 0, 0, "0.0"), (&full, 1, 1, "0.25")] {
        let page = bench.context.metrics.encode();
        for line in [
            format!("vllm:num_requests_waiting {waiting}\n"),
            format!("vllm:num_requests_running {running}\n"),
            format!("vllm:kv_cache_usage_perc {part}\n"),
            "vllm:cache_config_info{block_size=\"4\",num_gpu_blocks=\"8\"} 1\n".to_owned(),
        ] {
            assert!(page.contains(&line), "{line} is missing in:\n{page}");
        }
    }
}

/// An engine that was seen to compute 16 tokens of a prompt in 100 ms, and is idle.
async fn measured() -> Bench {
    let pacing = Pacing { step_stretch: Some(2.0), refuse_hopeless: true };
    let mut bench = Bench::new(Setup { pacing, ..Setup::default() });
    let mut first = bench.start(request(&[9; 64], 1));
    while bench.engine.step() == Turn::Worked {
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert_eq!(tokens(&heard(&mut first)).len(), 1);
    bench
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_in_time_is_refused_before_its_prefill_and_told_why() {
    let mut bench = measured().await;
    // By measure it takes 400 ms, of which half is certain.
    let within = |millis| Some(Instant::now() + Duration::from_millis(millis));
    let mut hopeless = bench.handle.generate(request(&[1; 64], 5), within(150)).unwrap();
    let rows = bench.controls.rows();
    assert_eq!(bench.engine.step(), Turn::Idle);
    assert_eq!(bench.controls.rows(), rows);
    let Some(Err(error)) = heard(&mut hopeless).pop() else { panic!("it was not refused") };
    let status = tonic::Status::from(error);
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(
        status.message(),
        "the deadline is 150.0ms away, and a prompt of 64 tokens takes at least 200.0ms until its first token, even if \
         nothing else ran"
    );
    assert_eq!((bench.count_of(Outcome::Hopeless), bench.count_of(Outcome::Expired)), (1, 0));
    let mut hopeful = bench.handle.generate(request(&[1; 64], 1), within(250)).unwrap();
    bench.run();
    assert_eq!(tokens(&heard(&mut hopeful)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_refused_as_soon_as_it_has_become_hopeless() {
    let mut bench = measured().await;
    let urgent = |prompt: &[u32], tokens| Generate { priority: 1, ..request(prompt, tokens) };
    let _others: Vec<_> = (0..8).map(|_| bench.start(urgent(&[2; 3], 50))).collect();
    let deadline = Instant::now() + Duration::from_millis(950);
    let mut waits = bench.handle.generate(request(&[1; 64], 5), Some(deadline)).unwrap();
    let mut steps = 0;
    while bench.count_of(Outcome::Hopeless) == 0 {
        assert_eq!(bench.engine.step(), Turn::Worked);
        tokio::time::advance(Duration::from_millis(100)).await;
        steps += 1;
    }
    assert!(
        (7..=9).contains(&steps),
        "at 750 ms, when 200 are left, not at the deadline: after {steps} steps"
    );
    assert!(matches!(heard(&mut waits).pop(), Some(Err(EngineError::Hopeless { .. }))));
}

#[test]
fn a_tenant_that_has_its_share_is_refused_and_others_are_not() {
    let mut bench = Bench::new(Setup { capacity: 4, ..Setup::default() });
    let of = |tenant: &str| Generate { tenant: tenant.into(), ..request(&[1], 1) };
    let _held = [bench.start(of("noisy")), bench.start(of("noisy"))];
    let refused = bench.handle.generate(of("noisy"), None).unwrap_err();
    assert!(matches!(refused, EngineError::ShareFull { held: 2, share: 2, .. }), "{refused:?}");
    let status = tonic::Status::from(refused);
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(weft_runtime::status::reason_of(&status).as_deref(), Some("TENANT_SHARE_FULL"));
    assert!(bench.handle.generate(of("quiet"), None).is_ok());
    let inputs = |tenant: &str| Inputs { token_ids: vec![vec![1]], tenant: tenant.into() };
    let handle = bench.handle.clone();
    let refused = run_with(&mut bench, handle.score(inputs("noisy"), None, None)).unwrap_err();
    assert!(matches!(refused, EngineError::ShareFull { .. }), "{refused:?}");
    assert!(run_with(&mut bench, handle.embed(inputs("quiet"), None)).is_ok());
    assert_eq!(bench.count_of(Outcome::ShareFull), 2);
}

/// Of every size up to the first that holds what a step may: ones that decode, and ones with prompts of two tokens.
#[test]
fn no_request_waits_for_a_step_that_is_recorded() {
    let model = Scripted::unsure(VOCABULARY).recording(&[1, 4, 12, 32, 64]);
    let limits = StepLimits { max_sequences: 8, max_batched_tokens: 16 };
    let bench = Bench::new(Setup { model, limits, ..Setup::default() });
    let warm_up = 2;
    assert_eq!(bench.controls.passes(), warm_up + 3 + 3);
    assert_eq!(bench.controls.rows(), (4 + 1) + (1 + 4 + 12) + (4 + 12 + 32));
    assert_eq!(bench.free(), bench.total());
}
