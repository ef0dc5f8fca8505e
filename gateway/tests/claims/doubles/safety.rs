//! A safety filter with three words that it minds.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming, async_trait};
use weft_proto::safety::v1::{
    Action, Finding, ListPoliciesRequest, ListPoliciesResponse, Policy, ScreenRequest, ScreenResponse,
    ScreenStreamRequest, ScreenStreamResponse,
    safety_service_server::{SafetyService, SafetyServiceServer},
};
use weft_runtime::Services;

/// What it minds. The fourth is hidden where it is spread over two lines.
const RULES: [(&str, &str, Action); 4] = [
    ("BOMB", "test.bomb", Action::Block),
    ("NAME", "test.name", Action::Redact),
    ("MILD", "test.mild", Action::Flag),
    ("KEY\nREST", "test.key", Action::Redact),
];
const LONGEST: usize = 8;

pub(crate) const PLACEHOLDER: &str = "[hidden]";

#[derive(Clone)]
pub(crate) struct Safety {
    state: Arc<State>,
}

struct State {
    /// Whether prompts are judged, or wait.
    open: watch::Sender<bool>,
    policies: Mutex<Vec<String>>,
    asked: Mutex<Vec<String>>,
    /// Messages of streams to screen.
    heard: AtomicUsize,
}

impl Default for Safety {
    fn default() -> Self {
        let (policies, asked) =
            (Mutex::new(vec!["default".to_owned(), "strict".to_owned()]), Mutex::default());
        Self {
            state: Arc::new(State {
                open: watch::Sender::new(true),
                policies,
                asked,
                heard: AtomicUsize::new(0),
            }),
        }
    }
}

impl Safety {
    pub(crate) fn services(&self) -> Services {
        Services::new().add(SafetyServiceServer::new(self.clone()))
    }

    /// Lets prompts wait for their verdict, or lets them go.
    pub(crate) fn hold_verdicts(&self, hold: bool) {
        self.state.open.send_replace(!hold);
    }

    /// How many messages of streams to screen it was sent.
    pub(crate) fn heard(&self) -> usize {
        self.state.heard.load(Ordering::SeqCst)
    }

    /// The policies that calls named, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    pub(crate) fn set_policies(&self, policies: &[&str]) {
        *self.state.policies.lock().unwrap() = policies.iter().map(|name| (*name).to_owned()).collect();
    }
}

/// A text that is judged as it comes.
#[derive(Default)]
struct Judge {
    text: String,
    decided: usize,
    findings: Vec<Finding>,
    blocked: bool,
}

impl Judge {
    fn push(&mut self, text: &str, last: bool) -> ScreenStreamResponse {
        self.text.push_str(text);
        let mut released = String::new();
        while let Some((at, word, category, action)) = self.next() {
            released.push_str(&self.text[self.decided..at]);
            self.decided = at + word.len();
            let (start, end) = (at as u64, self.decided as u64);
            let rule = word.to_owned();
            self.findings.push(Finding {
                category: category.to_owned(),
                start,
                end,
                action: action.into(),
                rule,
            });
            match action {
                Action::Flag => released.push_str(word),
                Action::Redact => released.push_str(PLACEHOLDER),
                _ => {
                    self.blocked = true;
                    break;
                }
            }
        }
        if !self.blocked {
            let safe = if last { self.text.len() } else { self.text.len().saturating_sub(LONGEST - 1) };
            let safe = self.text.floor_char_boundary(safe).max(self.decided);
            released.push_str(&self.text[self.decided..safe]);
            self.decided = safe;
        }
        let findings = std::mem::take(&mut self.findings);
        ScreenStreamResponse { released, findings, blocked: self.blocked }
    }

    fn next(&self) -> Option<(usize, &'static str, &'static str, Action)> {
        let found = RULES.into_iter().filter_map(|(word, category, action)| {
            let at = self.text[self.decided..].find(word)?;
            Some((self.decided + at, word, category, action))
        });
        found.min_by_key(|(at, ..)| *at)
    }
}

#[async_trait]
impl SafetyService for Safety {
    type ScreenStreamStream = BoxStream<'static, Result<ScreenStreamResponse, Status>>;

    async fn screen(&self, request: Request<ScreenRequest>) -> Result<Response<ScreenResponse>, Status> {
        let request = request.into_inner();
        self.state.asked.lock().unwrap().push(request.policy);
        self.state.open.subscribe().wait_for(|open| *open).await.unwrap();
        let ScreenStreamResponse { released, findings, blocked } = Judge::default().push(&request.text, true);
        let action = findings.iter().map(Finding::action).max().unwrap_or(Action::Allow).into();
        Ok(Response::new(ScreenResponse {
            action,
            findings,
            text: if blocked { String::new() } else { released },
        }))
    }

    async fn screen_stream(
        &self,
        request: Request<Streaming<ScreenStreamRequest>>,
    ) -> Result<Response<Self::ScreenStreamStream>, Status> {
        let mut texts = request.into_inner();
        // As a real one might: nothing is answered, not even headers, before the policy is known.
        let Some(first) = texts.message().await? else {
            return Err(Status::invalid_argument("no first message"));
        };
        self.state.asked.lock().unwrap().push(first.policy.clone());
        let state = Arc::clone(&self.state);
        let session = (state, texts, Judge::default(), Some(first), false);
        let answers = stream::try_unfold(session, |(state, mut texts, mut judge, first, done)| async move {
            if done {
                return Ok(None);
            }
            let message = match first {
                Some(first) => Some(first),
                None => texts.message().await?,
            };
            state.heard.fetch_add(1, Ordering::SeqCst);
            let last = message.is_none();
            let answer = judge.push(&message.map(|message| message.text).unwrap_or_default(), last);
            let done = last || answer.blocked;
            Ok(Some((answer, (state, texts, judge, None, done))))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn list_policies(
        &self,
        _: Request<ListPoliciesRequest>,
    ) -> Result<Response<ListPoliciesResponse>, Status> {
        let names = self.state.policies.lock().unwrap().clone();
        let policies = names.into_iter().map(|name| Policy { name, rules: Vec::new() }).collect();
        Ok(Response::new(ListPoliciesResponse { policies, version: "double".to_owned() }))
    }
}
