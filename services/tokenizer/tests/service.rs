//! The service as its callers meet it: real gRPC over an in-memory connection, the default model.

use std::{path::Path, time::Duration};

use futures::{StreamExt as _, channel::mpsc, stream};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::{
    common::v1::{ChatMessage, Role, Tool, ToolCall},
    tokenizer::v1::{
        DecodeRequest, DecodeStreamRequest, EncodeChatRequest, EncodeRequest, GetTokenizerInfoRequest,
        tokenizer_service_client::TokenizerServiceClient,
    },
};
use weft_runtime::{
    Context, Process, RuntimeConfig,
    client::{self, ClientConfig, Outgoing, Target},
    config, pipe,
};
use weft_tokenizer::Config;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A tokenizer service and a client of it.
struct Service {
    client: TokenizerServiceClient<Outgoing>,
    context: Context,
    connector: pipe::Connector,
}

impl Service {
    /// With the configuration that `weft up` uses, and these overrides.
    async fn start(overrides: &[(&str, &str)]) -> Self {
        let folder = format!("{ROOT}/models/smollm2-135m-instruct");
        assert!(Path::new(&folder).exists(), "the default model is missing: run `make model`");
        let folder = ("WEFT__TOKENIZER__FOLDER", folder.as_str());
        let overrides: Vec<(&str, &str)> = overrides.iter().copied().chain([folder]).collect();
        let config: Config = config::parse(&shipped(), &overrides).expect("the shipped configuration");

        let mut runtime = RuntimeConfig::default();
        runtime.server.limits.max_message_bytes = 16 << 20;
        let process = Process::new("tokenizer", runtime);
        let context = process.context().clone();
        let (connector, incoming) = pipe::pipe();
        let start = weft_tokenizer::start(config, context.clone());
        context.tasks.spawn("process", process.run(start, incoming, std::future::pending()));
        context.health.serving().await;

        let caller = Process::new("caller", RuntimeConfig::default()).context().clone();
        let target = Target::Pipe(connector.clone());
        let channel =
            client::connect(&caller, "tokenizer", target, &ClientConfig::default()).expect("a connection");
        Self { client: TokenizerServiceClient::new(channel), context, connector }
    }

    async fn encode_chat(
        &mut self,
        messages: Vec<ChatMessage>,
        tools: Vec<Tool>,
    ) -> Result<Vec<u32>, Status> {
        let request = EncodeChatRequest { messages, tools, add_generation_prompt: None };
        Ok(self.client.encode_chat(request).await?.into_inner().token_ids)
    }

    /// The texts for these messages, and how the stream ended.
    async fn decode_stream(&mut self, messages: Vec<DecodeStreamRequest>) -> (Vec<String>, Option<Status>) {
        let mut responses = match self.client.decode_stream(stream::iter(messages)).await {
            Ok(responses) => responses.into_inner(),
            Err(status) => return (Vec::new(), Some(status)),
        };
        let mut texts = Vec::new();
        while let Some(response) = responses.next().await {
            match response {
                Ok(response) => texts.push(response.text),
                Err(status) => return (texts, Some(status)),
            }
        }
        (texts, None)
    }

    /// Waits until a line stands in the metrics.
    async fn metric(&self, line: &str) {
        let stands = async {
            while !self.context.metrics.encode().lines().any(|found| found == line) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), stands).await;
        assert!(in_time.is_ok(), "`{line}` is not in\n{}", self.context.metrics.encode());
    }
}

fn shipped() -> String {
    std::fs::read_to_string(format!("{ROOT}/deploy/config/tokenizer.toml"))
        .expect("deploy/config/tokenizer.toml")
}

fn golden(path: &str) -> Value {
    let text = std::fs::read_to_string(format!("{ROOT}/{path}")).expect("a golden file");
    serde_json::from_str(&text).expect("golden files are JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

fn message(role: Role, content: &str) -> ChatMessage {
    ChatMessage { role: role.into(), content: content.to_owned(), ..ChatMessage::default() }
}

fn tool(name: &str, schema: &str) -> Tool {
    let (name, parameters_json_schema) = (name.to_owned(), schema.to_owned());
    Tool { name, description: String::new(), parameters_json_schema }
}

fn piece(token_ids: &[u32], skip_special_tokens: Option<bool>) -> DecodeStreamRequest {
    DecodeStreamRequest { token_ids: token_ids.to_vec(), skip_special_tokens }
}

/// The fields that a refusal names, with what it says of each.
fn violations(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().expect("a BadRequest");
    details.field_violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

fn fields(status: &Status) -> Vec<String> {
    violations(status).into_iter().map(|(field, _)| field).collect()
}

#[tokio::test]
async fn golden_texts_go_there_and_back() {
    let mut service = Service::start(&[]).await;
    for case in golden("tests/golden/smollm2_tokens.json").as_array().unwrap() {
        let request =
            EncodeRequest { text: case["text"].as_str().unwrap().to_owned(), add_special_tokens: None };
        let token_ids = service.client.encode(request).await.unwrap().into_inner().token_ids;
        assert_eq!(token_ids, ids(&case["ids"]));
        let request = DecodeRequest { token_ids, skip_special_tokens: Some(false) };
        let text = service.client.decode(request).await.unwrap().into_inner().text;
        assert_eq!(text, case["decoded"].as_str().unwrap());
    }
}

#[tokio::test]
async fn golden_conversations_become_golden_ids() {
    let mut service = Service::start(&[]).await;
    let greedy = golden("tests/golden/smollm2_greedy.json");
    for case in greedy["cases"].as_array().unwrap() {
        let role = |name: &str| Role::from_str_name(&format!("ROLE_{}", name.to_uppercase())).unwrap();
        let messages = case["messages"].as_array().unwrap().iter();
        let messages =
            messages.map(|m| message(role(m["role"].as_str().unwrap()), m["content"].as_str().unwrap()));
        let messages: Vec<ChatMessage> = messages.collect();
        assert_eq!(service.encode_chat(messages.clone(), Vec::new()).await.unwrap(), ids(&case["input_ids"]));

        let request = EncodeChatRequest { messages, tools: Vec::new(), add_generation_prompt: Some(false) };
        let without_header = service.client.encode_chat(request).await.unwrap().into_inner().token_ids;
        let whole = ids(&case["input_ids"]);
        assert!(whole.starts_with(&without_header) && without_header.ends_with(&[2, 198]));
    }
}

#[tokio::test]
async fn the_service_tells_what_it_has_loaded() {
    let mut service = Service::start(&[]).await;
    let info = service.client.get_tokenizer_info(GetTokenizerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.vocabulary_size, 49_152);
    assert_eq!(info.end_token_ids, [2]);
    assert!(info.has_chat_template);
    assert_eq!(info.fingerprint.len(), 64);
    assert!(info.fingerprint.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
}

#[tokio::test]
async fn every_problem_of_a_conversation_is_reported_at_once() {
    let mut service = Service::start(&[]).await;
    let call = ToolCall { id: String::new(), name: String::new(), arguments_json: "[1]".to_owned() };
    let messages = vec![
        message(Role::Unspecified, "a"),
        ChatMessage { role: 99, ..message(Role::User, "b") },
        ChatMessage { tool_calls: vec![call.clone()], ..message(Role::Assistant, "") },
        ChatMessage {
            tool_calls: vec![call],
            tool_call_id: Some("x".to_owned()),
            ..message(Role::User, "c")
        },
    ];
    let tools = vec![tool("ok", "{}"), tool("", "{}"), tool("bad", "{\"type\": }"), tool("empty", "")];
    let refused = service.encode_chat(messages, tools).await.unwrap_err();
    let expected = [
        ("messages[0].role", "is not set; must be ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL"),
        ("messages[1].role", "is 99; must be ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL"),
        ("messages[2].tool_calls[0].name", "is empty; must name the tool"),
        ("messages[2].tool_calls[0].arguments_json", "is a list; must be a JSON object"),
        ("messages[3].tool_calls", "are 1 calls of user; only ROLE_ASSISTANT makes calls"),
        ("messages[3].tool_call_id", "is set for user; only ROLE_TOOL answers a call"),
        ("messages[3].tool_calls[0].name", "is empty; must name the tool"),
        ("messages[3].tool_calls[0].arguments_json", "is a list; must be a JSON object"),
        ("tools[1].name", "is empty; must name the tool"),
        (
            "tools[2].parameters_json_schema",
            "is not JSON: expected value at line 1 column 10; must be a JSON object",
        ),
        ("tools[3].parameters_json_schema", "is empty; must be a JSON object"),
    ];
    let expected = expected.map(|(field, description)| (field.to_owned(), description.to_owned()));
    assert_eq!(violations(&refused), expected);
}

#[tokio::test]
async fn a_conversation_that_is_wrong_all_over_is_still_answered() {
    let mut service = Service::start(&[]).await;
    let refused =
        service.encode_chat(vec![message(Role::Unspecified, ""); 4096], Vec::new()).await.unwrap_err();
    let listed = violations(&refused);
    assert_eq!((listed.len(), listed[15].0.as_str()), (16, "messages[15].role"));
    assert!(refused.message().ends_with("and 4080 more"), "{refused:?}");
}

#[tokio::test]
async fn ten_megabytes_are_refused_by_their_field() {
    let mut service = Service::start(&[]).await;
    let text = "a".repeat(10_000_000);
    let refused = service.client.encode(EncodeRequest { text: text.clone(), add_special_tokens: None }).await;
    let rule = "is 10000000 bytes long; must be at most 1048576".to_owned();
    assert_eq!(violations(&refused.unwrap_err()), [("text".to_owned(), rule.clone())]);

    let messages = vec![message(Role::System, "Be brief."), message(Role::User, &text)];
    let refused = service.encode_chat(messages, Vec::new()).await.unwrap_err();
    assert_eq!(violations(&refused), [("messages[1].content".to_owned(), rule)]);

    let half = message(Role::User, &text[..600_000]);
    let refused = service.encode_chat(vec![half.clone(), half], Vec::new()).await.unwrap_err();
    assert_eq!(fields(&refused), ["messages"]);
    assert_eq!(fields(&service.encode_chat(Vec::new(), Vec::new()).await.unwrap_err()), ["messages"]);
}

#[tokio::test]
async fn more_than_is_allowed_is_refused_by_number() {
    let limits = [
        ("WEFT__LIMITS__MAX_MESSAGES", "2"),
        ("WEFT__LIMITS__MAX_TOOLS", "1"),
        ("WEFT__LIMITS__MAX_TOKEN_IDS", "3"),
    ];
    let mut service = Service::start(&limits).await;
    let refused =
        service.encode_chat(vec![message(Role::User, "a"); 3], vec![tool("t", "{}"); 2]).await.unwrap_err();
    let expected = [
        ("messages", "holds 3 messages; must hold at most 2"),
        ("tools", "holds 2 tools; must hold at most 1"),
    ];
    assert_eq!(violations(&refused), expected.map(|(field, rule)| (field.to_owned(), rule.to_owned())));

    let refused =
        service.client.decode(DecodeRequest { token_ids: vec![9; 4], skip_special_tokens: None }).await;
    assert_eq!(fields(&refused.unwrap_err()), ["token_ids"]);
    let (texts, ended) = service.decode_stream(vec![piece(&[9, 9], None), piece(&[9, 9], None)]).await;
    assert_eq!(texts.len(), 1);
    let rule = "come to 4 ids in this text; must be at most 3".to_owned();
    assert_eq!(violations(&ended.expect("a refusal")), [("token_ids".to_owned(), rule)]);
}

#[tokio::test]
async fn ids_outside_of_the_vocabulary_are_named() {
    let mut service = Service::start(&[]).await;
    let refused =
        service.client.decode(DecodeRequest { token_ids: vec![1, 49_152], skip_special_tokens: None }).await;
    let expected = [("token_ids[1]".to_owned(), "is 49152; must be below 49152".to_owned())];
    assert_eq!(violations(&refused.unwrap_err()), expected);
    let (texts, ended) = service.decode_stream(vec![piece(&[504], None), piece(&[1, 49_152], None)]).await;
    assert_eq!(texts.len(), 1);
    assert_eq!(violations(&ended.expect("a refusal")), expected);
}

#[tokio::test]
async fn a_stream_answers_each_message_and_once_more_at_the_end() {
    let mut service = Service::start(&[]).await;
    for case in golden("tests/golden/smollm2_tokens.json").as_array().unwrap() {
        let token_ids = ids(&case["ids"]);
        let (texts, ended) =
            service.decode_stream(token_ids.iter().map(|id| piece(&[*id], Some(false))).collect()).await;
        assert!(ended.is_none());
        assert_eq!(texts.len(), token_ids.len() + 1);
        assert_eq!(texts.concat(), case["decoded"].as_str().unwrap());
    }
    let (texts, ended) = service.decode_stream(vec![piece(&[], None); 3]).await;
    assert_eq!((texts, ended.is_none()), (vec![String::new(); 4], true));
}

#[tokio::test]
async fn the_first_message_decides_about_special_tokens() {
    let mut service = Service::start(&[]).await;
    let shown = service.decode_stream(vec![piece(&[1], Some(false)), piece(&[2], Some(true))]).await.0;
    assert_eq!(shown.concat(), "<|im_start|><|im_end|>");
    let skipped = service.decode_stream(vec![piece(&[1], None), piece(&[2], Some(false))]).await.0;
    assert_eq!(skipped.concat(), "");
}

#[tokio::test]
async fn a_response_comes_before_the_next_message_is_sent() {
    let mut service = Service::start(&[]).await;
    let (send, messages) = mpsc::unbounded();
    send.unbounded_send(piece(&[504, 3575], None)).unwrap();
    let mut responses = service.client.decode_stream(messages).await.unwrap().into_inner();
    assert_eq!(responses.next().await.unwrap().unwrap().text, "The capita");
    service.metric("weft_tokenizer_open_decode_streams 1").await;
    send.unbounded_send(piece(&[282], None)).unwrap();
    assert_eq!(responses.next().await.unwrap().unwrap().text, "l o");
    drop(send);
    assert_eq!(responses.next().await.unwrap().unwrap().text, "f");
    assert!(responses.next().await.is_none());
    service.metric("weft_tokenizer_open_decode_streams 0").await;
    service.metric("weft_tokenizer_decoded_tokens_total 3").await;
}

#[tokio::test]
async fn a_stream_whose_caller_is_gone_is_forgotten() {
    let mut service = Service::start(&[]).await;
    let (send, messages) = mpsc::unbounded();
    send.unbounded_send(piece(&[504], None)).unwrap();
    let mut responses = service.client.decode_stream(messages).await.unwrap().into_inner();
    responses.next().await.unwrap().unwrap();
    service.metric("weft_tokenizer_open_decode_streams 1").await;
    service.connector.cut();
    service.metric("weft_tokenizer_open_decode_streams 0").await;
}

#[tokio::test]
async fn a_message_of_many_ids_streams_like_many_messages() {
    let mut service = Service::start(&[]).await;
    let text = "naïve 👩\u{200D}👧 日本語 ".repeat(2_000);
    let request = EncodeRequest { text: text.clone(), add_special_tokens: None };
    let token_ids = service.client.encode(request).await.unwrap().into_inner().token_ids;
    assert!(token_ids.len() > 10_000, "long enough for the pool");
    let thirds: Vec<_> = token_ids.chunks(token_ids.len() / 3 + 1).map(|ids| piece(ids, None)).collect();
    let (texts, ended) = service.decode_stream(thirds).await;
    assert!(ended.is_none());
    assert_eq!(texts.len(), 4);
    assert_eq!(texts.concat(), text);
}

#[tokio::test]
async fn calls_side_by_side_do_not_mix() {
    let service = Service::start(&[]).await;
    let calls = (0..64).map(|n| {
        let mut client = service.client.clone();
        async move {
            let text = format!("call {n} ").repeat(n * 7 + 1);
            let request = EncodeRequest { text: text.clone(), add_special_tokens: None };
            let token_ids = client.encode(request).await?.into_inner().token_ids;
            let request = DecodeRequest { token_ids, skip_special_tokens: None };
            Ok::<bool, Status>(client.decode(request).await?.into_inner().text == text)
        }
    });
    for same in futures::future::join_all(calls).await {
        assert!(same.unwrap());
    }
}

#[test]
fn the_shipped_configuration_is_usable_and_shows_the_defaults() {
    let shipped: Config = config::parse(&shipped(), &[]).unwrap();
    let least: Config = config::parse("[tokenizer]\nfolder = \"models/smollm2-135m-instruct\"", &[]).unwrap();
    assert_eq!(format!("{shipped:?}"), format!("{least:?}"));
}

#[test]
fn every_problem_of_a_configuration_is_reported_at_once() {
    let text = "[tokenizer]\nspecial_tokens_in_content = \"maybe\"\n[pool]\nthreads = 0\n[limits]\nmax_txt_bytes = 1\n";
    let problems = config::parse::<Config>(text, &[]).unwrap_err().to_string();
    for problem in
        ["tokenizer.folder", "tokenizer.special_tokens_in_content", "pool.threads", "limits.max_txt_bytes"]
    {
        assert!(problems.contains(problem), "{problem} is not in\n{problems}");
    }
}
