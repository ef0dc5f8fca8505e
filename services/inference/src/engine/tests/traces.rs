//! The spans that a request leaves behind.

use std::sync::Mutex;

use tracing::{Instrument as _, Subscriber, span};
use tracing_subscriber::{Layer, layer::SubscriberExt as _, registry::LookupSpan};

use super::*;

/// Writes down which spans were opened below which, followed which, and closed.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    opened: Vec<(&'static str, Option<&'static str>)>,
    open: BTreeMap<&'static str, i32>,
    follows: Vec<(&'static str, &'static str)>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
    fn on_new_span(
        &self,
        _: &span::Attributes<'_>,
        id: &span::Id,
        context: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let span = context.span(id).unwrap();
        let mut written = self.0.lock().unwrap();
        written.opened.push((span.name(), span.parent().map(|parent| parent.name())));
        *written.open.entry(span.name()).or_default() += 1;
    }

    fn on_follows_from(
        &self,
        id: &span::Id,
        follows: &span::Id,
        context: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let name = |id| context.span(id).unwrap().name();
        self.0.lock().unwrap().follows.push((name(id), name(follows)));
    }

    fn on_close(&self, id: span::Id, context: tracing_subscriber::layer::Context<'_, S>) {
        *self.0.lock().unwrap().open.entry(context.span(&id).unwrap().name()).or_default() -= 1;
    }
}

#[test]
fn each_stage_is_a_span_below_the_call_and_none_stays_open() {
    weft_runtime::telemetry::test::global();
    let notes = Notes::default();
    let subscriber = tracing_subscriber::registry().with(notes.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    let mut bench = Bench::new(Setup::default());
    let call = tracing::info_span!("rpc");
    let mut generation = async { bench.start(request(&[1; 20], 4)) }.instrument(call).now_or_never().unwrap();
    bench.run();
    heard(&mut generation);
    let written = notes.0.lock().unwrap();
    let below_call: Vec<&str> =
        written.opened.iter().filter(|(_, parent)| *parent == Some("rpc")).map(|(name, _)| *name).collect();
    assert_eq!(below_call, ["queue", "prefill", "decode"]);
    let steps = written.opened.iter().filter(|opened| **opened == ("step", None)).count();
    assert_eq!(steps, 5, "two chunks of prompt and three decodes, each a root of its own");
    assert_eq!(written.follows, [("step", "rpc"); 5]);
    assert!(written.open.values().all(|open| *open == 0), "{:?}", written.open);
}
