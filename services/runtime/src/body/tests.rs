use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, Status>>;

/// A response whose frames the test sends.
fn response() -> (Frames, Response<Body>) {
    let (frames, stream) = mpsc::unbounded_channel();
    let body = http_body_util::StreamBody::new(UnboundedReceiverStream::new(stream));
    (frames, Response::new(Body::new(body)))
}

fn message() -> Result<Frame<Bytes>, Status> {
    Ok(Frame::data(Bytes::from_static(b"token")))
}

fn end(status: &Status) -> Result<Frame<Bytes>, Status> {
    trailers(status).map(Frame::trailers)
}

/// Remembers every call, to see that there is one.
fn recorder() -> (Arc<Mutex<Vec<Option<Code>>>>, impl OnEnd) {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let ours = Arc::clone(&ends);
    (ends, move |code| ours.lock().unwrap().push(code))
}

struct Permit(#[expect(dead_code, reason = "held for its drop")] tokio::sync::OwnedSemaphorePermit);

impl OnEnd for Permit {
    fn on_end(self, _: Option<Code>) {}
}

/// Fact 3: tower's `ConcurrencyLimit` frees its permit at the response's headers.
#[tokio::test]
async fn a_permit_is_held_until_the_last_message_and_not_until_the_headers() {
    let room = Arc::new(Semaphore::new(1));
    let permit = Permit(Arc::clone(&room).try_acquire_owned().unwrap());
    let (frames, response) = response();
    let mut body = observe(response, permit).into_body();
    assert_eq!(room.available_permits(), 0, "the headers are there");

    frames.send(message()).unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(room.available_permits(), 0, "a message is there");

    frames.send(end(&Status::ok(""))).unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(room.available_permits(), 1, "the end is there");
}

/// Fact 4: load that falls before the end of the stream makes a balancer blind. Here it counts open streams.
#[tokio::test]
async fn the_load_of_an_endpoint_is_its_open_streams() {
    let load = Arc::new(AtomicUsize::new(0));
    let mut open = Vec::new();
    for _ in 0..3 {
        load.fetch_add(1, Ordering::SeqCst);
        let ours = Arc::clone(&load);
        let (frames, response) = response();
        let fall = move |_| {
            ours.fetch_sub(1, Ordering::SeqCst);
        };
        open.push((frames, observe(response, fall).into_body()));
    }
    assert_eq!(load.load(Ordering::SeqCst), 3);

    let (frames, mut body) = open.pop().unwrap();
    frames.send(end(&Status::unavailable(""))).unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(load.load(Ordering::SeqCst), 2, "one has failed");

    open.pop();
    assert_eq!(load.load(Ordering::SeqCst), 1, "one was dropped");
}

#[tokio::test]
async fn an_end_is_told_once_with_the_code_of_the_trailers() {
    let (ends, on_end) = recorder();
    let (frames, response) = response();
    let mut body = observe(response, on_end).into_body();
    frames.send(end(&Status::data_loss("torn"))).unwrap();
    body.frame().await.unwrap().unwrap();
    drop(frames);
    assert!(body.frame().await.is_none());
    drop(body);
    assert_eq!(*ends.lock().unwrap(), [Some(Code::DataLoss)]);
}

#[tokio::test]
async fn an_end_in_the_headers_in_an_error_and_by_leaving_is_told_too() {
    let (ends, on_end) = recorder();
    drop(observe(Status::not_found("").into_http(), on_end));
    assert_eq!(*ends.lock().unwrap(), [Some(Code::NotFound)]);

    let (ends, on_end) = recorder();
    let (frames, broken) = response();
    frames.send(Err(Status::aborted(""))).unwrap();
    observe(broken, on_end).into_body().frame().await.unwrap().unwrap_err();
    assert_eq!(*ends.lock().unwrap(), [Some(Code::Aborted)]);

    let (ends, on_end) = recorder();
    let (_frames, left) = response();
    drop(observe(left, on_end));
    assert_eq!(*ends.lock().unwrap(), [None]);
}

#[tokio::test]
async fn an_answer_without_a_status_is_judged_by_http() {
    let (ends, on_end) = recorder();
    let mut proxy = Response::new(Body::empty());
    *proxy.status_mut() = http::StatusCode::BAD_GATEWAY;
    let _ = observe(proxy, on_end).into_body().frame().await;
    assert_eq!(*ends.lock().unwrap(), [Some(Code::Unavailable)]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_pauses_ends_in_time_too() {
    let (frames, response) = response();
    let limit = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Status::deadline_exceeded("")
    };
    let mut body = until(response, limit).into_body();
    frames.send(message()).unwrap();
    body.frame().await.unwrap().unwrap();
    frames.send(message()).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let last = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(code_in(&last), Some(Code::DeadlineExceeded));
    assert!(body.frame().await.is_none());
    assert!(frames.is_closed(), "what made the stream is dropped");
}

#[tokio::test]
async fn a_message_is_refused_by_what_its_frame_announces() {
    let (frames, response) = response();
    let mut body = bounded(response.into_body(), 4, "the test");
    // Two messages, cut in the middle of a header.
    for bytes in [&[0, 0, 0, 0, 4, 1, 2, 3, 4, 0, 0][..], &[0, 0, 5]] {
        frames.send(Ok(Frame::data(Bytes::from_static(bytes)))).unwrap();
    }
    body.frame().await.unwrap().unwrap();
    let refused = body.frame().await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "a message has 5 bytes; must be at most 4 (the test)");
}

#[tokio::test]
async fn a_status_is_changed_wherever_it_stands() {
    let instead = |status: &Status| (status.code() == Code::Internal).then(|| Status::aborted("instead"));
    let headers = amend(Status::internal("x").into_http(), instead);
    assert_eq!(Status::from_header_map(headers.headers()).unwrap().message(), "instead");

    for frame in [end(&Status::internal("x")), Err(Status::internal("x"))] {
        let (frames, response) = response();
        frames.send(frame).unwrap();
        let mut body = amend(response, instead).into_body();
        let last = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(code_in(&last), Some(Code::Aborted));
    }

    let (frames, response) = response();
    frames.send(end(&Status::data_loss("kept"))).unwrap();
    let mut body = amend(response, instead).into_body();
    let last = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(Status::from_header_map(&last).unwrap().message(), "kept");
}
