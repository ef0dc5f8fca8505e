use std::sync::{Arc, LazyLock};

use super::*;
use crate::{policy::Compiler, program::Program, verdict::Direction, window::screen};

/// Everything is looked for and flagged.
static ALL: LazyLock<Arc<Program>> = LazyLock::new(|| {
    let policies = Compiler::new(1 << 14).unwrap().compile("default = 'all'\n[policies.all]").unwrap();
    Arc::clone(policies.find("").unwrap().program(Direction::Prompt))
});

/// What is found in a text: the rule and the text of each finding.
fn found(text: &str) -> Vec<(String, &str)> {
    let verdict = screen(&ALL, text);
    assert_eq!(verdict.released, text, "flags change nothing");
    verdict.findings.iter().map(|f| (f.rule.name.clone(), &text[f.start..f.end])).collect()
}

/// `text` has exactly these findings, as (rule, text).
#[track_caller]
fn assert_found(text: &str, expected: &[(&str, &str)]) {
    let found = found(text);
    let found: Vec<(&str, &str)> = found.iter().map(|(rule, text)| (&**rule, *text)).collect();
    assert_eq!(found, expected, "in {text:?}");
}

#[track_caller]
fn assert_clean(texts: &[&str]) {
    for text in texts {
        assert_found(text, &[]);
    }
}

/// Secrets are put together here, so that no scanner of source code takes them for real ones.
fn secret(parts: &[&str]) -> String {
    parts.concat()
}

const AWS_SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

#[test]
fn tokens_of_known_issuers_are_found_whole() {
    let body = "16C7e42F292c6912E7710c838347Ae178B4a";
    let long = "q8Zr2LmP0xV7tK4wY9bN1cJ6hD3gF5sA8uE2iO7pT4kR6vX0zC9nM1lB5";
    let tokens = [
        ("aws_access_key_id", secret(&["AKIA", "IOSFODNN7EXAMPLE"])),
        ("google_api_key", secret(&["AIza", "SyDdI0hCZtE6vySjMm-WEfRq3CPzqKqqsHI"])),
        ("google_oauth_secret", secret(&["GOCSPX-", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4"])),
        ("github_token", secret(&["ghp_", body])),
        ("github_token", secret(&["ghs_", body, "AndMoreThanToday"])),
        ("github_fine_grained_token", secret(&["github_pat_", &long[..22], "_", long, "Ab"])),
        ("gitlab_token", secret(&["glpat-", &long[..20]])),
        ("slack_token", secret(&["xoxb-", "1234567890-", &long[..24]])),
        (
            "slack_webhook",
            secret(&["https://hooks.slack.com/services/", "T00000001/B00000001/", &long[..24]]),
        ),
        ("stripe_key", secret(&["sk_live_", &long[..24]])),
        ("stripe_webhook_secret", secret(&["whsec_", &long[..32]])),
        ("model_api_key", secret(&["sk-proj-", long])),
        ("model_api_key", secret(&["sk-ant-api03-", long])),
        ("hugging_face_token", secret(&["hf_", "abcdefghijklmnopqrstuvwxyzABCDEFGH"])),
        ("npm_token", secret(&["npm_", body])),
        ("pypi_token", secret(&["pypi-AgE", "IcHlwaS5vcmcCJ", long])),
        ("sendgrid_key", secret(&["SG.", &long[..22], ".", &long[..43]])),
    ];
    for (rule, token) in &tokens {
        for (before, after) in [("", ""), ("use ", " now"), ("key=\"", "\""), ("看", "吗"), ("(", ").")] {
            let text = format!("{before}{token}{after}");
            let all = found(&text);
            let ours: Vec<_> = all.iter().filter(|(name, _)| name == rule).collect();
            assert_eq!(ours.len(), 1, "{rule} in {text:?}: {all:?}");
            assert_eq!(ours[0].1, token, "{rule} in {text:?}");
        }
    }
}

#[test]
fn what_only_looks_like_a_token_is_not_one() {
    assert_clean(&[
        &secret(&["ghp_", &"x".repeat(36)]),
        &secret(&["ghp_", "16C7e42F292c6912E77"]),
        &secret(&["AKIA", "IOSFODNN7"]),
        &secret(&["sk_live_", "xxxxxxxxxxxxxxxxxxxxxxxx"]),
        "AKIATIOSFODNN7EXAMPLEISTOOLONG",
        "tasks-and-skills-and-everything-else-in-between",
        "the risk-assessment-of-the-whole-programme-continues",
        "hf_hub_download(repo_id, filename)",
        "git clone https://hooks.example.org/services/T0",
    ]);
}

#[test]
fn secret_keys_are_found_by_what_introduces_them() {
    let id = secret(&["AKIA", "IOSFODNN7EXAMPLE"]);
    let text = format!("aws_secret_access_key = {AWS_SECRET}");
    assert_found(&text, &[("aws_secret_access_key", AWS_SECRET), ("secret_assignment", AWS_SECRET)]);
    let text = format!("{id},{AWS_SECRET}");
    assert_found(&text, &[("aws_access_key_id", &id), ("aws_key_pair", AWS_SECRET)]);
    let text = format!(r#"{{"SecretAccessKey": "{AWS_SECRET}"}}"#);
    assert_eq!(found(&text)[0], ("aws_secret_access_key".to_owned(), AWS_SECRET));
    assert_clean(&[&format!("sha1: {}", "0123456789abcdef0123456789abcdef01234567")]);
}

#[test]
fn a_private_key_is_found_from_its_first_line_to_its_last() {
    let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n".repeat(20);
    for kind in ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "] {
        let key = format!("-----BEGIN {kind}PRIVATE KEY-----\n{body}-----END {kind}PRIVATE KEY-----");
        assert_found(&format!("my key:\n{key}\nbye"), &[("pem_private_key", &key)]);
    }
    let escaped = format!(
        r#"-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"#,
        "MIIEvQIBADANBgkqhkiG9w0BAQ"
    );
    assert_found(&format!(r#""private_key": "{escaped}\n""#), &[("pem_private_key", &escaped)]);
    let pgp = format!(
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n{body}-----END PGP PRIVATE KEY BLOCK-----"
    );
    assert_found(&pgp, &[("pem_private_key", &pgp)]);
    let putty = format!(
        "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\n{body}Private-MAC: {}\n",
        "0a".repeat(32)
    );
    assert_found(&putty, &[("putty_private_key", &putty)]);
}

#[test]
fn a_private_key_without_an_end_is_found_to_the_end_of_the_text_in_parts() {
    let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n".repeat(600);
    let text = format!("-----BEGIN PRIVATE KEY-----\n{body}");
    let verdict = screen(&ALL, &text);
    let ends: Vec<(usize, usize)> = verdict.findings.iter().map(|f| (f.start, f.end)).collect();
    assert_eq!(ends, [(0, 1 << 14), (1 << 14, 2 << 14), (2 << 14, text.len())]);
}

#[test]
fn talk_about_private_keys_is_not_a_private_key() {
    assert_clean(&[
        "A PEM file starts with -----BEGIN PRIVATE KEY----- and ends with -----END PRIVATE KEY-----.",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKC\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKC\n-----END CERTIFICATE-----",
    ]);
}

#[test]
fn a_web_token_needs_a_header_that_names_an_algorithm() {
    let token = |header: &str| {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        format!(
            "{}.{}.{}",
            part(header),
            part(r#"{"sub":"1234567890","name":"Ada"}"#),
            part("not really signed")
        )
    };
    let good = token(r#"{"alg":"HS256","typ":"JWT"}"#);
    assert_found(&format!("Authorization: Bearer {good}\n"), &[("jwt", &good)]);
    assert_clean(&[
        &token(r#"{"typ":"JWT","kid":"1"}"#),
        &token(r#"{"alg":256,"typ":"J"}"#),
        "eyJhbGciOiJIUzI1NiJ9",
    ]);
    let long = token(&format!(r#"{{"alg":"RS256","x5c":"{}"}}"#, "A".repeat(2500)));
    assert_found(&long, &[("jwt", &long)]);
}

#[test]
fn passwords_are_found_in_urls_and_assignments() {
    assert_found("postgres://app:s3cr3t-pw@db:5432/x", &[("url_password", "s3cr3t-pw")]);
    assert_found("DB_PASSWORD=hunter22!x", &[("secret_assignment", "hunter22!x")]);
    assert_found(
        r#""api_key": "a8f5f167f44f4964e6c998de""#,
        &[("secret_assignment", "a8f5f167f44f4964e6c998de")],
    );
    let long = "k3J".repeat(100);
    assert_found(&format!("token := '{long}'"), &[]);
    let long = "k3J9xQ2mV7p".repeat(30);
    assert_found(&format!("token := '{long}';"), &[("secret_assignment", &long)]);
    assert_clean(&[
        "postgres://user:password@localhost/db",
        "https://example.org:8080/path?x=a@b",
        "http://user:${PASSWORD}@host",
        "password: must be at least 8 characters long and have 2 digits",
        "let token = tokens.next_token2(stream);",
        "token = self.tokens[12]",
        "secret = os.environ['SECRET_KEY_2024']",
        "api_key = \"<your-api-key-1>\"",
        "PASSWORD=changeme123",
        "The secret: everyone is welcome",
    ]);
}

#[test]
fn e_mail_addresses_are_found_whole() {
    for address in [
        "ada@example.com",
        "ada.lovelace+maths@mail.example.co.uk",
        "o'brien_1@sub-domain.example.museum",
        "jörg.müller@bücher.example",
        "ада@пример.рф",
        "x@xn--bcher-kva.xn--p1ai",
    ] {
        for (before, after) in
            [("", ""), ("mail ", " now"), ("<", ">"), ("to:", ", "), ("(", ")."), ("邮箱", "。"), ("=", ";")]
        {
            assert_found(&format!("{before}{address}{after}"), &[("email", address)]);
        }
    }
    assert_found("ada@example.com.", &[("email", "ada@example.com")]);
    assert_clean(&[
        "@ada",
        "ada@",
        "ada@localhost",
        "a @ b.com",
        "react@18.2.0",
        "git@github.com:ada/engine.git",
        "f(x)@y",
        "@media.print",
    ]);
}

#[test]
fn telephone_numbers_are_found_in_the_forms_that_people_write() {
    for (rule, number) in [
        ("phone_e164", "+14155552671"),
        ("phone_e164", "+1 (415) 555-2671"),
        ("phone_e164", "+44 20 7946 0958"),
        ("phone_e164", "+49 (0)30 901820"),
        ("phone_e164", "+91-98765-43210"),
        ("phone_north_america", "(415) 555-2671"),
        ("phone_north_america", "415-555-2671"),
        ("phone_north_america", "415.555.2671"),
        ("phone_north_america", "1-800-555-2671"),
        ("phone_national", "020 7946 0958"),
        ("phone_national", "07700 900123"),
        ("phone_national", "01 42 68 53 00"),
        ("phone_national", "01.42.68.53.00"),
        ("phone_national", "030/901820"),
    ] {
        for (before, after) in
            [("", ""), ("call ", " now"), ("tel:", "."), ("(", ")"), ("电话", "。"), ("", ", 12 people")]
        {
            if before == "(" && number.starts_with('(') {
                continue;
            }
            assert_found(&format!("{before}{number}{after}"), &[(rule, number)]);
        }
    }
}

#[test]
fn other_numbers_are_not_telephone_numbers() {
    assert_clean(&[
        "on 2024-01-15 at 10:30:00",
        "01-02-2024 and 31.12.1999",
        "pages 415-555 and 2671",
        "1+2345678 = x",
        "ISBN 978-3-16-148410-0",
        "order 0123456789",
        "version 10.15.7",
        "3.14159265358979",
        "1,000,000,000",
        "0.123 4567 8901",
        "$415.555.2671",
        "115-555-2671",
        "in 2023 2024 2025 and 2026",
        "0xDEADBEEF00112233",
        "1700000000000",
        "+5 and +12345",
    ]);
}

#[test]
fn accounts_are_found_by_their_checksums() {
    for iban in [
        "DE89370400440532013000",
        "GB29 NWBK 6016 1331 9268 19",
        "FR14 2004 1010 0505 0001 3M02 606",
        "NO93 8601 1117 947",
        "mt84malt011000012345mtlcast001s",
    ] {
        for (before, after) in [("", ""), ("IBAN ", " and 12 more"), ("(", ")")] {
            assert_found(&format!("{before}{iban}{after}"), &[("iban", iban)]);
        }
    }
    for card in [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5500-0000-0000-0004",
        "3782 822463 10005",
        "6011111111111117",
        "30569309025904",
        "4222222222222",
    ] {
        for (before, after) in [("", ""), ("card ", " 12/27"), ("12 x ", "."), ("", " 123")] {
            assert_found(&format!("{before}{card}{after}"), &[("card_number", card)]);
        }
    }
    assert_clean(&[
        "DE89370400440532013001",
        "GB29 NWBK 6016 1331 9268 18",
        "XX12 3456 7890 1234 5678",
        "4111111111111112",
        "0.4111111111111111",
        "411111111111111",
        "41111111111111111111",
        "9780306406157",
        "1234567812345670",
        "id=x4111111111111111",
    ]);
}

#[test]
fn social_security_numbers_are_those_that_are_handed_out() {
    assert_found("SSN 536-90-4399.", &[("us_social_security_number", "536-90-4399")]);
    assert_clean(&[
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "1536-90-4399",
        "536-90-43990",
        "536-90-4399-1",
    ]);
}

#[test]
fn network_addresses_are_found_and_versions_and_paths_are_not() {
    for (rule, address) in [
        ("ipv4", "192.168.1.10"),
        ("ipv4", "8.8.8.8"),
        ("ipv6", "2001:db8::8a2e:370:7334"),
        ("ipv6", "2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
        ("ipv6", "fe80::1"),
        ("ipv6", "::ffff:10.0.0.1"),
        ("mac_address", "00:1A:2b:3C:4d:5E"),
        ("mac_address", "00-1A-2b-3C-4d-5E"),
    ] {
        for (before, after) in [("", ""), ("at ", " up"), ("[", "]"), ("", "."), ("", "/24"), ("", ": down")]
        {
            assert_found(&format!("{before}{address}{after}"), &[(rule, address)]);
        }
    }
    assert_found("10.0.0.1:8080", &[("ipv4", "10.0.0.1")]);
    assert_found("10.0.0.1-10.0.0.9", &[("ipv4", "10.0.0.1"), ("ipv4", "10.0.0.9")]);
    assert_clean(&[
        "v1.2.3.4",
        "1.2.3.4.5",
        "1.2.3",
        "256.1.1.1",
        "127.0.0.1 and 0.0.0.0 and 255.255.255.0",
        "std::vec::Vec and a::b and abc::def",
        "::1 and ::",
        "12:34:56 and 12:34",
        "00:00:00:00:00:00 ff:ff:ff:ff:ff:ff",
        "dead:beef",
        "sha256:0a:1b:2c",
    ]);
}

#[test]
fn crypto_addresses_are_found_by_their_checksums() {
    for (rule, address) in [
        ("bitcoin_base58_address", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        ("bitcoin_bech32_address", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"),
        ("ethereum_address", "0xde0B295669a9FD93d5F28D9Ec85E40f4cb697BAe"),
    ] {
        assert_found(&format!("send to {address}, now"), &[(rule, address)]);
    }
    assert_clean(&[
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
        "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5",
        "0xde0B295669a9FD93",
    ]);
}

#[test]
fn ordinary_prose_code_and_tables_are_clean() {
    assert_clean(&[
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
        "On 14 July 1789 about 900 people gathered; by 5:30 pm, 98 attackers and 1 defender had died.",
        "fn main() { let x: Vec<u64> = (0..10_000).map(|i| i * 0x9E3779B97F4A7C15).collect(); println!(\"{x:?}\"); }",
        "SELECT id, name FROM users WHERE created_at > '2024-05-01T12:34:56.789Z' AND id IN (1, 22, 333, 4444);",
        "https://en.wikipedia.org/wiki/Rust_(programming_language)?oldid=1234567890#History",
        "| 1 | 22 | 333 | 4444 |\n|---|---|---|---|\n| 10.5 | 20.25 | 30.125 | 40.0625 |",
        "commit 3b83005a1f2e4d6c8b0a9f7e5d3c1b2a4f6e8d0c by the build of 2024.11.03-rc.1",
        "pi = 3.141592653589793238462643383279502884197; e = 2.718281828459045",
        "Temperatures of -12, +7 and 30 degrees; a ratio of 16:9; the score was 21-19, 18-21, 21-17.",
        "uuid 550e8400-e29b-41d4-a716-446655440000, tracking 1Z 999 AA1 01 2345 6784",
        "春は、あけぼの。やうやう白くなりゆく山ぎは、少し明かりて、紫だちたる雲の細くたなびきたる。",
        "Привет! Как дела? Всё хорошо — спасибо. 🎉👩‍👩‍👧‍👦",
        "import { useState } from 'react'; // @types/react@18.2.0\nexport default () => <div className=\"a:b\">{x?.y ?? 1}</div>",
    ]);
}

#[test]
fn no_head_can_be_longer_than_the_window_holds() {
    for detector in built_in().unwrap() {
        assert!(detector.bound <= LONGEST_HEAD, "{}", detector.rule);
        assert!(categories().any(|category| category == detector.category), "{}", detector.category);
    }
}

mod expressions {
    use super::*;

    fn refusal(pattern: &str) -> String {
        patterns::denied("denied.x", "x", pattern).unwrap_err().to_string()
    }

    #[test]
    fn an_operators_expression_must_have_an_end() {
        assert_eq!(
            refusal("ab.*c"),
            "must have a longest match of at most 1024 bytes: `*`, `+` and `{n,}` have none, write `{0,40}`"
        );
        assert_eq!(
            refusal("[ab]{2000}"),
            "must have a longest match of at most 1024 bytes; it can match 2000"
        );
        assert_eq!(refusal("a?"), "must not match an empty text");
        assert_eq!(refusal("a("), "must be a regular expression: unclosed group");
        assert!(refusal("[ab]{0,60}a[ab]{18}c").starts_with("must compile to a machine of at most 4 MiB"));
    }

    #[test]
    fn a_word_border_in_an_expression_is_an_ascii_one() {
        let detector = patterns::denied("denied.x", "x", r"\bcat\b").unwrap();
        assert_eq!(detector.bound, 3);
        let naive = regex::Regex::new(r"(?-u:\b)cat(?-u:\b)").unwrap();
        assert!(naive.is_match("écat") && naive.is_match("a cat."));
    }
}

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
