//! What operators see of a request, and what they do not.

use weft_runtime::telemetry::test::{Recorder, attribute};

use crate::front::{Front, ask, quiet};

#[tokio::test(start_paused = true)]
async fn a_request_is_one_trace_with_the_models_words_and_none_of_its_texts() {
    let (recorder, _guard) = Recorder::install();
    let front = Front::new().await;
    let asking = front.asking(ask("my private question"));
    let mut call = front.inference.call().await;
    call.start().await;
    call.tokens(&[front.tokenizer.id("my private answer")]).await;
    call.end().await;
    let whole = asking.await.unwrap().unwrap().whole().await;
    quiet().await;

    let spans = recorder.spans();
    let generate = spans.iter().find(|span| span.name == "generate").expect("a span of the generation");
    let trace = generate.span_context.trace_id();
    assert_eq!(whole.started.request_id, trace.to_string());
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "scripted"),
        ("gen_ai.usage.input_tokens", "3"),
        ("gen_ai.usage.output_tokens", "2"),
        ("gen_ai.response.finish_reasons", "stop"),
    ] {
        assert_eq!(attribute(generate, key).as_deref(), Some(value), "{key}");
    }
    assert!(generate.events.iter().any(|event| event.name == "first_token"));
    let asked =
        spans.iter().find(|span| span.name.ends_with("InferenceService/Generate")).expect("inference");
    assert!(generate.end_time >= asked.end_time, "the generation's span ends before its answer");
    let names: Vec<_> = recorder.trace(trace).iter().map(|span| span.name.to_string()).collect();
    for name in [
        "encode",
        "screen_prompt",
        "weft.tokenizer.v1.TokenizerService/EncodeChat",
        "weft.safety.v1.SafetyService/ScreenStream",
        "weft.inference.v1.InferenceService/Generate",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    assert!(!format!("{spans:?}").contains("private"), "a text is in a span");
    // The looks of readiness are nobody's trace.
    assert!(spans.iter().all(|span| !span.name.contains("GetModelInfo")), "a look is traced");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_counted_by_model_reason_and_code() {
    let front = Front::new().await;
    let asking = front.asking(ask("a MILD question"));
    let mut call = front.inference.call().await;
    call.start().await;
    call.tokens(&[front.tokenizer.id("an answer")]).await;
    call.end().await;
    asking.await.unwrap().unwrap().whole().await;
    let asking = front.asking(ask("another"));
    let mut call = front.inference.call().await;
    call.start().await;
    drop(asking.await.unwrap().unwrap());
    call.dropped().await;
    quiet().await;

    let metrics = front.gateway.context.metrics.encode();
    for line in [
        "weft_gateway_request_duration_seconds_count{operation=\"chat\",model=\"scripted\",finish_reason=\"stop\",code=\"OK\"} 1",
        "weft_gateway_request_duration_seconds_count{operation=\"chat\",model=\"scripted\",finish_reason=\"\",code=\"CANCELLED\"} 1",
        "weft_gateway_time_to_first_token_seconds_count{operation=\"chat\",model=\"scripted\"} 1",
        "weft_gateway_tokens_total{model=\"scripted\",kind=\"input\"} 4",
        "weft_gateway_tokens_total{model=\"scripted\",kind=\"output\"} 2",
        "weft_gateway_safety_findings_total{category=\"test.mild\",direction=\"prompt\"} 1",
        "weft_gateway_stage_duration_seconds_count{stage=\"screen_prompt\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
