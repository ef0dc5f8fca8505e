//! Adapters of a scripted model: what is loaded, who uses it, and what is refused.

use std::fs;

use futures::{FutureExt as _, StreamExt as _};
use tempfile::TempDir;
use tonic::Code;
use weft_runtime::{Context, Process, RuntimeConfig};

use super::*;
use crate::{
    Config, Running,
    engine::{EngineHandle, Event},
    model::{Model, scripted::Scripted},
    request::{Generate, GenerateRequest},
};

const VOCABULARY: usize = 97;

/// A folder of adapters: name and number of each.
pub(crate) fn folder_of(adapters: &[(&str, u32)]) -> TempDir {
    let root = TempDir::new().unwrap();
    for (name, twist) in adapters {
        write(&root, name, &twist.to_string());
    }
    root
}

fn write(root: &TempDir, name: &str, text: &str) {
    fs::create_dir_all(root.path().join(name)).unwrap();
    fs::write(root.path().join(name).join("twist.txt"), text).unwrap();
}

/// An engine on its own thread, and adapters for it.
struct Service {
    engine: EngineHandle,
    adapters: Adapters,
    gate: crate::engine::Gate,
    context: Context,
}

fn config(root: &TempDir, more: &str) -> Config {
    let text = format!(
        "[model]\nfolder = \"scripted\"\n[adapters]\nfolder = \"{}\"\n{more}\n",
        root.path().display()
    );
    weft_runtime::config::parse(&text, &[]).unwrap()
}

async fn service(root: &TempDir, more: &str) -> Service {
    let context = context_like();
    let model = Scripted::unsure(VOCABULARY);
    let gate = model.controls().gate;
    let running = crate::start_with(config(root, more), context.clone(), move || Ok(Box::new(model)));
    let Running { engine, adapters, .. } = running.await.unwrap();
    Service { engine, adapters, gate, context }
}

fn context_like() -> Context {
    Process::new("inference", RuntimeConfig::default()).context().clone()
}

fn request(prompt: &[u32], tokens: u32, adapter: Option<Lease>) -> Generate {
    let request = GenerateRequest {
        prompt: prompt.to_vec(),
        max_tokens: Some(tokens),
        ignore_eos: true,
        ..GenerateRequest::default()
    };
    let served = crate::request::Served { vocabulary_size: VOCABULARY, ..crate::request::tests::served() };
    Generate { adapter, ..request.check(&served, || 7).unwrap() }
}

impl Service {
    async fn answer(&self, id: Option<&str>, tokens: u32) -> Vec<u32> {
        self.answer_to(&[1, 2, 3, 4, 5, 6, 7, 8, 9], id, tokens).await
    }

    async fn answer_to(&self, prompt: &[u32], id: Option<&str>, tokens: u32) -> Vec<u32> {
        let lease = id.map(|id| self.adapters.lease(id).unwrap());
        let generation = self.engine.generate(request(prompt, tokens, lease), None).unwrap();
        ids(&generation.map(Result::unwrap).collect::<Vec<_>>().await)
    }

    fn streams(&self, id: &str) -> u32 {
        self.adapters.list().iter().find(|standing| standing.id == id).unwrap().streams
    }
}

fn ids(events: &[Event]) -> Vec<u32> {
    let id = |event: &Event| if let Event::Token { choice, .. } = event { Some(choice.token) } else { None };
    events.iter().filter_map(id).collect()
}

fn code(error: AdapterError) -> Code {
    tonic::Status::from(error).code()
}

#[tokio::test]
async fn an_adapter_is_loaded_listed_used_and_unloaded() {
    let root = folder_of(&[("one", 11)]);
    let service = service(&root, "").await;
    let loaded = service.adapters.load("a", "one", None).await.unwrap();
    assert_eq!((loaded.generation, loaded.bytes, loaded.streams), (1, 11, 0));
    assert_eq!(service.adapters.list(), [loaded]);
    assert_ne!(service.answer(Some("a"), 9).await, service.answer(None, 9).await);
    service.adapters.unload("a", None).unwrap();
    assert_eq!((service.adapters.list(), service.adapters.memory()), (vec![], 0));
    let error = service.adapters.lease("a").unwrap_err();
    assert_eq!(error.to_string(), "no adapter `a` is loaded; loaded are: none");
    assert_eq!(code(error), Code::NotFound);
}

#[tokio::test]
async fn a_generation_is_compared_before_it_is_replaced_or_unloaded() {
    let root = folder_of(&[("one", 11), ("two", 22)]);
    let adapters = service(&root, "").await.adapters;
    let text = |error: AdapterError| (error.to_string(), code(error));
    let error = adapters.load("a", "one", Some(3)).await.unwrap_err();
    let expected = "adapter `a` has no generation loaded, not generation 3";
    assert_eq!(text(error), (expected.to_owned(), Code::Aborted));
    assert_eq!(adapters.load("a", "one", Some(0)).await.unwrap().generation, 1);
    assert_eq!(code(adapters.load("a", "two", Some(0)).await.unwrap_err()), Code::Aborted);
    assert_eq!(adapters.load("a", "two", Some(1)).await.unwrap().generation, 2);
    let error = adapters.unload("a", Some(1)).unwrap_err();
    let expected = "adapter `a` has generation 2, not generation 1";
    assert_eq!(text(error), (expected.to_owned(), Code::Aborted));
    adapters.unload("a", Some(2)).unwrap();
    assert_eq!(code(adapters.unload("a", None).unwrap_err()), Code::NotFound);
    assert_eq!(adapters.load("a", "one", None).await.unwrap().generation, 3, "numbers never come again");
}

#[tokio::test]
async fn of_many_who_replace_one_generation_only_one_succeeds() {
    let root = folder_of(&[("one", 11)]);
    let adapters = service(&root, "").await.adapters;
    adapters.load("a", "one", None).await.unwrap();
    let all = (0..20).map(|_| adapters.load("a", "one", Some(1)));
    let results = futures::future::join_all(all).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(adapters.list()[0].generation, 2);
    assert_eq!(adapters.memory(), 11);
}

#[tokio::test]
async fn a_stream_keeps_its_generation_when_it_is_replaced_and_unloaded() {
    let root = folder_of(&[("one", 11), ("two", 22)]);
    let service = service(&root, "").await;
    service.adapters.load("a", "one", None).await.unwrap();
    let undisturbed = service.answer(Some("a"), 30).await;
    service.gate.close();
    let lease = service.adapters.lease("a").unwrap();
    let prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let mut stream = service.engine.generate(request(&prompt, 30, Some(lease)), None).unwrap();
    service.gate.admit(4);
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    assert_eq!(service.streams("a"), 1);
    service.adapters.load("a", "two", Some(1)).await.unwrap();
    assert_eq!((service.streams("a"), service.adapters.memory()), (0, 33), "both are there");
    service.adapters.unload("a", Some(2)).unwrap();
    assert_eq!(service.adapters.memory(), 11, "the stream's own");
    service.gate.open();
    let rest: Vec<Event> = stream.by_ref().map(Result::unwrap).collect().await;
    assert_eq!(ids(&rest), undisturbed[2..]);
    drop(stream);
    service.engine.idle().await;
    assert_eq!(service.adapters.memory(), 0, "the last stream has ended");
}

#[tokio::test]
async fn replacements_under_load_give_every_stream_one_generation() {
    let root = folder_of(&[("0", 11), ("1", 22)]);
    let service = service(&root, "").await;
    let mut expected = Vec::new();
    for name in ["0", "1"] {
        service.adapters.load("a", name, None).await.unwrap();
        expected.push(service.answer(Some("a"), 12).await);
    }
    let replace = async {
        for turn in 0..30 {
            service.adapters.load("a", &(turn % 2).to_string(), None).await.unwrap();
        }
    };
    let ask = async {
        let mut answers = Vec::new();
        for _ in 0..10 {
            let all = (0..6).map(|_| service.answer(Some("a"), 12));
            answers.extend(futures::future::join_all(all).await);
        }
        answers
    };
    let ((), answers) = futures::join!(replace, ask);
    assert_eq!(answers.len(), 60);
    for answer in answers {
        assert!(expected.contains(&answer), "{answer:?} is of no single generation");
    }
    service.engine.idle().await;
    assert_eq!(service.adapters.memory(), 22, "only what is loaded");
}

#[tokio::test]
async fn only_folders_below_the_configured_one_are_read() {
    let outside = folder_of(&[("secret", 5)]);
    let root = folder_of(&[("one", 11), ("nested/two", 12), ("linked", 13)]);
    let link = std::os::unix::fs::symlink::<std::path::PathBuf, std::path::PathBuf>;
    link(outside.path().join("secret"), root.path().join("out")).unwrap();
    fs::remove_file(root.path().join("linked/twist.txt")).unwrap();
    link(outside.path().join("secret/twist.txt"), root.path().join("linked/twist.txt")).unwrap();
    link(root.path().join("one"), root.path().join("alias")).unwrap();
    let adapters = service(&root, "").await.adapters;
    for path in
        ["", "..", "one/../../x", "/etc", "./one/..", "out", "linked", "absent", "one/twist.txt", "a\0b"]
    {
        let error = adapters.load("a", path, None).await.unwrap_err();
        assert!(matches!(error, AdapterError::Field { field: "path", .. }), "{path}: {error}");
        assert!(!error.to_string().contains(&root.path().display().to_string()));
    }
    for path in ["one", "nested/two", "alias"] {
        adapters.load("a", path, None).await.unwrap();
    }
}

#[tokio::test]
async fn limits_are_kept_and_named() {
    let root = folder_of(&[("one", 60), ("two", 39), ("three", 70), ("four", 1)]);
    let adapters = service(&root, "max_adapters = 2\nmemory = 100").await.adapters;
    adapters.load("a", "one", None).await.unwrap();
    let error = adapters.load("b", "three", None).await.unwrap_err();
    assert_eq!(error.to_string(), "twist.txt takes 70 bytes; 40 bytes are left for adapters");
    assert_eq!(code(error), Code::ResourceExhausted);
    adapters.load("b", "two", None).await.unwrap();
    let error = adapters.load("c", "four", None).await.unwrap_err();
    assert!(matches!(error, AdapterError::TooMany { most: 2 }));
    assert_eq!(code(error), Code::ResourceExhausted);
    adapters.load("b", "four", None).await.unwrap();
    for id in ["", "a b", "ü", &"x".repeat(129)] {
        let error = adapters.load(id, "four", None).await.unwrap_err();
        assert!(matches!(error, AdapterError::Field { field: "adapter_id", .. }), "{id}: {error}");
    }
}

#[tokio::test]
async fn a_broken_folder_changes_nothing_and_is_named_without_its_place() {
    let root = folder_of(&[("one", 11)]);
    write(&root, "bad", "not a number");
    let adapters = service(&root, "").await.adapters;
    adapters.load("a", "one", None).await.unwrap();
    let error = adapters.load("a", "bad", None).await.unwrap_err();
    assert_eq!(error.to_string(), "twist.txt: is no number");
    assert_eq!(code(error), Code::InvalidArgument);
    assert_eq!((adapters.list()[0].generation, adapters.memory()), (1, 11));
}

#[tokio::test]
async fn a_caller_who_goes_away_has_loaded_nothing() {
    let root = folder_of(&[("one", 11), ("two", 22)]);
    let adapters = service(&root, "").await.adapters;
    // A pipe, so that it cannot be read before somebody writes into it.
    let file = root.path().join("one/twist.txt");
    fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let mut load = Box::pin(adapters.load("a", "one", None));
    assert!(load.as_mut().now_or_never().is_none());
    drop(load);
    fs::write(&file, "11").unwrap();
    // The next one waits until the thread that still reads is done.
    adapters.load("b", "two", None).await.unwrap();
    assert_eq!(adapters.list().iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(adapters.memory(), 22);
}

#[tokio::test]
async fn without_a_folder_or_a_model_that_takes_them_there_are_none() {
    let none = crate::config::AdaptersConfig { folder: None, ..config(&folder_of(&[]), "").adapters };
    let context = context_like();
    let adapters = Adapters::new(none.clone(), Scripted::unsure(9).adapter_loader(), &context.metrics);
    let error = adapters.load("a", "one", None).await.unwrap_err();
    assert!(matches!(error, AdapterError::NoFolder));
    assert_eq!(code(error), Code::FailedPrecondition);
    let adapters = Adapters::new(none, None, &context_like().metrics);
    assert!(matches!(adapters.load("a", "one", None).await, Err(AdapterError::NotTaken)));
}

#[tokio::test]
async fn preloaded_adapters_are_there_at_the_start_or_the_start_fails() {
    let root = folder_of(&[("one", 11), ("two", 22)]);
    let adapters = service(&root, "preload = [\"one\", \"two\"]").await.adapters;
    assert_eq!(adapters.list().len(), 2);
    let start = crate::start_with(config(&root, "preload = [\"three\"]"), context_like(), || {
        Ok(Box::new(Scripted::unsure(VOCABULARY)) as Box<dyn Model>)
    });
    let error = start.await.unwrap_err();
    assert!(matches!(&error, crate::StartError::Adapter { id, .. } if id == "three"), "{error}");
}

#[tokio::test]
async fn what_an_adapter_served_is_counted_while_it_is_loaded() {
    let root = folder_of(&[("one", 11)]);
    let service = service(&root, "").await;
    service.adapters.load("a", "one", None).await.unwrap();
    service.answer(Some("a"), 5).await;
    service.engine.idle().await;
    let page = service.context.metrics.encode();
    assert!(page.contains("weft_adapter_requests_total{adapter=\"a\"} 1"), "{page}");
    assert!(page.contains("weft_adapter_tokens_total{adapter=\"a\"} 5"), "{page}");
    assert!(page.contains("weft_adapters_loaded 1"), "{page}");
    service.adapters.unload("a", None).unwrap();
    let page = service.context.metrics.encode();
    assert!(!page.contains("adapter=\"a\""), "{page}");
}

#[tokio::test]
async fn the_inference_extension_reads_which_adapters_run_and_wait() {
    let root = folder_of(&[("one", 11)]);
    let service = service(&root, "[scheduler]\nmax_sequences = 1").await;
    service.adapters.load("a", "one", None).await.unwrap();
    service.adapters.load("b", "one", None).await.unwrap();
    service.gate.close();
    let start = |id| {
        let lease = service.adapters.lease(id).unwrap();
        service.engine.generate(request(&[1, 2, 3], 5, Some(lease)), None).unwrap()
    };
    let mut runs = start("a");
    service.gate.admit(1);
    runs.next().await.unwrap().unwrap();
    let waits = start("b");
    let page = || service.context.metrics.encode();
    let series = |running: &str, waiting: &str| {
        format!(
            "vllm:lora_requests_info{{max_lora=\"32\",running_lora_adapters=\"{running}\",\
             waiting_lora_adapters=\"{waiting}\"}} "
        )
    };
    assert!(page().contains(&series("a", "b")), "{}", page());
    drop((runs, waits));
    service.gate.open();
    service.engine.idle().await;
    assert!(page().contains(&series("", "")), "{}", page());
}

#[tokio::test]
async fn a_stream_that_is_dropped_uses_its_adapter_no_more() {
    let root = folder_of(&[("one", 11)]);
    let service = service(&root, "").await;
    service.adapters.load("a", "one", None).await.unwrap();
    service.gate.close();
    let lease = service.adapters.lease("a").unwrap();
    let stream = service.engine.generate(request(&[1], 5, Some(lease)), None).unwrap();
    assert_eq!(service.streams("a"), 1);
    drop(stream);
    service.gate.open();
    service.engine.idle().await;
    assert_eq!(service.streams("a"), 0);
}

#[tokio::test]
async fn a_prefix_of_one_generation_is_of_use_to_no_other_nor_to_the_base() {
    let root = folder_of(&[("one", 11), ("two", 22)]);
    let prompt: Vec<u32> = (10..74).collect();
    let mut expected = Vec::new();
    for name in [None, Some("one"), Some("two")] {
        let fresh = service(&root, "").await;
        if let Some(name) = name {
            fresh.adapters.load("a", name, None).await.unwrap();
        }
        expected.push(fresh.answer_to(&prompt, name.map(|_| "a"), 8).await);
    }
    let shared = service(&root, "").await;
    let hits = || shared.engine.status().prefix.hit_tokens;
    for round in 0..2 {
        assert_eq!(shared.answer_to(&prompt, None, 8).await, expected[0], "round {round}");
        for (name, expected) in [("one", &expected[1]), ("two", &expected[2])] {
            shared.adapters.load("a", name, None).await.unwrap();
            let before = hits();
            assert_eq!(shared.answer_to(&prompt, Some("a"), 8).await, *expected, "{name}, round {round}");
            shared.engine.idle().await;
            assert_eq!(hits(), before, "a new generation finds nothing");
            assert_eq!(shared.answer_to(&prompt, Some("a"), 8).await, *expected, "{name}, round {round}");
            shared.engine.idle().await;
            assert!(hits() > before, "it finds its own");
        }
    }
}
