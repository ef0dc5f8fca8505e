//! Generations that keep to a grammar.

use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    Config,
    constraint::{Compiler, ConstraintMetrics, Form, Grammar, GuideError, Source},
};

/// Token `id` is the `id`-th printable ASCII character; the last three are an end token and two without text.
fn compiler(context: &Context) -> (tempfile::TempDir, Compiler) {
    let characters = (0..94u8).map(|id| (char::from(b'!' + id).to_string(), id));
    let tokenizer = serde_json::json!({
        "added_tokens": [{ "id": END, "content": "<|end|>", "special": true }],
        "decoder": { "type": "ByteLevel" },
        "model": { "type": "BPE", "vocab": characters.collect::<BTreeMap<_, _>>(), "merges": [] },
    })
    .to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), &tokenizer).unwrap();
    let source = Source {
        folder: folder.path().to_owned(),
        fingerprint: hex::encode(Sha256::digest(&tokenizer)),
        vocabulary_size: VOCABULARY,
        end_token_ids: vec![END],
    };
    let config: Config = weft_runtime::config::parse("[model]\nfolder = \"m\"", &[]).unwrap();
    let metrics = ConstraintMetrics::new(&context.metrics);
    (folder, Compiler::start(source, config.constraint, 8, metrics).unwrap())
}

/// Made on a runtime that is gone when the engine is stepped: a task may only look so often without waiting.
pub(super) fn grammar(regex: &str) -> Grammar {
    let context = Process::new("inference", RuntimeConfig::default()).context().clone();
    let (_folder, compiler) = compiler(&context);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(compiler.grammar(Form::Regex(regex.to_owned()))).unwrap()
}

pub(super) fn keeping_to(grammar: &Grammar, request: Generate) -> Generate {
    let rules = StopRules::new(request.rules.max_tokens(), 0, vec![END]);
    Generate { grammar: Some(grammar.clone()), rules, ..request }
}

fn text(events: &[Result<Event, EngineError>]) -> String {
    tokens(events).iter().filter(|id| **id < 94).map(|id| char::from(b'!' + *id as u8)).collect()
}

fn ending(events: &[Result<Event, EngineError>]) -> Ending {
    match events.last() {
        Some(Ok(Event::Finished(finished))) => finished.ending,
        other => panic!("it did not end: {other:?}"),
    }
}

#[test]
fn an_output_keeps_to_its_grammar_also_when_it_is_preempted_among_others() {
    let regex = "[a-f]{3,12}-[0-9]{2,9}(x|yz){1,5}";
    let (grammar, expected) = (grammar(regex), regex::Regex::new(&format!("^(?:{regex})$")).unwrap());
    let asked = |index: u32| match index % 3 {
        0 => sampled(&[index, 7], 60, u64::from(index)),
        _ => keeping_to(&grammar, sampled(&[index, 7], 60, u64::from(index))),
    };
    // Blocks for about three of the ten.
    let mut bench = Bench::new(Setup { blocks: 24, ..Setup::default() });
    let mut generations: Vec<Generation> = (0..10).map(|index| bench.start(asked(index))).collect();
    bench.run();
    assert!(bench.handle.status().preemptions > 0, "nobody was preempted");
    for (index, generation) in (0..).zip(&mut generations) {
        let events = heard(generation);
        assert_eq!(tokens(&events), alone(asked(index)), "request {index}");
        if index % 3 != 0 {
            assert!(expected.is_match(&text(&events)), "{}", text(&events));
            assert!(matches!(ending(&events), Ending::Complete | Ending::Stop(END)));
        }
    }
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn it_ends_when_it_is_complete_or_at_its_length() {
    let mut bench = Bench::new(Setup::default());
    let whole = grammar("abc");
    let mut complete = bench.start(keeping_to(&whole, request(&[1], 10)));
    let mut just_complete = bench.start(keeping_to(&whole, request(&[1], 3)));
    let mut cut = bench.start(keeping_to(&whole, request(&[1], 2)));
    bench.run();
    let (complete, just_complete, cut) = (heard(&mut complete), heard(&mut just_complete), heard(&mut cut));
    assert_eq!((text(&complete).as_str(), ending(&complete)), ("abc", Ending::Complete));
    assert_eq!((text(&just_complete).as_str(), ending(&just_complete)), ("abc", Ending::Complete));
    assert_eq!((text(&cut).as_str(), ending(&cut)), ("ab", Ending::Length));
    assert_eq!((bench.count_of(Outcome::Stop), bench.count_of(Outcome::Length)), (2, 1));
}

#[test]
fn a_least_length_holds_only_as_long_as_the_grammar_allows_more() {
    let mut bench = Bench::new(Setup::default());
    let few = grammar("a{1,4}");
    let asked = keeping_to(&few, request(&[1], 10));
    let rules = StopRules::new(10, 8, vec![END]);
    let mut generation = bench.start(Generate { rules, ..asked });
    bench.run();
    let events = heard(&mut generation);
    assert_eq!((text(&events).as_str(), ending(&events)), ("aaaa", Ending::Complete));
}

#[test]
fn a_dead_end_is_an_error_of_its_sequence_alone() {
    // No token has the bytes of the last letter.
    let dead = grammar("[a-c]{2}é");
    let mut bench = Bench::new(Setup::default());
    let mut lost = bench.start(keeping_to(&dead, sampled(&[1], 10, 3)));
    let mut other = bench.start(sampled(&[2], 10, 4));
    bench.run();
    let events = heard(&mut lost);
    let error = events.last().unwrap().clone().unwrap_err();
    assert_eq!(error, EngineError::Guide(GuideError::DeadEnd { field: "constraint.regex" }));
    assert_eq!(tonic::Status::from(error).code(), tonic::Code::InvalidArgument);
    assert_eq!(tokens(&events).len(), 2, "what kept to the grammar was handed out");
    assert_eq!(tokens(&heard(&mut other)), alone(sampled(&[2], 10, 4)));
    assert_eq!(bench.count_of(Outcome::ConstraintFailed), 1);
    assert_eq!(bench.free(), bench.total());
}

#[test]
fn each_continuation_of_a_prompt_keeps_to_the_grammar_by_itself() {
    let regex = "[a-z]{4}(0|1){2,6}";
    let asked = Generate { continuations: 3, ..keeping_to(&grammar(regex), sampled(&[1, 2], 20, 8)) };
    let mut bench = Bench::new(Setup::default());
    let mut generation = bench.start(asked);
    bench.run();
    let events = heard(&mut generation);
    let expected = regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
    let mut texts = std::collections::BTreeSet::new();
    for wanted in 0..3 {
        let own = |event: &&Result<Event, EngineError>| matches!(event, Ok(Event::Token { index, .. }) if *index == wanted);
        let own: Vec<_> = events.iter().filter(own).cloned().collect();
        assert!(expected.is_match(&text(&own)), "{}", text(&own));
        texts.insert(text(&own));
    }
    assert!(texts.len() > 1, "all say {texts:?}");
}
