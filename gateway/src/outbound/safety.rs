//! The safety filter: whole prompts, and answers as they come.

use std::sync::Arc;

use futures::StreamExt as _;
use weft_proto::safety::v1::{
    self as wire, Direction, ListPoliciesRequest, ScreenRequest, ScreenStreamRequest,
    safety_service_client::SafetyServiceClient,
};
use weft_runtime::{Deadline, client::Replica};

use super::{
    Route, attempt,
    endpoint::Endpoint,
    exchange::{Elsewhere, Exchange},
    failure,
    hedge::Hedge,
    request,
    resume::Resume,
    retry::Retry,
};
use crate::error::{Failure, Peer};

/// Calls the safety filter. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Safety {
    client: SafetyServiceClient<Endpoint>,
    retry: Arc<Retry>,
    hedge: Arc<Hedge>,
    resume: Arc<Resume>,
}

/// What a policy does about a finding, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Allow,
    Flag,
    Redact,
    Block,
}

/// Something that a detector found. `start` and `end` are bytes of the whole original text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) category: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) action: Action,
}

/// What is said about a whole text.
#[derive(Clone, Debug)]
pub(crate) struct Screened {
    /// The strictest action of all findings.
    pub(crate) action: Action,
    pub(crate) findings: Vec<Finding>,
    /// The text after redaction; empty if blocked.
    pub(crate) text: String,
}

/// What is said about a piece of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cleared {
    /// Text that every detector has cleared, or a placeholder for what was redacted.
    pub(crate) released: String,
    /// Findings that became final with it.
    pub(crate) findings: Vec<Finding>,
    /// The policy ends the answer here.
    pub(crate) blocked: bool,
}

/// What a policy looks for.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) categories: Vec<String>,
}

/// An answer's text, screened as it comes.
pub(crate) type Screening = Exchange<String, Cleared>;

impl Safety {
    pub(super) fn new(route: Route) -> Self {
        let client = SafetyServiceClient::new(route.endpoint);
        Self {
            client: client.max_decoding_message_size(route.max_message_bytes),
            retry: route.retry,
            hedge: route.hedge,
            resume: route.resume,
        }
    }

    /// Screens a prompt. `policy` is empty for the service's default; `field` is the field of our own API that the
    /// text came from.
    pub(crate) async fn screen_prompt(
        &self,
        text: String,
        policy: &str,
        field: &str,
        deadline: Option<Deadline>,
    ) -> Result<Screened, Failure> {
        let message = ScreenRequest { policy: policy.to_owned(), direction: Direction::Prompt.into(), text };
        let call = |tried| {
            let (mut client, request) = (self.client.clone(), attempt(message.clone(), tried, deadline));
            async move { client.screen(request).await }
        };
        match self.retry.run_hedged(&self.hedge, deadline, call).await {
            Ok(response) => Ok(read_screened(response.into_inner())),
            Err(status) => Err(failure(Peer::Safety, status, |theirs| our_field(theirs, field))),
        }
    }

    /// Screens an answer as it comes. `policy` is empty for the service's default.
    pub(crate) fn screen_answer(
        &self,
        policy: String,
        window: usize,
        deadline: Option<Deadline>,
    ) -> Screening {
        let client = self.client.clone();
        let elsewhere = Elsewhere { resume: Arc::clone(&self.resume), deadline };
        Exchange::new(
            (Peer::Safety, window),
            elsewhere,
            move |texts, tried| {
                let mut client = client.clone();
                // Only the first message is asked for the policy and the direction.
                let (mut policy, direction) = (Some(policy.clone()), Direction::Completion.into());
                let messages = texts.map(move |text| {
                    let policy = policy.take().unwrap_or_default();
                    ScreenStreamRequest { policy, direction, text }
                });
                async move { client.screen_stream(attempt(messages, tried, deadline)).await }
            },
            |answer| match answer {
                Ok(wire::ScreenStreamResponse { released, findings, blocked }) => Ok(Cleared {
                    released,
                    findings: findings.into_iter().map(read_finding).collect(),
                    blocked,
                }),
                Err(status) => Err(failure(Peer::Safety, status, |theirs| our_field(theirs, "answer"))),
            },
        )
    }

    /// The policies, the default one first. Not retried: whoever asks, asks again.
    pub(crate) async fn policies(&self, deadline: Option<Deadline>) -> Result<Vec<Policy>, Failure> {
        policies(self.client.clone(), deadline).await
    }

    /// The policies that one replica has, the default one first.
    pub(crate) async fn policies_of(
        replica: &Replica,
        deadline: Option<Deadline>,
    ) -> Result<Vec<Policy>, Failure> {
        policies(SafetyServiceClient::new(Endpoint::direct(replica)), deadline).await
    }
}

async fn policies(
    mut client: SafetyServiceClient<Endpoint>,
    deadline: Option<Deadline>,
) -> Result<Vec<Policy>, Failure> {
    let answer = client.list_policies(request(ListPoliciesRequest {}, deadline)).await;
    let policies = answer.map_err(|status| failure(Peer::Safety, status, |_| None))?.into_inner().policies;
    let read = |policy: wire::Policy| Policy {
        name: policy.name,
        categories: policy.rules.into_iter().map(|rule| rule.category).collect(),
    };
    Ok(policies.into_iter().map(read).collect())
}

fn our_field(theirs: &str, text: &str) -> Option<String> {
    match theirs {
        "policy" => Some("options.safety_policy".to_owned()),
        "text" => Some(text.to_owned()),
        _ => None,
    }
}

fn read_screened(response: wire::ScreenResponse) -> Screened {
    Screened {
        action: read_action(response.action()),
        findings: response.findings.into_iter().map(read_finding).collect(),
        text: response.text,
    }
}

fn read_finding(finding: wire::Finding) -> Finding {
    let action = read_action(finding.action());
    Finding { category: finding.category, start: finding.start, end: finding.end, action }
}

fn read_action(action: wire::Action) -> Action {
    match action {
        wire::Action::Allow => Action::Allow,
        wire::Action::Flag => Action::Flag,
        wire::Action::Redact => Action::Redact,
        wire::Action::Block => Action::Block,
        // "Never sent". Whatever it is, a filter that is not understood does not let text pass.
        wire::Action::Unspecified => Action::Block,
    }
}
