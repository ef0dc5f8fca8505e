//! The window against a plain reading of whole texts, over random texts and random cuts.

use std::sync::{Arc, LazyLock};

use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    detector::oracle::{Oracle, oracles},
    policy::{Compiler, Policies},
    verdict::{Action, Direction},
};

/// The smallest that a configuration may ask for, so that long findings come in parts.
const MAX_HOLD: usize = 4096;

/// Policies with every action over every detector, and denied terms and expressions that overlap with them.
const POLICY: &str = r#"
default = "mixed"
[policies.mixed.actions]
"secret.private_key" = { prompt = "block", completion = "redact" }
"secret.cloud_key" = { prompt = "redact", completion = "redact" }
"secret.service_token" = { prompt = "redact", completion = "flag" }
"secret.jwt" = { prompt = "redact", completion = "block" }
"secret.url_password" = { prompt = "redact", completion = "redact" }
"secret.assignment" = { prompt = "flag", completion = "redact" }
"pii.email" = { prompt = "redact", completion = "redact" }
"pii.phone" = { prompt = "redact", completion = "redact" }
"pii.iban" = { prompt = "redact", completion = "redact" }
"pii.card" = { prompt = "block", completion = "redact" }
"pii.us_ssn" = { prompt = "redact", completion = "block" }
"pii.ip_address" = { prompt = "flag", completion = "redact" }
"pii.mac_address" = { prompt = "flag", completion = "redact" }
"pii.crypto_address" = { prompt = "allow", completion = "redact" }
[[policies.mixed.deny]]
name = "words"
terms = ["Falcon", "falcon nine", "Straße", "ΣΊΣΥΦΟΣ", "example"]
prompt = "redact"
completion = "redact"
[[policies.mixed.deny]]
name = "exact"
terms = ["NoW", "now and"]
ignore_case = false
whole_word = false
prompt = "flag"
completion = "redact"
[[policies.mixed.deny]]
name = "patterns"
patterns = ['ticket-\d{3,6}', '(?i)fal\w{1,5} n', '[é-ü]{2,4}\b', 'a.{3}b', '(?m:^)xy']
prompt = "redact"
completion = "redact"
# Everything built in is flagged.
[policies.all]
"#;

static POLICIES: LazyLock<Policies> =
    LazyLock::new(|| Compiler::new(MAX_HOLD).unwrap().compile(POLICY).unwrap());
static ORACLES: LazyLock<Vec<Oracle>> = LazyLock::new(oracles);

fn program(direction: Direction) -> &'static Arc<Program> {
    POLICIES.find("").unwrap().program(direction)
}

/// Screens a text in pieces of these lengths (in characters, over and over).
fn streamed(program: &Arc<Program>, text: &str, cuts: &[usize]) -> Verdict {
    let mut window = Window::new(Arc::clone(program));
    let mut verdict = Verdict::default();
    let (mut rest, mut cuts) = (text, cuts.iter().cycle());
    while !rest.is_empty() {
        let length = cuts.next().map_or(usize::MAX, |cut| *cut);
        let end = rest.char_indices().nth(length).map_or(rest.len(), |(i, _)| i);
        let piece;
        (piece, rest) = rest.split_at(end);
        let step = window.push(piece);
        assert!(!verdict.is_blocked || step == Verdict::default(), "something came out after a block");
        verdict.append(step);
    }
    verdict.append(window.finish());
    verdict
}

/// What the release rules say about these findings, said byte by byte.
fn released(text: &str, verdict: &Verdict) -> String {
    let of = |action| verdict.findings.iter().filter(move |finding| finding.rule.action == action);
    let end = of(Action::Block).map(|finding| finding.start).min().unwrap_or(text.len());
    let mut out = String::new();
    let mut hidden_to: Option<usize> = None;
    for (at, c) in text[..end].char_indices() {
        for finding in of(Action::Redact).filter(|finding| finding.start == at) {
            if hidden_to.is_none_or(|end| at > end) {
                out.push_str(&format!("[REDACTED:{}]", finding.rule.category));
            }
            hidden_to = hidden_to.max(Some(finding.end));
        }
        if hidden_to.is_none_or(|end| at >= end) {
            out.push(c);
        }
    }
    out
}

/// What is to be found. Tokens are put together here, so that no scanner of source code takes them for real ones.
fn planted() -> Vec<String> {
    let whole = [
        "ada@example.com",
        "jörg@bücher.example",
        "+1 (415) 555-2671",
        "415-555-2671",
        "01 42 68 53 00",
        "DE89 3704 0044 0532 0130 00",
        "GB29NWBK60161331926819",
        "4111 1111 1111 1111",
        "378282246310005",
        "536-90-4399",
        "192.168.1.10",
        "2001:db8::8a2e:370:7334",
        "00:1A:2b:3C:4d:5E",
        "postgres://app:s3cr3t-pw@db",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "0xde0B295669a9FD93d5F28D9Ec85E40f4cb697BAe",
        "password = 'hunter22!x'",
        "falcon",
        "FALCON NINE",
        "straße",
        "σίσυφος",
        "NoW and",
        "ticket-12345",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ",
    ];
    let parts = [
        ["gh", "p_16C7e42F292c6912E7710c838347Ae178B4a"],
        ["AK", "IAIOSFODNN7EXAMPLE,wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"],
        ["xox", "b-1234567890-q8Zr2LmP0xV7tK4wY9bN1cJ6"],
    ];
    whole.iter().map(|text| (*text).to_owned()).chain(parts.iter().map(|parts| parts.concat())).collect()
}

/// What stands between, much of it the start or the end of something.
const PROSE: [&str; 30] = [
    "the ",
    "quick ",
    "brown fox. ",
    "In 2024, ",
    "1.5 ",
    "12:30 ",
    "(see) ",
    "x = y + 1; ",
    "std::io ",
    "naïve ",
    "日本語",
    "👩\u{200d}💻",
    "e\u{301}",
    "\n",
    " ",
    "-",
    "+",
    ".",
    ",",
    "@",
    ":",
    "_",
    "0",
    "4",
    "a",
    "A",
    "eyJ",
    "-----",
    "é",
    "xy",
];

/// The start or the end of a text, or the text with a character changed or doubled.
fn nearly(text: &str, at: prop::sample::Index, how: u8) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (before, after) = chars.split_at(at.index(chars.len()));
    let middle: &[char] = match how {
        0 => return before.iter().collect(),
        1 => return after.iter().collect(),
        2 => &['5'],
        _ => &[after[0], after[0]],
    };
    before.iter().chain(middle).chain(&after[1..]).collect()
}

/// Text with something to find in it, something that almost is, and everything between.
fn texts() -> impl Strategy<Value = String> {
    let near = (select(planted()), any::<prop::sample::Index>(), 0..4u8);
    let piece = prop_oneof![
        4 => select(PROSE.to_vec()).prop_map(str::to_owned),
        2 => select(planted()),
        2 => near.prop_map(|(text, at, how)| nearly(&text, at, how)),
        1 => any::<String>(),
        1 => "[0-9a-fA-F:.@ +-]{0,30}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        prop::collection::vec(0usize..6, 1..8).prop_map(|mut cuts| {
            cuts.push(1);
            cuts
        }),
        prop::collection::vec(1usize..60, 1..8),
    ]
}

fn directions() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Prompt, Direction::Completion])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_outcome_does_not_depend_on_the_cuts(text in texts(), cuts in cuts(), direction in directions()) {
        let program = program(direction);
        prop_assert_eq!(streamed(program, &text, &cuts), screen(program, &text));
    }

    #[test]
    fn what_comes_out_is_what_the_findings_say(text in texts(), cuts in cuts(), direction in directions()) {
        let verdict = streamed(program(direction), &text, &cuts);
        prop_assert_eq!(&verdict.released, &released(&text, &verdict));
        prop_assert_eq!(verdict.is_blocked, verdict.action() == Action::Block);
    }

    #[test]
    fn the_searches_find_what_a_plain_reading_finds(text in texts(), cuts in cuts()) {
        let verdict = streamed(POLICIES.find("all").unwrap().program(Direction::Prompt), &text, &cuts);
        for finding in &verdict.findings {
            let oracle = ORACLES.iter().find(|oracle| oracle.rule() == finding.rule.name).unwrap();
            let plain = oracle.find_all(&text, MAX_HOLD);
            prop_assert!(plain.contains(&(finding.start..finding.end)), "{:?} is not in {plain:?} of {text:?}", finding);
        }
        for oracle in ORACLES.iter() {
            for found in oracle.find_all(&text, MAX_HOLD) {
                let is_listed = verdict.findings.iter().any(|finding| {
                    finding.rule.category == oracle.category() && finding.start <= found.start && found.end <= finding.end
                });
                prop_assert!(is_listed, "{} at {found:?} of {text:?} was missed", oracle.rule());
            }
        }
    }
}

/// Pushes pieces and returns what each one released.
fn pushes(program: &Arc<Program>, pieces: &[&str]) -> Vec<String> {
    let mut window = Window::new(Arc::clone(program));
    let mut out: Vec<String> = pieces.iter().map(|piece| window.push(piece).released).collect();
    out.push(window.finish().released);
    out
}

#[test]
fn prose_is_held_for_no_more_than_a_word() {
    let program = program(Direction::Completion);
    let prose = "It was the best of times, it was the worst of times: in 1789 there were 12 or 13 people. \
                 Перед ним стоял Иван. 春はあけぼの。やうやう白くなりゆく山ぎは、少し明かりて。 let x = y[3] + foo(bar); // done";
    let mut window = Window::new(Arc::clone(program));
    let mut word = 0;
    for c in prose.chars() {
        window.push(c.encode_utf8(&mut [0; 4]));
        word = if c.is_whitespace() || c > '\u{3000}' { 0 } else { word + c.len_utf8() };
        // The word that is being written, and a number before it that could go on.
        assert!(window.holding() <= word.max(7), "{} bytes are held after {c:?}", window.holding());
    }
}

#[test]
fn a_piece_is_released_as_soon_as_nothing_can_come_of_it() {
    let program = program(Direction::Completion);
    assert_eq!(pushes(program, &["mail ada", " or ", "cid"]), ["mail ", "ada or ", "", "cid"]);
    assert_eq!(
        pushes(program, &["mail ada@exa", "mple.or", "g now"]),
        ["mail ", "", "[REDACTED:pii.email] ", "now"]
    );
    assert_eq!(
        pushes(program, &["fal", "con", "ry falcon", "!"]),
        ["", "", "falconry ", "[REDACTED:denied.words]!", ""]
    );
}

#[test]
fn text_before_a_block_is_released_and_nothing_behind_its_start() {
    let program = program(Direction::Prompt);
    let verdict = screen(program, "Hi ada@lovelace.org, pay with 4111 1111 1111 1111 or ada@lovelace.org");
    assert_eq!(verdict.released, "Hi [REDACTED:pii.email], pay with ");
    assert!(verdict.is_blocked);
    let categories: Vec<&str> = verdict.findings.iter().map(|finding| &*finding.rule.category).collect();
    assert_eq!(categories, ["pii.email", "pii.card"]);
}

#[test]
fn a_blocking_private_key_is_stopped_at_its_head() {
    let mut window = Window::new(Arc::clone(program(Direction::Prompt)));
    assert_eq!(window.push("key: -----BEGIN RSA PRIVATE").released, "key: ");
    let verdict = window.push(" KEY-----\nMIIEvQIBADANBgkqhk");
    assert!(verdict.is_blocked && verdict.released.is_empty());
    assert_eq!(window.push("more"), Verdict::default());
    assert_eq!(window.finish(), Verdict::default());
}

#[test]
fn a_redacted_key_without_an_end_never_gets_out_and_is_held_in_parts() {
    let mut window = Window::new(Arc::clone(program(Direction::Completion)));
    window.push("-----BEGIN PRIVATE KEY-----\n");
    let mut out = String::new();
    for i in 0..2000 {
        out.push_str(
            &window.push("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n").released,
        );
        assert!(window.holding() <= MAX_HOLD + 66, "{} bytes are held after line {i}", window.holding());
    }
    out.push_str(&window.push("-----END PRIVATE KEY-----\nbye").released);
    out.push_str(&window.finish().released);
    assert_eq!(out, "[REDACTED:secret.private_key]\nbye");
}

#[test]
fn the_strictest_action_wins_where_findings_overlap() {
    // The term `example` lies within the address, the expression `a.{3}b` begins before it.
    let verdict = screen(program(Direction::Completion), "axxxb@example.com, example");
    assert_eq!(verdict.released, "[REDACTED:pii.email], [REDACTED:denied.words]");
    // A flag within a redaction changes nothing, and is reported.
    let verdict = screen(program(Direction::Prompt), "NoW@example.com");
    assert_eq!(verdict.released, "[REDACTED:pii.email]");
    assert_eq!(verdict.findings.len(), 3);
}

#[test]
fn terms_mind_case_words_and_scripts_as_the_policy_says() {
    let out = |text: &str| screen(program(Direction::Completion), text).released;
    assert_eq!(
        out("Falcon falcons fAlCoN_x (FALCON)"),
        "[REDACTED:denied.words] falcons fAlCoN_x ([REDACTED:denied.words])"
    );
    assert_eq!(out("STRAẞE straße"), "[REDACTED:denied.words] [REDACTED:denied.words]");
    assert_eq!(out("σίσυφος ΣΊΣΥΦΟΣ σίσυφοςα"), "[REDACTED:denied.words] [REDACTED:denied.words] σίσυφοςα");
    assert_eq!(out("NoW now Know kNoWn"), "[REDACTED:denied.exact] now Know k[REDACTED:denied.exact]n");
}

#[test]
fn hostile_texts_cost_time_in_proportion_to_their_length() {
    let units = [
        "a",
        "1",
        "@",
        "-",
        ":",
        "A",
        "eyJ",
        "a@",
        "1 ",
        "é",
        "a.",
        "x@a.bb",
        "-----BEGIN ",
        "token=",
        "0x",
        "http://a:",
        "::1",
        "+1",
        "falco",
        "a b",
        "AKIA",
        "1.",
        "f:",
    ];
    for unit in units {
        let text = unit.repeat(400_000 / unit.len());
        let started = tokio::time::Instant::now();
        screen(program(Direction::Completion), &text);
        // Takes some 20 ms, half a second unoptimized, and seconds where others compute. Were it quadratic, 400,000 squared
        // steps would take many minutes.
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "{unit:?}: {:?}", started.elapsed());
    }
}

#[test]
fn an_empty_text_and_empty_pieces_are_nothing() {
    let program = program(Direction::Prompt);
    assert_eq!(screen(program, ""), Verdict::default());
    assert_eq!(pushes(program, &["", "a ", ""]).concat(), "a ");
}
