//! Domain types as wire types.

use weft_proto::safety::v1::{
    self as wire, Action as WireAction, Direction as WireDirection, ScreenResponse, ScreenStreamResponse,
};
use weft_runtime::status::Violations;

use crate::{
    policy::{Policy, PolicyRule},
    verdict::{Action, Direction, Finding, Verdict},
};

/// The direction, or a violation.
pub(super) fn read_direction(direction: i32, violations: &mut Violations) -> Option<Direction> {
    let found = match WireDirection::try_from(direction) {
        Ok(WireDirection::Prompt) => return Some(Direction::Prompt),
        Ok(WireDirection::Completion) => return Some(Direction::Completion),
        Ok(WireDirection::Unspecified) => "DIRECTION_UNSPECIFIED".to_owned(),
        Err(_) => direction.to_string(),
    };
    violations.push("direction", format!("is {found}; must be DIRECTION_PROMPT or DIRECTION_COMPLETION"));
    None
}

/// The answer to Screen.
pub(super) fn screened(verdict: Verdict, max_findings: usize) -> ScreenResponse {
    ScreenResponse {
        action: action(verdict.action()).into(),
        findings: verdict.findings.iter().take(max_findings).map(finding).collect(),
        text: if verdict.is_blocked { String::new() } else { verdict.released },
    }
}

/// One answer of ScreenStream.
pub(super) fn released(verdict: Verdict) -> ScreenStreamResponse {
    ScreenStreamResponse {
        findings: verdict.findings.iter().map(finding).collect(),
        blocked: verdict.is_blocked,
        released: verdict.released,
    }
}

/// A policy as ListPolicies shows it.
pub(super) fn policy(policy: &Policy) -> wire::Policy {
    let rule = |rule: &PolicyRule| wire::PolicyRule {
        category: rule.category.clone(),
        prompt_action: action(rule.prompt).into(),
        completion_action: action(rule.completion).into(),
    };
    wire::Policy { name: policy.name.clone(), rules: policy.rules.iter().map(rule).collect() }
}

fn finding(finding: &Finding) -> wire::Finding {
    wire::Finding {
        category: finding.rule.category.clone(),
        start: finding.start as u64,
        end: finding.end as u64,
        action: action(finding.rule.action).into(),
        rule: finding.rule.name.clone(),
    }
}

fn action(action: Action) -> WireAction {
    match action {
        Action::Allow => WireAction::Allow,
        Action::Flag => WireAction::Flag,
        Action::Redact => WireAction::Redact,
        Action::Block => WireAction::Block,
    }
}
