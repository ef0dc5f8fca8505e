use super::*;
use crate::waterfall::jaeger::parse;

/// A chat as Jaeger's query API answers it, with the fields that are not read left out.
const CHAT: &str = r#"{"data":[{"traceID":"0af7651916cd43dd8448eb211c80319c","spans":[
 {"spanID":"c1","operationName":"weft.inference.v1.InferenceService/Generate","references":[{"refType":"CHILD_OF","spanID":"b1"}],
  "startTime":1020000,"duration":70000,"tags":[],"logs":[{"timestamp":1050000,"fields":[{"key":"event","value":"first_token"}]}],"processID":"p2"},
 {"spanID":"a1","operationName":"weft.gateway.v1.GatewayService/Chat","references":[{"refType":"CHILD_OF","spanID":"client"}],
  "startTime":1000000,"duration":100000,"tags":[],"logs":[],"processID":"p1"},
 {"spanID":"b1","operationName":"generate","references":[{"refType":"CHILD_OF","spanID":"a1"}],
  "startTime":1010000,"duration":85000,"tags":[],"logs":[],"processID":"p1"},
 {"spanID":"d1","operationName":"screen","references":[{"refType":"CHILD_OF","spanID":"a1"}],
  "startTime":1005000,"duration":10000,"tags":[{"key":"error","value":true},{"key":"otel.status_description","value":"UNAVAILABLE"}],
  "logs":[],"processID":"p3"}],
 "processes":{"p1":{"serviceName":"weft-gateway"},"p2":{"serviceName":"weft-inference"},"p3":{"serviceName":"weft-safety"}}}],
 "errors":null}"#;

fn chat() -> Trace {
    parse(CHAT).unwrap().remove(0)
}

#[test]
fn a_trace_is_drawn_as_a_waterfall() {
    let picture = render(&Ui::plain(72), &chat());
    let expected = "\
trace 0af7651916cd43dd8448eb211c80319c · 100ms · 4 spans of 3 services · 1 span failed

gateway  GatewayService/Chat               0µs    100ms ████████████████
├ safety  screen                   ✗   5.0ms   10.0ms ██
  ✗ UNAVAILABLE
└ gateway  generate                     10.0ms   85.0ms  ██████████████
  └ inference  InferenceService/Generate   20.0ms   70.0ms    █████◆████
    ◆ first_token at 50.0ms

where the time went (what streams beside the model counts when nothing else runs)
  weft-inference 70.0ms 70.0 % 
  weft-gateway 22.5ms 22.5 %
  weft-safety 7.5ms 7.5 %";
    for (found, wanted) in picture.lines().zip(expected.lines()) {
        let (found, wanted): (Vec<&str>, Vec<&str>) = (words(found), words(wanted));
        assert_eq!(found, wanted, "\n{picture}");
    }
}

/// Words without bars: how many blocks a bar has depends on the widest name.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().filter(|word| !word.contains('█')).collect()
}

#[test]
fn bars_begin_and_end_where_their_spans_do() {
    let trace = chat();
    let scale = Scale { start: trace.start(), duration: trace.duration(), name_width: 10, bar_width: 11 };
    let bar = |id: &str| scale.bar(trace.spans.iter().find(|span| span.id == id).unwrap());
    assert_eq!(bar("a1"), "███████████");
    assert_eq!(bar("c1"), "  ███◆████");
    assert_eq!(bar("d1"), "██");
}

#[test]
fn each_moment_is_shared_by_those_who_run_and_have_nobody_running_below() {
    let trace = chat();
    let nodes = tree(&trace);
    let credit = |id: &str| nodes.iter().find(|node| node.span.id == id).unwrap().credit;
    // Screen runs 5..15 ms, generate 10..95 ms, Generate below it 20..90 ms, Chat around them all 0..100 ms.
    let found = ["a1", "b1", "c1", "d1"].map(credit);
    assert_eq!(found, [10_000.0, 2_500.0 + 5_000.0 + 5_000.0, 70_000.0, 5_000.0 + 2_500.0]);
    assert_eq!(by_service(&nodes)[0], ("weft-inference", 70_000.0));
}

#[test]
fn what_streams_beside_the_model_is_given_only_what_nobody_else_uses() {
    // The span that was `screen` streams until 5 ms after the model's end, at 90 ms.
    let text = CHAT.replace(r#""operationName":"screen""#, r#""operationName":"SafetyService/ScreenStream""#);
    let text =
        text.replace(r#""startTime":1005000,"duration":10000"#, r#""startTime":1015000,"duration":85000"#);
    let trace = parse(&text).unwrap().remove(0);
    let nodes = tree(&trace);
    let safety = by_service(&nodes).into_iter().find(|(service, _)| *service == "weft-safety");
    assert_eq!(safety, Some(("weft-safety", 5_000.0)));
}

#[test]
fn a_child_that_outlives_its_parent_still_stands_for_all_above_it() {
    // `generate` ends at 30 ms, the model below it at 90 ms.
    let text =
        CHAT.replace(r#""startTime":1010000,"duration":85000"#, r#""startTime":1010000,"duration":20000"#);
    let trace = parse(&text).unwrap().remove(0);
    let inference = by_service(&tree(&trace))[0];
    assert_eq!(inference, ("weft-inference", 70_000.0));
}

#[test]
fn a_ring_of_parents_is_shown_and_ends() {
    let text = CHAT.replace(r#""spanID":"client""#, r#""spanID":"b1""#);
    let trace = parse(&text).unwrap().remove(0);
    let mut shown: Vec<&str> = tree(&trace).iter().map(|node| node.span.id.as_str()).collect();
    shown.sort_unstable();
    assert_eq!(shown, ["a1", "b1", "c1", "d1"]);
}

#[test]
fn an_empty_answer_is_no_trace() {
    assert!(parse(r#"{"data":null,"errors":[{"code":404,"msg":"trace not found"}]}"#).unwrap().is_empty());
    assert!(parse("<html>").is_err());
}
