use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::*;

#[derive(Debug, PartialEq)]
struct Cache {
    block_size: usize,
    share: f64,
}

impl FromConfig for Cache {
    fn from_config(section: &mut Section<'_>) -> Self {
        let power_of_two = Rule {
            holds: |size: &usize, _| size.is_power_of_two(),
            bounds: vec![],
            words: "must be a power of two".to_owned(),
        };
        Self {
            block_size: section.value("block_size", 16, power_of_two),
            share: section.value("share", 0.5, between(0.0, 1.0)),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Replica {
    address: String,
}

impl FromConfig for Replica {
    fn from_config(section: &mut Section<'_>) -> Self {
        Self { address: section.required("address", not_empty()) }
    }
}

#[derive(Debug, PartialEq)]
struct Config {
    name: String,
    folder: PathBuf,
    patience: Duration,
    words: Vec<String>,
    mode: u8,
    cache: Cache,
    spare: Option<Cache>,
    replicas: Vec<Replica>,
    models: Vec<(String, Replica)>,
}

impl FromConfig for Config {
    fn from_config(root: &mut Section<'_>) -> Self {
        let config = Self {
            name: root.required("name", not_empty()),
            folder: root.value("folder", PathBuf::from("models"), any()),
            patience: root.value("patience", Duration::from_secs(1), positive()),
            words: root.value("words", Vec::new(), any()),
            mode: root.choice("mode", 0, &[("fast", 1), ("exact", 2)]),
            cache: root.section("cache"),
            spare: root.optional_section("spare"),
            replicas: root.list("replicas"),
            models: root.named("models"),
        };
        if config.patience > Duration::from_secs(60) {
            root.problem("patience", "long", "must be at most a minute");
        }
        config
    }
}

const GOOD: &str = r#"
name = "a"
patience = "1m"
words = ["x", "y"]
mode = "exact"
[server]
listen = "127.0.0.1:0"
[cache]
block_size = 32
share = 1
[[replicas]]
address = "one"
[[replicas]]
address = "two"
[models.small]
address = "three"
"#;

fn problems(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let problems = parse::<Config>(text, env).unwrap_err();
    problems.to_string().lines().skip(1).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_good_file_is_read_and_what_it_leaves_out_has_defaults() {
    let config = parse::<Config>(GOOD, &[]).unwrap();
    let expected = Config {
        name: "a".to_owned(),
        folder: PathBuf::from("models"),
        patience: Duration::from_secs(60),
        words: vec!["x".to_owned(), "y".to_owned()],
        mode: 2,
        cache: Cache { block_size: 32, share: 1.0 },
        spare: None,
        replicas: vec![Replica { address: "one".to_owned() }, Replica { address: "two".to_owned() }],
        models: vec![("small".to_owned(), Replica { address: "three".to_owned() })],
    };
    assert_eq!(config, expected);
}

#[test]
fn every_problem_is_reported_at_once_with_path_value_and_rule() {
    let text = r#"
        nmae = "a"
        patience = "soon"
        words = [1]
        mode = "slow"
        [cache]
        block_size = 24
        share = "half"
        [[replicas]]
        adress = "one"
        [server]
        max_message_bytes = 1
        [drain]
        announce = -1
        [zebra]
    "#;
    let report = parse::<Config>(text, &[]).unwrap_err().to_string();
    let expected = [
        "the configuration is not usable:",
        "  server.max_message_bytes = 1   must be between 1024 and 1073741824",
        "  drain.announce = -1            must be a duration such as \"30s\" or \"1m 30s\"",
        "  name                           is missing: must be a text",
        "  patience = \"soon\"              must be a duration such as \"30s\" or \"1m 30s\"",
        "  words = [1]                    must be a list, each item of the right kind",
        "  mode = \"slow\"                  must be one of \"fast\", \"exact\"",
        "  cache.block_size = 24          must be a power of two",
        "  cache.share = \"half\"           must be a number",
        "  replicas.0.address             is missing: must be a text",
        "  replicas.0.adress              unknown key; did you mean `address`?",
        "  nmae                           unknown key; did you mean `name`?",
        "  zebra                          unknown key",
    ];
    assert_eq!(report.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_environment_overrides_the_file_in_every_kind_of_value() {
    let env = [
        ("WEFT__NAME", "8"),
        ("WEFT__FOLDER", "/models"),
        ("WEFT__PATIENCE", "2s"),
        ("WEFT__WORDS", r#"["z"]"#),
        ("WEFT__MODE", "fast"),
        ("WEFT__CACHE__BLOCK_SIZE", "64"),
        ("WEFT__SPARE__SHARE", "0.25"),
        ("WEFT__MODELS__SMALL__ADDRESS", "four"),
        ("WEFT__MODELS__LARGE__ADDRESS", "five"),
        ("PATH", "is not ours"),
    ];
    let config = parse::<Config>(GOOD, &env).unwrap();
    assert_eq!(config.name, "8");
    assert_eq!(config.folder, PathBuf::from("/models"));
    assert_eq!(config.patience, Duration::from_secs(2));
    assert_eq!(config.words, ["z"]);
    assert_eq!(config.mode, 1);
    assert_eq!(config.cache.block_size, 64);
    assert_eq!(config.spare.unwrap().share, 0.25);
    let models: Vec<_> =
        config.models.iter().map(|(name, model)| (name.as_str(), model.address.as_str())).collect();
    assert_eq!(models, [("small", "four"), ("large", "five")]);
}

#[test]
fn problems_of_the_environment_say_where_they_come_from() {
    let env = [("WEFT__CACHE__BLOCK_SIZE", "many"), ("WEFT__CACHE__BLOKC_SIZE", "1")];
    let expected = [
        "cache.block_size = many (from the environment)   must be a whole number that is not negative",
        "cache.blokc_size                                 unknown key (from the environment); did you mean \
         `block_size`?",
    ];
    assert_eq!(problems(GOOD, &env), expected);
}

#[test]
fn a_value_where_a_table_belongs_is_a_problem_and_so_is_the_reverse() {
    let text = "name = { first = 1 }\ncache = 3\nreplicas = 4\nmodels = 5\nspare = 6";
    let expected = [
        "name = { first = 1 }   must be a text",
        "cache = 3              must be a table: [cache]",
        "spare = 6              must be a table: [spare]",
        "replicas = 4           must be a list of tables: [[replicas]]",
        "models = 5             must be a table: [models]",
    ];
    assert_eq!(problems(text, &[]), expected);
}

#[test]
fn a_problem_between_keys_and_one_of_syntax_have_a_place() {
    assert_eq!(
        problems("name = \"a\"\npatience = \"2m\"", &[]),
        ["patience = long   must be at most a minute"]
    );
    let syntax = problems("name = \"a\"\n= 3", &[]);
    assert!(syntax[0].starts_with("line 2   is not TOML: "), "{syntax:?}");
}

#[test]
fn numbers_that_are_not_numbers_break_every_bound() {
    assert_eq!(
        problems("name = \"a\"\n[cache]\nshare = nan", &[]),
        ["cache.share = nan   must be between 0 and 1"]
    );
    assert!(!at_least(0.0).allows(&f64::NAN));
}

struct Nothing;

impl FromConfig for Nothing {
    fn from_config(_: &mut Section<'_>) -> Self {
        Self
    }
}

#[test]
fn a_process_on_sockets_must_have_an_address_and_a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.toml");
    let missing = load::<Nothing>(&file, []).err().unwrap().to_string();
    assert!(missing.contains("tokenizer.toml") && missing.contains("cannot be read"), "{missing}");

    std::fs::write(&file, "[drain]\nlimit = \"1s\"").unwrap();
    let unset = load::<Nothing>(&file, []).err().unwrap().to_string();
    assert!(unset.contains("server.listen   is missing: must be an address and port"), "{unset}");

    let env = [("WEFT__SERVER__LISTEN".to_owned(), "127.0.0.1:50061".to_owned())];
    let (runtime, Nothing) = load::<Nothing>(&file, env).unwrap();
    assert_eq!(runtime.server.listen, Some(SocketAddr::from(([127, 0, 0, 1], 50061))));
    assert_eq!(runtime.drain.limit, Duration::from_secs(1));
}

#[test]
fn bounds_between_the_runtimes_own_keys_are_kept() {
    let text = "name = \"a\"\n[server]\ndefault_deadline = \"2m\"\nmax_deadline = \"1m\"\n[telemetry]\nlog = \"info,x=loud\"\notlp_endpoint = \"jaeger\"\nsample_ratio = 2";
    let found = problems(text, &[]);
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(found[0], "server.default_deadline = 2m         must be at most max_deadline (1m)");
}
