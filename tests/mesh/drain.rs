//! Stopping without losing anything.

use std::time::Duration;

use tonic::Code;
use weft_proto::gateway::v1::chat_response::Event;
use weft_runtime::RuntimeConfig;
use weft_tests::{
    Brain, Mesh, Room,
    caller::{chat, collect, greedy},
    mesh::Plan,
};

use crate::soon;

fn plan(limit: Duration) -> Plan {
    let mut runtime = RuntimeConfig::default();
    runtime.drain.announce = Duration::ZERO;
    runtime.drain.limit = limit;
    Plan { brain: Brain::Endless, inference: String::new(), gateway: String::new(), runtime }
}

fn long(max_tokens: u32) -> weft_proto::gateway::v1::ChatRequest {
    let mut options = greedy(max_tokens);
    options.stop.get_or_insert_default().ignore_eos = true;
    chat("Go on.", options)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_drains_while_its_streams_finish() {
    for room in Room::ALL {
        let mut mesh = Mesh::start(plan(Duration::from_secs(60))).await;
        let mut stream = mesh.caller().stream(long(200)).await.unwrap();
        while !matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Delta(_))) {}
        mesh.begin_stop(room);
        let answer = soon("the stream", collect(stream)).await;
        let answer = answer.unwrap_or_else(|status| panic!("{room:?} cut a stream: {status:?}"));
        assert_eq!(answer.completion_tokens(), 200);
        soon("stopping", mesh.stop(room)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_bounded_and_what_remains_is_told() {
    let mut mesh = Mesh::start(plan(Duration::from_millis(100))).await;
    let mut stream = mesh.caller().stream(long(4000)).await.unwrap();
    while !matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Delta(_))) {}
    mesh.hands().controls().gate.close();
    mesh.begin_stop(Room::Gateway);
    let status = soon("the stream", collect(stream)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let ended = soon("stopping", mesh.stop(Room::Gateway)).await.unwrap_err().to_string();
    assert!(ended.contains('1'), "says how many calls were cancelled: {ended}");
    mesh.hands().controls().gate.open();
}
