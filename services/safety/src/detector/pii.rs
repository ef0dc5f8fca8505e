//! Data about a person: e-mail addresses, telephone numbers, bank accounts, cards, network addresses.
//!
//! Each expression is generous and each check strict: what a number may be is decided by its checksum, its length and
//! its neighbours, so that order numbers, dates, versions and decimals stay what they are.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{
    ByteSet, Seen, Spec,
    checks::{base58check, bech32, digit_groups, digits, luhn, mod_97},
};

/// The categories of this table.
pub(super) const CATEGORIES: &[&str] = &[
    "pii.email",
    "pii.phone",
    "pii.iban",
    "pii.card",
    "pii.us_ssn",
    "pii.ip_address",
    "pii.mac_address",
    "pii.crypto_address",
];

const WORD: ByteSet = ByteSet::of(b"0-9A-Za-z_");
const WORD_OR_DASH: ByteSet = ByteSet::of(b"0-9A-Za-z_-");
const PHONE_SPEC: Spec = Spec { category: "pii.phone", not_after: WORD, not_before: WORD, ..Spec::PLAIN };
const CRYPTO_SPEC: Spec =
    Spec { category: "pii.crypto_address", not_after: WORD, not_before: WORD, ..Spec::PLAIN };

pub(super) const SPECS: &[Spec] = &[
    // Letters of scripts that put spaces between words: elsewhere a whole sentence would belong to the address.
    Spec {
        category: "pii.email",
        rule: "email",
        head: concat!(
            r"[\p{Latin}\p{Greek}\p{Cyrillic}0-9_][\p{Latin}\p{Greek}\p{Cyrillic}0-9._%+'-]*@",
            r"(?:[\p{Latin}\p{Greek}\p{Cyrillic}0-9-]+\.)+(?:xn--[a-z0-9-]{2,40}|[\p{Latin}\p{Greek}\p{Cyrillic}]{2,24})",
        ),
        bound: 320,
        not_after: ByteSet::of(b"0-9A-Za-z._%+-"),
        check: email,
        ..Spec::PLAIN
    },
    Spec {
        rule: "phone_e164",
        head: r"\+[0-9](?:[ .()/-]{0,2}[0-9]){6,14}",
        not_after: WORD.with(b'+'),
        not_before: ByteSet::NONE,
        check: e164,
        ..PHONE_SPEC
    },
    Spec {
        rule: "phone_north_america",
        head: r"(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ -]?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}",
        not_after: WORD.with(b'-').with(b'.').with(b'+').with(b'$'),
        not_before: WORD_OR_DASH,
        ..PHONE_SPEC
    },
    // A trunk zero and the spacing of the country: France; United Kingdom; Germany with its slash.
    Spec {
        rule: "phone_national",
        head: concat!(
            r"0[1-9](?:(?: [0-9]{2}){4}|(?:\.[0-9]{2}){4}|(?:-[0-9]{2}){4})",
            r"|\(?0[1-9][0-9]{1,4}\)? [0-9]{3,4} [0-9]{3,4}|0[1-9][0-9]{3} [0-9]{6}",
            r"|0[1-9][0-9]{1,4} ?/ ?[0-9]{4,9}",
        ),
        not_after: WORD.with(b'.').with(b'-').with(b'/').with(b','),
        check: national,
        ..PHONE_SPEC
    },
    Spec {
        category: "pii.iban",
        rule: "iban",
        head: "(?i-u)[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]){11,30}",
        not_after: WORD,
        check: iban,
        ..Spec::PLAIN
    },
    Spec {
        category: "pii.card",
        rule: "card_number",
        head: "[0-9](?:[ -]?[0-9]){12,18}",
        not_after: WORD.with(b'.'),
        check: card,
        ..Spec::PLAIN
    },
    Spec {
        category: "pii.us_ssn",
        rule: "us_social_security_number",
        head: "[0-9]{3}-[0-9]{2}-[0-9]{4}",
        not_after: WORD_OR_DASH,
        not_before: WORD_OR_DASH,
        check: social_security,
        ..Spec::PLAIN
    },
    // More than four parts are read so that a longer version number is seen whole, and refused.
    Spec {
        category: "pii.ip_address",
        rule: "ipv4",
        head: r"[0-9]{1,3}(?:\.[0-9]{1,3}){3,8}",
        not_after: WORD.with(b'.'),
        not_before: WORD,
        check: ipv4,
        ..Spec::PLAIN
    },
    Spec {
        category: "pii.ip_address",
        rule: "ipv6",
        head: r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:\.[0-9]{1,3}){0,3}",
        not_after: WORD.with(b'.').with(b':'),
        not_before: WORD,
        check: ipv6,
        ..Spec::PLAIN
    },
    Spec {
        category: "pii.mac_address",
        rule: "mac_address",
        head: "[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5,8}|(?:-[0-9A-Fa-f]{2}){5,8})",
        not_after: WORD.with(b':').with(b'-'),
        not_before: WORD,
        check: mac,
        ..Spec::PLAIN
    },
    Spec { rule: "ethereum_address", head: "0x[0-9A-Fa-f]{40}", ..CRYPTO_SPEC },
    Spec {
        rule: "bitcoin_base58_address",
        head: "[13][1-9A-HJ-NP-Za-km-z]{25,34}",
        check: |seen| base58check(seen.text).then_some(0..seen.text.len()),
        ..CRYPTO_SPEC
    },
    Spec {
        rule: "bitcoin_bech32_address",
        head: "(?i-u)bc1[02-9ac-hj-np-z]{8,87}",
        check: |seen| bech32(seen.text).then_some(0..seen.text.len()),
        ..CRYPTO_SPEC
    },
];

/// Anything but the address of a Git remote (`git@host:path`), which names a machine account.
fn email(seen: &Seen<'_>) -> Option<Range<usize>> {
    let is_remote = seen.text.starts_with("git@") && seen.next == Some(b':');
    (!is_remote).then_some(0..seen.text.len())
}

/// 8 to 15 digits that do not start with 0 (ITU-T E.164); exactly 11 in North America.
fn e164(seen: &Seen<'_>) -> Option<Range<usize>> {
    let fits = match seen.text.as_bytes().get(1)? {
        b'0' => return None,
        b'1' => 11..=11,
        _ => 8..=15,
    };
    let (_, end) = digit_groups(seen).filter(|(digits, _)| fits.contains(digits)).last()?;
    Some(0..end)
}

/// 9 to 12 digits with the trunk zero.
fn national(seen: &Seen<'_>) -> Option<Range<usize>> {
    let is_balanced = seen.text.contains('(') == seen.text.contains(')');
    let fits = (9..=12).contains(&digits(seen.text).len());
    (is_balanced && fits).then_some(0..seen.text.len())
}

/// Length of each country's IBAN (ISO 13616 registry).
const IBAN_LENGTHS: &[(usize, &str)] = &[
    (15, "NO"),
    (16, "BE"),
    (18, "DK FO FI GL NL SD FK"),
    (19, "MK SI"),
    (20, "AT BA EE KZ XK LT LU MN"),
    (21, "HR LV LI CH"),
    (22, "BH BG CR GE DE IE ME RS GB VA"),
    (23, "IL TL AE GI IQ OM SO"),
    (24, "AD CZ MD PK RO SA SK ES SE TN VG"),
    (25, "PT ST LY"),
    (26, "IS TR"),
    (27, "FR GR IT MC SM MR BI DJ"),
    (28, "AL AZ CY DO GT HU LB PL BY SV NI"),
    (29, "BR EG PS QA UA"),
    (30, "JO KW MU YE"),
    (31, "MT SC"),
    (32, "LC"),
    (33, "RU"),
];

/// A country's length and the checksum; what the expression took beyond that is not part of it.
fn iban(seen: &Seen<'_>) -> Option<Range<usize>> {
    let country = seen.text[..2].to_ascii_uppercase();
    let (length, _) =
        IBAN_LENGTHS.iter().find(|(_, countries)| countries.split(' ').any(|code| code == country))?;
    let symbols = seen.text.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_alphanumeric());
    let (places, symbols): (Vec<usize>, Vec<u8>) = symbols.take(*length).unzip();
    let end = places.last()? + 1;
    let after = seen.text.as_bytes().get(end).copied().or(seen.next);
    let is_whole = symbols.len() == *length && !after.is_some_and(|byte| byte.is_ascii_alphanumeric());
    (is_whole && mod_97(&symbols)).then_some(0..end)
}

/// The longest group-aligned start with a known issuer, its length, and the checksum.
fn card(seen: &Seen<'_>) -> Option<Range<usize>> {
    let all = digits(seen.text);
    let is_card = |(count, _): &(usize, usize)| is_issued(&all[..*count]) && luhn(&all[..*count]);
    digit_groups(seen).filter(is_card).last().map(|(_, end)| 0..end)
}

/// Whether an issuer has numbers that begin and are as long as these.
fn is_issued(digits: &[u8]) -> bool {
    if digits.len() < 13 {
        return false;
    }
    let first_six = digits[..6].iter().fold(0, |number, digit| number * 10 + u32::from(*digit));
    let lengths = match first_six {
        400_000..=499_999 => &[13, 16, 19][..],         // Visa
        510_000..=559_999 | 222_100..=272_099 => &[16], // Mastercard
        340_000..=349_999 | 370_000..=379_999 => &[15], // American Express
        300_000..=305_999 | 360_000..=369_999 | 380_000..=399_999 => &[14, 16, 19], // Diners Club
        352_800..=358_999 => &[16, 17, 18, 19],         // JCB
        601_100..=601_199 | 644_000..=659_999 => &[16, 17, 18, 19], // Discover
        620_000..=629_999 => &[16, 17, 18, 19],         // UnionPay
        500_000..=509_999 | 560_000..=589_999 | 630_000..=639_999 | 670_000..=679_999 => &[16, 18, 19], // Maestro
        _ => &[],
    };
    lengths.contains(&digits.len())
}

/// A number that the administration hands out: no area 000, 666 or 9xx, no group 00, no serial 0000.
fn social_security(seen: &Seen<'_>) -> Option<Range<usize>> {
    let (area, group, serial) = (&seen.text[..3], &seen.text[4..6], &seen.text[7..]);
    let is_issued =
        area != "000" && area != "666" && !area.starts_with('9') && group != "00" && serial != "0000";
    is_issued.then_some(0..seen.text.len())
}

/// An address of one machine that is not this one: no network mask, no wildcard, no loopback.
fn ipv4(seen: &Seen<'_>) -> Option<Range<usize>> {
    let address: Ipv4Addr = seen.text.parse().ok()?;
    let is_machine = !address.is_loopback() && address.octets()[0] != 0 && address.octets()[0] != 255;
    is_machine.then_some(0..seen.text.len())
}

/// An address that could not be a path in code (`a::b`): with a digit, and of three groups, of a known prefix, or with
/// an IPv4 address at its end.
fn ipv6(seen: &Seen<'_>) -> Option<Range<usize>> {
    let text = seen.text;
    let text = if text.ends_with("::") { text } else { text.trim_end_matches(':') };
    let address: Ipv6Addr = text.parse().ok()?;
    let is_known = matches!(address.segments()[0], 0x2000..=0x3fff | 0xfc00..=0xfdff | 0xfe80..=0xfebf);
    let groups = text.split(':').filter(|group| !group.is_empty()).count();
    let is_address =
        text.bytes().any(|byte| byte.is_ascii_digit()) && (groups >= 3 || is_known || text.contains('.'));
    (is_address && !address.is_loopback() && !address.is_unspecified()).then_some(0..text.len())
}

/// Six pairs, and neither the empty nor the broadcast address.
fn mac(seen: &Seen<'_>) -> Option<Range<usize>> {
    let digits: Vec<u8> = seen.text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let is_one_machine =
        digits.iter().any(|digit| *digit != b'0') && digits.iter().any(|digit| *digit | 0x20 != b'f');
    (digits.len() == 12 && is_one_machine).then_some(0..seen.text.len())
}
