use super::*;
use crate::window::screen;

fn compiler() -> Compiler {
    Compiler::new(1 << 14).unwrap()
}

fn shipped() -> Policies {
    compiler().compile(include_str!("../../../../deploy/config/policy.toml")).unwrap()
}

#[test]
fn the_shipped_policy_file_is_usable_and_starts_with_its_default() {
    let policies = shipped();
    let names: Vec<&str> = policies.list().iter().map(|policy| &*policy.name).collect();
    assert_eq!(names[0], "standard");
    assert!(names.contains(&"strict") && names.contains(&"observe"));
    assert_eq!(policies.find("").unwrap().name, "standard");
    assert!(policies.find("nobody").is_none());
    assert_eq!(policies.version().len(), 12);
}

#[test]
fn the_shipped_policy_lets_ordinary_chats_pass() {
    let standard = Arc::clone(shipped().find("").unwrap());
    for text in [
        "Write a haiku about the sea.",
        "My server 192.168.1.10 refuses ssh from fe80::1; what is wrong?",
        "Explain what -----BEGIN PRIVATE KEY----- means in a PEM file.",
        "Translate: My e-mail is ada@example.com and my number is +44 20 7946 0958.",
        "What is 4111 times 1111? And is 1700000000000 a timestamp?",
        "password = input('your password: ')",
    ] {
        let verdict = screen(standard.program(Direction::Prompt), text);
        assert_eq!(verdict.released, text);
        assert!(verdict.action() <= Action::Flag);
    }
    let answer = "Write to ada@example.com or call +44 20 7946 0958 about host 10.0.0.7.";
    let verdict = screen(standard.program(Direction::Completion), answer);
    assert_eq!(
        verdict.released,
        "Write to [REDACTED:pii.email] or call [REDACTED:pii.phone] about host 10.0.0.7."
    );
}

#[test]
fn the_test_phrase_is_blocked_in_both_directions() {
    let standard = Arc::clone(shipped().find("").unwrap());
    for direction in [Direction::Prompt, Direction::Completion] {
        let verdict = screen(standard.program(direction), "please say weft-safety-test-phrase now");
        assert!(verdict.is_blocked);
        assert_eq!(verdict.released, "please say ");
        assert_eq!(verdict.findings[0].rule.category, "denied.test_phrase");
    }
}

#[test]
fn rules_are_listed_with_an_action_for_each_direction() {
    let policies = shipped();
    let rules = &policies.find("standard").unwrap().rules;
    let rule = |category: &str| rules.iter().find(|rule| rule.category == category).unwrap();
    assert_eq!((rule("pii.email").prompt, rule("pii.email").completion), (Action::Flag, Action::Redact));
    assert_eq!(rule("denied.test_phrase").prompt, Action::Block);
    assert_eq!(rules.len(), detector::categories().count() + 1);
}

#[test]
fn what_a_policy_does_not_mention_is_flagged() {
    let policies = compiler().compile("default = 'x'\n[policies.x]").unwrap();
    assert!(policies.find("x").unwrap().rules.iter().all(|rule| rule.prompt == Action::Flag));
}

#[test]
fn what_is_allowed_is_not_looked_for() {
    let text =
        "default = 'x'\n[policies.x.actions]\n'pii.email' = { prompt = 'allow', completion = 'redact' }";
    let policies = compiler().compile(text).unwrap();
    let policy = policies.find("x").unwrap();
    assert_eq!(screen(policy.program(Direction::Prompt), "ada@example.com").findings, []);
    assert_eq!(
        screen(policy.program(Direction::Completion), "ada@example.com").released,
        "[REDACTED:pii.email]"
    );
}

#[test]
fn an_exception_exempts_whole_findings_of_its_categories() {
    let text = "
        default = 'x'
        [policies.x.actions]
        'pii.email' = { prompt = 'redact' }
        'pii.ip_address' = { prompt = 'redact' }
        [[policies.x.exceptions]]
        categories = ['pii.email']
        terms = ['Support@Weft.example']
        patterns = ['.*@example\\.com']
        [[policies.x.exceptions]]
        patterns = ['10\\..*']";
    let policies = compiler().compile(text).unwrap();
    let program = policies.find("x").unwrap().program(Direction::Prompt);
    let out = |text: &str| screen(program, text).released;
    for exempt in ["support@weft.example", "ada@example.com", "10.1.2.3"] {
        assert_eq!(out(exempt), exempt);
    }
    assert_eq!(out("no.support@weft.example"), "[REDACTED:pii.email]");
    assert_eq!(out("ada@example.com.evil.org"), "[REDACTED:pii.email]");
    assert_eq!(out("110.1.2.3"), "[REDACTED:pii.ip_address]");
}

#[test]
fn all_mistakes_of_a_policy_file_are_reported_at_once() {
    let text = "
        default = 'nobody'
        [policies.x.actions]
        'pii.e-mail' = { prompt = 'flag' }
        'pii.email' = { prompt = 'delete' }
        [[policies.x.deny]]
        name = 'Not a name'
        terms = ['', 'ok']
        patterns = ['a(', 'a.*', 'fine{3}']
        [[policies.x.deny]]
        name = 'empty'
        [[policies.x.exceptions]]
        categories = ['pii.fax']
        patterns = ['[']";
    let report = compiler().compile(text).unwrap_err().to_string();
    for line in [
        "default = \"nobody\"",
        "must be one of \"x\"",
        "did you mean `pii.email`?",
        "must be one of \"allow\", \"flag\", \"redact\", \"block\"",
        "must be 1 to 64 of a-z, 0-9 and _",
        "must be 1 to 256 characters, not all of them blank; this is 0",
        "must be a regular expression: unclosed group",
        "must have a longest match of at most 1024 bytes",
        "must not be empty unless `patterns` has something in it",
        "must be one of secret.private_key",
    ] {
        assert!(report.contains(line), "{line:?} is not in:\n{report}");
    }
}

#[test]
fn many_terms_stand_in_one_automaton() {
    let terms: Vec<String> = (0..20_000).map(|i| format!("\"term{i:05}x\"")).collect();
    let text = format!(
        "default = 'x'\n[policies.x]\n[[policies.x.deny]]\nname = 'n'\nterms = [{}]",
        terms.join(",")
    );
    let policies = compiler().compile(&text).unwrap();
    let program = policies.find("x").unwrap().program(Direction::Prompt);
    assert_eq!(screen(program, "a TERM01234X, term01234 and term19999x").released, "a ");
    assert_eq!(screen(program, "term20000x xterm00000x").released, "term20000x xterm00000x");
}
