//! What an expression cannot say: checksums, entropy, and whether a text that looks like an address is one.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::Seen;

/// Accepts the whole match.
pub(super) fn whole(seen: &Seen<'_>) -> Option<Range<usize>> {
    Some(0..seen.text.len())
}

/// Where the digits of a text end at a border: after each digit that no other digit follows. One item a group, as
/// (number of digits so far, length of the text so far).
pub(super) fn digit_groups<'a>(seen: &Seen<'a>) -> impl Iterator<Item = (usize, usize)> + 'a {
    let text = seen.text.as_bytes();
    let next = seen.next;
    let mut digits = 0;
    (0..text.len()).filter_map(move |i| {
        digits += usize::from(text[i].is_ascii_digit());
        let after = text.get(i + 1).copied().or(next);
        let is_border = text[i].is_ascii_digit() && !after.is_some_and(|byte| byte.is_ascii_digit());
        is_border.then_some((digits, i + 1))
    })
}

/// The digits of a text as numbers.
pub(super) fn digits(text: &str) -> Vec<u8> {
    text.bytes().filter(u8::is_ascii_digit).map(|byte| byte - b'0').collect()
}

/// The check of payment cards (ISO/IEC 7812).
pub(super) fn luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let weigh = |(i, digit): (usize, &u8)| u32::from(if i % 2 == 1 { doubled(*digit) } else { *digit });
    digits.iter().rev().enumerate().map(weigh).sum::<u32>().is_multiple_of(10)
}

/// The check of IBANs (ISO 7064 MOD 97-10) over letters and digits without spaces.
pub(super) fn mod_97(iban: &[u8]) -> bool {
    if iban.len() < 5 {
        return false;
    }
    let rearranged = iban[4..].iter().chain(&iban[..4]);
    let remainder = rearranged.fold(0u32, |sum, byte| match byte {
        b'0'..=b'9' => (sum * 10 + u32::from(byte - b'0')) % 97,
        letter => (sum * 100 + u32::from(letter.to_ascii_uppercase() - b'A') + 10) % 97,
    });
    remainder == 1
}

/// Shannon's entropy of a text's bytes, in bits a byte.
pub(super) fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let length = f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
    let share = |count: &u32| f64::from(*count) / length;
    counts.iter().filter(|count| **count > 0).map(share).map(|p| -p * p.log2()).sum()
}

/// Words by which documentation says "put yours here". Lower case.
const PLACEHOLDERS: [&str; 14] = [
    "example",
    "placeholder",
    "changeme",
    "change_me",
    "your",
    "xxxx",
    "****",
    "....",
    "redacted",
    "dummy",
    "sample",
    "secret_here",
    "password",
    "token_here",
];

/// Whether a value stands for a secret rather than being one.
pub(super) fn is_placeholder(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    value.starts_with(['$', '<', '{', '%']) || PLACEHOLDERS.iter().any(|word| value.contains(word))
}

/// The check of Bitcoin's older addresses (Base58Check): 21 bytes and the start of their double SHA-256.
pub(super) fn base58check(address: &str) -> bool {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut number = [0u8; 25];
    for byte in address.bytes() {
        let Some(digit) = ALPHABET.iter().position(|letter| *letter == byte) else { return false };
        let mut carry = digit as u32;
        for place in number.iter_mut().rev() {
            carry += u32::from(*place) * 58;
            *place = (carry & 0xff) as u8;
            carry >>= 8;
        }
        if carry > 0 {
            return false;
        }
    }
    Sha256::digest(Sha256::digest(&number[..21]))[..4] == number[21..]
}

/// The check of Bitcoin's newer addresses (Bech32 and Bech32m) with the prefix `bc`.
pub(super) fn bech32(address: &str) -> bool {
    const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let step = |sum: u32, value: u32| {
        let mixed = (sum & 0x01ff_ffff) << 5 ^ value;
        (0..5).filter(|bit| sum >> (25 + bit) & 1 == 1).fold(mixed, |sum, bit| sum ^ GENERATOR[bit])
    };
    let address = address.to_ascii_lowercase();
    let Some(data) = address.strip_prefix("bc1") else { return false };
    let value = |byte: u8| ALPHABET.iter().position(|letter| *letter == byte).map(|value| value as u32);
    let Some(data) = data.bytes().map(value).collect::<Option<Vec<_>>>() else { return false };
    // The prefix `bc`, spread as the standard has it: high bits, a zero, low bits.
    let sum = [3, 3, 0, 2, 3].into_iter().chain(data).fold(1, step);
    sum == 1 || sum == 0x2bc8_30a3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_accept_the_published_examples_and_no_neighbour() {
        assert!(luhn(&digits("4111111111111111")) && !luhn(&digits("4111111111111112")));
        assert!(mod_97(b"GB82WEST12345698765432") && !mod_97(b"GB82WEST12345698765433"));
        assert!(base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"));
        assert!(!base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb"));
        assert!(bech32("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"));
        assert!(!bech32("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5"));
        assert!(bech32("bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0"));
    }

    #[test]
    fn entropy_counts_bits_a_byte() {
        assert_eq!(entropy("aaaaaaaa"), 0.0);
        assert_eq!(entropy("abcdefgh"), 3.0);
        assert_eq!(entropy(""), 0.0);
    }

    #[test]
    fn digit_groups_end_where_no_digit_follows() {
        let groups = |text, next| digit_groups(&Seen { text, next }).collect::<Vec<_>>();
        assert_eq!(groups("12 345", None), [(2, 2), (5, 6)]);
        assert_eq!(groups("12 345", Some(b'6')), [(2, 2)]);
    }
}
