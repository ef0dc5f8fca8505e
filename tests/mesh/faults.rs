//! What happens when something breaks, caused for real.

use std::time::Duration;

use tonic::Code;
use weft_proto::gateway::v1::chat_response::Event;
use weft_tests::{
    Brain, Mesh, Room,
    caller::{chat, collect, greedy, within},
    mesh::Plan,
};

use crate::soon;

fn endless(max_tokens: u32) -> weft_proto::gateway::v1::ChatRequest {
    let mut options = greedy(max_tokens);
    options.stop.get_or_insert_default().ignore_eos = true;
    chat("Go on.", options)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_frees_its_blocks_before_the_next_step() {
    let mesh = Mesh::with(Brain::Endless).await;
    let mut stream = mesh.caller().stream(endless(4000)).await.unwrap();
    while !matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Delta(_))) {}
    drop(stream);
    soon("freeing", mesh.engine().idle()).await;
    let status = mesh.engine().status();
    assert_eq!(status.blocks_free, status.blocks_total);
    assert_eq!(status.running, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_request_never_enters_prefill() {
    let plan = Plan { inference: "[scheduler]\nmax_sequences = 1\n".to_owned(), ..plan(Brain::Endless) };
    let mesh = Mesh::start(plan).await;
    let gate = mesh.hands().controls().gate;
    // One request holds the only place, and the model stands still.
    let _first = mesh.caller().stream(endless(4000)).await.unwrap();
    gate.close();
    soon("the gate", gate.held()).await;
    let rows = mesh.hands().controls().rows();
    let refused = within(Duration::from_millis(200), endless(10));
    let status = soon("the deadline", mesh.caller().answer(refused)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    gate.admit(4);
    soon("four steps", gate.held()).await;
    // Whatever ran since was the first request's: one row a step.
    assert!(mesh.hands().controls().rows() <= rows + 4);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_covers_the_whole_stream() {
    let mesh = Mesh::with(Brain::Endless).await;
    let caller = mesh.caller();
    let gate = mesh.hands().controls().gate;
    let mut stream = caller.stream(within(Duration::from_secs(2), endless(4000))).await.unwrap();
    while !matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Delta(_))) {}
    gate.close();
    let status = soon("the deadline", collect(stream)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    gate.open();
    soon("freeing", mesh.engine().idle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_is_unavailable_at_once_and_all_is_well_when_it_is_back() {
    let mut mesh = Mesh::with(Brain::Endless).await;
    for room in [Room::Tokenizer, Room::Inference, Room::Safety] {
        let mut stream = mesh.caller().stream(endless(4000)).await.unwrap();
        while !matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Delta(_))) {}
        mesh.kill(room);
        let second = Duration::from_secs(1);
        let status = tokio::time::timeout(second, collect(stream)).await.expect("hangs").unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{room:?} in mid-stream: {status:?}");
        let asked = tokio::time::timeout(second, mesh.caller().ask("Still there?", 4)).await.expect("hangs");
        assert_eq!(asked.unwrap_err().code(), Code::Unavailable, "{room:?} afterwards");
        mesh.revive(room);
        soon("recovery", mesh.context(room).health.serving()).await;
        soon("an answer", async {
            while mesh.caller().ask("And now?", 4).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        soon("freeing", mesh.engine().idle()).await;
        let status = mesh.engine().status();
        assert_eq!(status.blocks_free, status.blocks_total, "{room:?} left blocks behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_is_internal_and_the_next_request_is_served() {
    let mesh = Mesh::with(Brain::Endless).await;
    mesh.hands().controls().fail(1);
    let status = soon("the failure", mesh.caller().answer(endless(8))).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("told to fail"), "our own words leak: {status:?}");
    let answer = soon("an answer", mesh.caller().answer(endless(8))).await.unwrap();
    assert_eq!(answer.completion_tokens(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_service_is_not_ready_and_says_which() {
    let mut mesh = Mesh::unstarted(plan(Brain::Endless));
    for room in [Room::Tokenizer, Room::Inference, Room::Gateway] {
        mesh.revive(room);
    }
    let status = soon("a refusal", async {
        loop {
            let status = mesh.caller().ask("Anyone?", 4).await.unwrap_err();
            if status.message().contains("safety") {
                break status;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable);
    let conditions = mesh.context(Room::Gateway).health.conditions();
    assert!(format!("{conditions:?}").contains("safety"), "{conditions:?}");
    mesh.revive(Room::Safety);
    soon("readiness", mesh.ready()).await;
    soon("an answer", mesh.caller().ask("Anyone?", 4)).await.unwrap();
}

fn plan(brain: Brain) -> Plan {
    Plan { brain, inference: String::new(), gateway: String::new(), runtime: Default::default() }
}
