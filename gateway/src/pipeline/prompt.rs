//! What the safety filter says about a prompt.
//!
//! All texts that the model would see are screened together, joined by line breaks, so that what is spread over several
//! messages is seen as the model sees it, and one call is enough for a prompt of any shape. Where the policy redacts,
//! the texts that findings touch are screened one by one, since each must be put back into its own place. The result is
//! then screened as a whole again; if that still finds something (not every finding need have been listed), all texts
//! are. What even then calls for redaction, such as a key that is spread over two messages, cannot be taken out of
//! either, so the prompt is blocked.

use std::ops::Range;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use weft_runtime::Deadline;

use crate::{
    answer::Findings,
    error::Failure,
    outbound::safety::{Action, Finding, Safety, Screened},
};

/// Texts of one prompt that are screened at the same time. Few, since this happens only to prompts that are redacted.
const AT_ONCE: usize = 4;

/// What is done about a prompt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may be used as it is.
    Clear,
    /// It may be used with these texts in place of its own.
    Redacted(Vec<String>),
    /// It may not be used, because of these of its texts.
    Blocked {
        /// Indices, ascending.
        texts: Vec<usize>,
    },
}

/// How a prompt is screened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screening<'a> {
    /// Empty for the service's default.
    pub(super) policy: &'a str,
    /// The field of our own API that the texts came from.
    pub(super) field: &'a str,
    pub(super) deadline: Option<Deadline>,
}

/// Screens the texts of a prompt. The findings are those of the prompt as it came.
pub(super) async fn screen(
    safety: &Safety,
    texts: Vec<String>,
    how: Screening<'_>,
) -> Result<(Verdict, Findings), Failure> {
    let screened = how.screen(safety, texts.join("\n")).await?;
    let mut findings = Findings::new();
    count(&mut findings, &screened.findings);
    let verdict = match screened.action {
        Action::Allow | Action::Flag => Verdict::Clear,
        Action::Block => Verdict::Blocked { texts: touched(&texts, &screened.findings, Action::Block) },
        Action::Redact if texts.len() == 1 => Verdict::Redacted(vec![screened.text]),
        Action::Redact => redact(safety, texts, &screened, how).await?,
    };
    Ok((verdict, findings))
}

/// Adds findings up by category.
pub(super) fn count(counts: &mut Findings, findings: &[Finding]) {
    for finding in findings {
        *counts.entry(finding.category.clone()).or_default() += 1;
    }
}

/// Redacts each text by itself.
async fn redact(
    safety: &Safety,
    mut texts: Vec<String>,
    screened: &Screened,
    how: Screening<'_>,
) -> Result<Verdict, Failure> {
    let touched = touched(&texts, &screened.findings, Action::Redact);
    let all = (0..texts.len()).collect();
    for suspects in [touched.clone(), all] {
        for (index, screened) in screen_each(safety, &texts, suspects, how).await? {
            match screened.action {
                Action::Allow | Action::Flag => {}
                Action::Redact => texts[index] = screened.text,
                Action::Block => return Ok(Verdict::Blocked { texts: vec![index] }),
            }
        }
        match how.screen(safety, texts.join("\n")).await?.action {
            Action::Allow | Action::Flag => return Ok(Verdict::Redacted(texts)),
            Action::Redact => {}
            Action::Block => break,
        }
    }
    Ok(Verdict::Blocked { texts: touched })
}

/// Screens these of the texts, each by itself.
async fn screen_each(
    safety: &Safety,
    texts: &[String],
    indices: Vec<usize>,
    how: Screening<'_>,
) -> Result<Vec<(usize, Screened)>, Failure> {
    let one = |index: usize| {
        let text = texts[index].clone();
        async move { how.screen(safety, text).await.map(|screened| (index, screened)) }
    };
    let all: Vec<_> = indices.into_iter().map(one).collect();
    stream::iter(all).buffered(AT_ONCE).try_collect().await
}

impl Screening<'_> {
    async fn screen(&self, safety: &Safety, text: String) -> Result<Screened, Failure> {
        safety.screen_prompt(text, self.policy, self.field, self.deadline).await
    }
}

/// The texts that findings of at least this action overlap, ascending.
fn touched(texts: &[String], findings: &[Finding], least: Action) -> Vec<usize> {
    let overlaps = |place: &Range<u64>| {
        findings
            .iter()
            .any(|finding| finding.action >= least && finding.start < place.end && finding.end > place.start)
    };
    let mut start = 0;
    let mut found = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let place = start..start + text.len() as u64;
        if overlaps(&place) {
            found.push(index);
        }
        start = place.end + 1; // the line break
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(start: u64, end: u64, action: Action) -> Finding {
        Finding { category: "pii.email".to_owned(), start, end, action }
    }

    #[test]
    fn a_finding_touches_every_text_that_it_overlaps_and_no_other() {
        let texts = ["abc", "", "def", "ghi"].map(str::to_owned);
        // "abc\n\ndef\nghi": def stands at 5..8, ghi at 9..12.
        let one = touched(&texts, &[finding(5, 8, Action::Redact)], Action::Redact);
        assert_eq!(one, [2]);
        let two = touched(&texts, &[finding(7, 10, Action::Redact)], Action::Redact);
        assert_eq!(two, [2, 3]);
        let mild = touched(&texts, &[finding(0, 12, Action::Flag)], Action::Redact);
        assert_eq!(mild, [0_usize; 0]);
        let only_the_break = touched(&texts, &[finding(8, 9, Action::Redact)], Action::Redact);
        assert_eq!(only_the_break, [0_usize; 0]);
    }
}
