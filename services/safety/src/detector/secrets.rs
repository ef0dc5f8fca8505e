//! Secrets: keys, tokens, private key blocks, passwords.
//!
//! A token's shape decides, not its checksum: one whose checksum is wrong is a typo away from a secret, and issuers
//! change their checksums. Placeholders of documentation (`ghp_xxxxxxxx`) are told apart by how varied they are.

use std::{collections::HashSet, ops::Range};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{ByteSet, LONGEST_HEAD, Seen, Spec, Tail, checks};

/// The categories of this table.
pub(super) const CATEGORIES: &[&str] = &[
    "secret.private_key",
    "secret.cloud_key",
    "secret.service_token",
    "secret.jwt",
    "secret.url_password",
    "secret.assignment",
];

const WORD: ByteSet = ByteSet::of(b"0-9A-Za-z_");
const TOKEN: ByteSet = ByteSet::of(b"0-9A-Za-z_-");
const BASE64: ByteSet = ByteSet::of(b"0-9A-Za-z+/=");
/// What a value in a configuration file or in code does not have in it.
const END_OF_VALUE: ByteSet = ByteSet::of(b"\x00- \"'<>(){}[],;");

/// A token that starts with its issuer's letters and goes on as long as it likes.
const TOKEN_SPEC: Spec = Spec {
    category: "secret.service_token",
    not_after: TOKEN,
    check: varied,
    tail: Tail::While(TOKEN),
    ..Spec::PLAIN
};

/// A key of a fixed length.
const KEY_SPEC: Spec =
    Spec { category: "secret.cloud_key", not_after: WORD, not_before: TOKEN, ..Spec::PLAIN };

pub(super) const SPECS: &[Spec] = &[
    // The head ends within the body, so that a text *about* key files is not one.
    Spec {
        category: "secret.private_key",
        rule: "pem_private_key",
        head: concat!(
            "-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
            r"(?:\\[nrt]|[^A-Za-z0-9]){0,32}(?:[A-Za-z0-9+/=]{16}|Proc-Type|DEK-Info|Version|Comment|Hash|Charset)",
        ),
        tail: Tail::Until("-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"),
        ..Spec::PLAIN
    },
    Spec {
        category: "secret.private_key",
        rule: "putty_private_key",
        head: "PuTTY-User-Key-File-[0-9]: ",
        tail: Tail::Until("Private-MAC: [0-9a-f]+[^0-9a-f]"),
        ..Spec::PLAIN
    },
    Spec {
        category: "secret.private_key",
        rule: "age_secret_key",
        head: "AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}",
        not_after: WORD,
        ..Spec::PLAIN
    },
    Spec {
        rule: "aws_access_key_id",
        head: "(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}",
        not_before: WORD,
        ..KEY_SPEC
    },
    Spec {
        rule: "aws_secret_access_key",
        head: r#"(?i-u)secret_?access_?key["']?[ \t]{0,8}(?:=>|:=|=|:)[ \t]{0,8}["']?[A-Za-z0-9/+]{40}"#,
        not_after: ByteSet::NONE,
        not_before: BASE64,
        check: last_forty,
        ..KEY_SPEC
    },
    Spec {
        rule: "aws_key_pair",
        head: r#"(?:AKIA|ASIA)[A-Z0-9]{16}["']?[ \t\r\n,:;|]{1,8}["']?[A-Za-z0-9/+]{40}"#,
        not_before: BASE64,
        check: last_forty,
        ..KEY_SPEC
    },
    Spec { rule: "google_api_key", head: "AIza[0-9A-Za-z_-]{35}", ..KEY_SPEC },
    Spec { rule: "google_oauth_secret", head: "GOCSPX-[0-9A-Za-z_-]{28}", ..KEY_SPEC },
    Spec {
        rule: "azure_storage_key",
        head: "AccountKey=[A-Za-z0-9+/]{86}==",
        not_before: ByteSet::NONE,
        ..KEY_SPEC
    },
    Spec { rule: "github_token", head: "gh[pousr]_[A-Za-z0-9]{36}", ..TOKEN_SPEC },
    Spec {
        rule: "github_fine_grained_token",
        head: "github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{36}",
        ..TOKEN_SPEC
    },
    Spec { rule: "gitlab_token", head: "gl(?:pat|dt|rt|ptt|oas)-[0-9A-Za-z_-]{20}", ..TOKEN_SPEC },
    Spec {
        rule: "slack_token",
        head: "xox[abeoprs]-[0-9A-Za-z-]{10}|xapp-[0-9]-[0-9A-Za-z-]{10}",
        ..TOKEN_SPEC
    },
    Spec {
        rule: "slack_webhook",
        head: "https://hooks\\.slack\\.com/(?:services|workflows)/[A-Za-z0-9_]{8}",
        check: checks::whole,
        tail: Tail::While(ByteSet::of(b"0-9A-Za-z_/-")),
        ..TOKEN_SPEC
    },
    Spec { rule: "stripe_key", head: "[sr]k_(?:live|test)_[0-9A-Za-z]{16}", ..TOKEN_SPEC },
    Spec {
        rule: "stripe_webhook_secret",
        head: "whsec_[0-9A-Za-z+/=]{24}",
        tail: Tail::While(BASE64),
        ..TOKEN_SPEC
    },
    Spec { rule: "model_api_key", head: "sk-(?:[a-z]{2,8}[0-9]{0,2}-)?[0-9A-Za-z_-]{20}", ..TOKEN_SPEC },
    Spec { rule: "hugging_face_token", head: "hf_[A-Za-z]{34}", ..TOKEN_SPEC },
    Spec { rule: "npm_token", head: "npm_[A-Za-z0-9]{36}", ..TOKEN_SPEC },
    Spec { rule: "pypi_token", head: "pypi-AgE[0-9A-Za-z_-]{50}", ..TOKEN_SPEC },
    Spec { rule: "sendgrid_key", head: "SG\\.[0-9A-Za-z_-]{22}\\.[0-9A-Za-z_-]{43}", ..TOKEN_SPEC },
    // The head ends a few bytes into the payload; whatever follows it belongs to the token.
    Spec {
        category: "secret.jwt",
        rule: "jwt",
        head: "eyJ[0-9A-Za-z_-]{10,}\\.[0-9A-Za-z_-]{10}",
        bound: LONGEST_HEAD,
        not_after: TOKEN,
        check: jwt,
        tail: Tail::While(ByteSet::of(b"0-9A-Za-z_.-")),
        ..Spec::PLAIN
    },
    Spec {
        category: "secret.url_password",
        rule: "url_password",
        head: r#"[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:@/"'<>]*:[^\s@/"'<>]+@[A-Za-z0-9\[]"#,
        bound: 512,
        not_after: ByteSet::of(b"0-9A-Za-z+.-"),
        check: url_password,
        ..Spec::PLAIN
    },
    // Names that mean a secret, a value that looks like one.
    Spec {
        category: "secret.assignment",
        rule: "secret_assignment",
        head: concat!(
            r"(?i-u)(?:pass(?:word|wd|phrase)|secret|token|api_?key|access_?key|auth_?key|credential)[a-z0-9_]{0,16}",
            r#"["']?[ \t]{0,8}(?:=>|:=|=|:)[ \t]{0,8}["']?(?-i)(?-u:[!#-&*-+./0-9:=?@A-Z\\^_`a-z|~-]){8,32}"#,
        ),
        not_after: ByteSet::of(b"0-9A-Za-z"),
        check: assignment,
        tail: Tail::While(END_OF_VALUE.complement()),
        ..Spec::PLAIN
    },
];

/// A token with at least eight different characters after its issuer's letters.
fn varied(seen: &Seen<'_>) -> Option<Range<usize>> {
    let body = seen.text.rsplit(['_', '-', '/', '.']).find(|part| part.len() >= 8).unwrap_or(seen.text);
    let different: HashSet<u8> = body.bytes().collect();
    (different.len() >= 8).then_some(0..seen.text.len())
}

/// The key at the end of what introduces it.
fn last_forty(seen: &Seen<'_>) -> Option<Range<usize>> {
    let length = seen.text.len();
    let start = length.checked_sub(40)?;
    (checks::entropy(&seen.text[start..]) >= 3.5).then_some(start..length)
}

/// A token whose first part is a JSON object that names an algorithm (RFC 7515, RFC 7516).
fn jwt(seen: &Seen<'_>) -> Option<Range<usize>> {
    let header = seen.text.split('.').next()?;
    let header = URL_SAFE_NO_PAD.decode(header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    header.get("alg")?.as_str()?;
    Some(0..seen.text.len())
}

/// The password between the colon and the `@`.
fn url_password(seen: &Seen<'_>) -> Option<Range<usize>> {
    let authority = seen.text.find("://")? + 3;
    let start = authority + seen.text[authority..].find(':')? + 1;
    let end = seen.text.rfind('@')?;
    let password = &seen.text[start..end];
    let is_stand_in = checks::is_placeholder(password) || ["pass", "pwd", "secret"].contains(&password);
    (!is_stand_in).then_some(start..end)
}

/// The value, where it has letters and digits, is not a call, and is less regular than a word.
fn assignment(seen: &Seen<'_>) -> Option<Range<usize>> {
    let operator = seen.text.find(['=', ':'])?;
    let value = seen.text[operator..].trim_start_matches(['=', '>', ':', ' ', '\t', '"', '\'']);
    let has = |kind: fn(&u8) -> bool| value.bytes().any(|byte| kind(&byte));
    let is_mixed = has(u8::is_ascii_alphabetic) && has(u8::is_ascii_digit);
    let is_code = seen.next == Some(b'(') || value.contains("::");
    let is_secret = value.len() >= 8 && is_mixed && !is_code && !checks::is_placeholder(value);
    (is_secret && checks::entropy(value) >= 2.75).then_some(seen.text.len() - value.len()..seen.text.len())
}
