//! The streaming half of the pipeline, with stand-ins for the services that answer in this process.

use std::collections::BTreeSet;

use futures::{StreamExt as _, executor::block_on, stream};
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use proptest::{collection::vec, prelude::*};
use tracing::Span;

use super::{
    Detokenize, Duplex, Generate, Screen, Stop, Watch,
    ledger::{Ledger, MOST_FINDINGS},
};
use crate::{
    answer::{Event, Findings, FinishReason, Finished, Token, Usage},
    error::{Error, Peer},
    latency::Progress,
    metrics::Metrics,
    outbound::{
        exchange::Exchange,
        inference::Generated,
        safety::{Action, Cleared, Finding},
    },
    request::{Options, StopRules},
};

const PLACEHOLDER: &str = "[hidden]";
const END: u32 = 9_999;

/// Ids are indices into these texts. Like the real tokenizer, it holds back the last character.
fn detokenizer(words: Vec<String>) -> Exchange<Vec<u32>, String> {
    let mut held = String::new();
    Exchange::local(move |ids: Option<Vec<u32>>| {
        let Some(ids) = ids else { return std::mem::take(&mut held) };
        held.extend(ids.into_iter().map(|id| words[id as usize].as_str()));
        let last = held.char_indices().next_back().map_or(0, |(at, _)| at);
        let open = held.split_off(last);
        std::mem::replace(&mut held, open)
    })
}

/// Redacts `r` with the letters `x` after it, and blocks at `b`; holds back what may go on.
fn filter() -> Exchange<String, Cleared> {
    let (mut held, mut from, mut blocked) = (String::new(), 0_u64, false);
    Exchange::local(move |text: Option<String>| {
        let last = text.is_none();
        held.push_str(&text.unwrap_or_default());
        let mut cleared = Cleared::default();
        while let Some(next) = held.find(['r', 'b']).filter(|_| !blocked) {
            cleared.released.push_str(&held[..next]);
            let run = held[next + 1..].find(|letter| letter != 'x').map(|length| length + 1);
            let start = from + next as u64;
            if held[next..].starts_with('b') {
                blocked = true;
                cleared.findings.push(finding(start, start + 1, Action::Block));
            } else if let Some(length) = run.or(last.then(|| held.len() - next)) {
                cleared.released.push_str(PLACEHOLDER);
                cleared.findings.push(finding(start, start + length as u64, Action::Redact));
                held.drain(..next + length);
                from = start + length as u64;
                continue;
            }
            held.drain(..next);
            from = start;
            cleared.blocked = blocked;
            return cleared;
        }
        from += held.len() as u64;
        cleared.released.push_str(&std::mem::take(&mut held));
        cleared
    })
}

fn finding(start: u64, end: u64, action: Action) -> Finding {
    Finding { category: "test".to_owned(), start, end, action }
}

fn watch(progress: &Progress) -> Watch {
    Watch { count: Counter::default(), span: Span::none(), progress: progress.clone() }
}

/// What a caller sees of an answer: its text, its tokens, and how it ended.
fn answer(words: &[String], stops: &[String], batch: usize, window: usize) -> (String, Vec<u32>, Finished) {
    let stop = StopRules { strings: stops.to_vec(), ..StopRules::default() };
    let options = Options { top_logprobs: Some(0), stop, ..Options::default() };
    let tokens =
        |ids: &[u32]| ids.iter().map(|&id| Token { id, logprob: Some(-1.0), top: Vec::new() }).collect();
    let ids: Vec<u32> = (0..).take(words.len()).chain([END]).collect();
    let mut generated: Vec<_> =
        ids.chunks(batch).map(|ids| Ok(Generated::Tokens { index: 0, tokens: tokens(ids) })).collect();
    let usage = Usage { prompt: 3, completion: u32::try_from(ids.len()).unwrap(), cached_prompt: 0 };
    generated.push(Ok(Generated::End { index: 0, reason: FinishReason::Stop, stop_token: Some(END), usage }));

    let progress = Progress::default();
    let generate = Generate::new(stream::iter(generated), &options, &[END], watch(&progress));
    let histogram = || Histogram::new([1.0]);
    let detokenizer = (progress.underway(Peer::Tokenizer), detokenizer(words.to_vec()));
    let text = Detokenize::new(Duplex::new(generate, detokenizer, window, histogram()));
    let stopped = Stop::new(text, &options.stop, 3, Counter::default());
    let pairs = Duplex::new(stopped, (progress.underway(Peer::Safety), filter()), window, histogram());
    let metrics = Metrics::new(&weft_runtime::metrics::Metrics::default());
    collect(block_on(Screen::new(pairs, 0, (3, Findings::new()), metrics).collect()))
}

fn collect(events: Vec<Result<Event, Error>>) -> (String, Vec<u32>, Finished) {
    let (mut text, mut ids, mut finished) = (String::new(), Vec::new(), None);
    for event in events {
        assert!(finished.is_none(), "something came after the end");
        match event.unwrap() {
            Event::Delta { text: more, tokens, .. } => {
                assert!(!more.is_empty() || !tokens.is_empty(), "a delta that says nothing");
                text.push_str(&more);
                ids.extend(tokens.into_iter().map(|token| token.id));
            }
            Event::Finished(end) => finished = Some(end),
        }
    }
    (text, ids, finished.unwrap())
}

/// Where each word stands in the text.
fn places(words: &[String]) -> Vec<(usize, usize)> {
    let ends = words.iter().scan(0, |end, word| {
        let start = *end;
        *end += word.len();
        Some((start, *end))
    });
    ends.collect()
}

proptest! {
    #[test]
    fn a_clean_answer_is_its_text_and_every_token_once(
        words in vec("[aé]{1,4}", 0..12),
        batch in 1_usize..4,
        window in 1_usize..5,
    ) {
        let (text, ids, finished) = answer(&words, &[], batch, window);
        prop_assert_eq!(text, words.concat());
        prop_assert_eq!(ids, (0..).take(words.len()).chain([END]).collect::<Vec<_>>());
        prop_assert_eq!(finished.reason, FinishReason::Stop);
    }

    #[test]
    fn no_token_of_redacted_text_is_shown_and_none_is_lost_but_at_its_borders(
        words in vec("[arx]{1,4}", 0..12),
        batch in 1_usize..4,
        window in 1_usize..5,
    ) {
        let whole = words.concat();
        let redacted: Vec<(usize, usize)> = whole
            .match_indices('r')
            .map(|(at, _)| (at, at + 1 + whole[at + 1..].bytes().take_while(|byte| *byte == b'x').count()))
            .collect();
        let (text, ids, finished) = answer(&words, &[], batch, window);
        let mut expected = whole.clone();
        for (start, end) in redacted.iter().rev() {
            expected.replace_range(*start..*end, PLACEHOLDER);
        }
        prop_assert_eq!(text, expected);
        prop_assert_eq!(finished.findings.values().sum::<u32>() as usize, redacted.len());
        prop_assert!(ids.is_sorted());
        let shown: BTreeSet<u32> = ids.into_iter().collect();
        let places = places(&words);
        for (id, (start, end)) in (0_u32..).zip(&places) {
            let touches = |margin: usize| {
                redacted.iter().any(|(from, to)| *start < *to + margin && *end + margin > *from)
            };
            prop_assert!(!(shown.contains(&id) && touches(0)), "token {} was redacted and is shown", id);
            // A batch, the batch that completes it, and the character that is held back before it.
            prop_assert!(shown.contains(&id) || touches(8 * batch + 1), "token {} is lost", id);
        }
    }

    #[test]
    fn a_stop_string_ends_text_and_tokens_wherever_the_borders_are(
        words in vec("[as]{1,4}", 1..12),
        stop in "[as]{1,5}",
        batch in 1_usize..4,
        window in 1_usize..5,
    ) {
        let whole = words.concat();
        let (text, ids, finished) = answer(&words, std::slice::from_ref(&stop), batch, window);
        let cut = whole.find(&stop);
        prop_assert_eq!(text.as_str(), &whole[..cut.unwrap_or(whole.len())]);
        prop_assert_eq!(finished.stop_string, cut.map(|_| stop.clone()));
        let Some(cut) = cut else { return Ok(()) };
        let whole_shown = places(&words).iter().filter(|(_, end)| *end <= cut).count();
        prop_assert!(ids.len() >= whole_shown, "{} of {} tokens are shown", ids.len(), whole_shown);
        // The tokens up to the one that completes it, and those that came in the same messages.
        let needed = places(&words).iter().filter(|(start, _)| *start < cut + stop.len()).count();
        let counted = finished.usage.completion as usize;
        prop_assert!(needed <= counted && counted <= needed + 2 * batch, "{counted} tokens, {needed} needed");
    }

    #[test]
    fn of_a_blocked_answer_only_what_was_cleared_is_seen(
        before in vec("[a]{1,4}", 0..6),
        after in vec("[ab]{1,4}", 0..6),
        window in 1_usize..5,
    ) {
        let words = [before.clone(), vec!["b".to_owned()], after].concat();
        let (text, ids, finished) = answer(&words, &[], 1, window);
        prop_assert_eq!(text, before.concat());
        prop_assert_eq!(finished.reason, FinishReason::ContentFilter);
        prop_assert_eq!(finished.blocked_prompt, Some(false));
        prop_assert!(ids.len() <= before.len());
    }
}

#[test]
fn a_word_that_could_have_ended_the_answer_is_text_unless_inference_says_that_it_did() {
    let tokens =
        |id| Generated::Tokens { index: 0, tokens: vec![Token { id, logprob: None, top: Vec::new() }] };
    let end =
        Generated::End { index: 0, reason: FinishReason::Length, stop_token: None, usage: Usage::default() };
    let generated = [tokens(0), tokens(1), tokens(1), end].map(Ok);
    let options = Options::default();
    let progress = Progress::default();
    let generate = Generate::new(stream::iter(generated), &options, &[1], watch(&progress));
    let exchange = (progress.underway(Peer::Tokenizer), detokenizer(vec!["so".to_owned(), " be".to_owned()]));
    let mut steps = Detokenize::new(Duplex::new(generate, exchange, 4, Histogram::new([1.0])));
    let mut text = String::new();
    while let super::Step::Piece(piece, _) = block_on(steps.next()).unwrap().unwrap() {
        text.push_str(&piece);
    }
    assert_eq!(text, "so be be");
}

#[test]
fn beyond_the_findings_that_are_accounted_for_no_token_is_shown() {
    let token =
        |id, start, end| super::Placed { token: Token { id, logprob: Some(-1.0), top: vec![] }, start, end };
    let mut ledger = Ledger::default();
    for at in 0..=MOST_FINDINGS as u64 {
        ledger.find(&finding(at, at + 1, Action::Flag));
    }
    ledger.expect(vec![token(1, 0, 5), token(2, 5, 9)]);
    assert!(ledger.release(9).is_empty());
    assert!(ledger.close().is_empty());
}
