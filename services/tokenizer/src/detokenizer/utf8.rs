//! Bytes to text as they come, as `String::from_utf8_lossy` would read them all at once.

use std::str;

/// At most the three first bytes of a character are held back.
#[derive(Clone, Debug, Default)]
pub(super) struct Utf8 {
    pending: Vec<u8>,
}

impl Utf8 {
    /// Takes the next bytes. What can no longer become a character is given as U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut read = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            read += chunk.valid().len();
            let at_end = read + chunk.invalid().len() == self.pending.len();
            if chunk.invalid().is_empty() || (at_end && may_become_a_character(chunk.invalid())) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            read += chunk.invalid().len();
        }
        self.pending.drain(..read);
        text
    }

    /// What is left of a character that was never completed.
    pub(super) fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

fn may_become_a_character(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The bytes of a token of a byte-level vocabulary. A token with a character that stands for no byte (an added token)
/// is its own text.
pub(super) fn bytes_of(token: String) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.into_bytes())
}

/// GPT-2's alphabet: a byte that prints is its own Latin-1 character, the 68 others are those from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tokenizers::{Decoder as _, decoders::byte_level::ByteLevel};

    use super::{Utf8, byte_of, bytes_of};

    #[test]
    fn every_byte_has_one_character_and_it_is_the_librarys() {
        let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<u8>>());
        for character in
            ByteLevel::alphabet().into_iter().filter(|c| byte_of(*c).is_some_and(|b| b.is_ascii()))
        {
            let theirs = ByteLevel::default().decode_chain(vec![character.to_string()]).unwrap().concat();
            assert_eq!(theirs.into_bytes(), bytes_of(character.to_string()));
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<Vec<u8>>> {
        // Bytes around the borders of UTF-8's classes, so that broken characters are the rule.
        let byte = prop::sample::select(vec![
            0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE2, 0xED, 0xEF,
            0xF0, 0xF1, 0xF4, 0xF5, 0xFF,
        ]);
        vec(vec(byte, 0..5), 0..12)
    }

    proptest! {
        #[test]
        fn bytes_in_any_cut_read_like_all_at_once(parts in bytes()) {
            let mut utf8 = Utf8::default();
            let mut text = String::new();
            for part in &parts {
                text.push_str(&utf8.push(part));
                prop_assert!(utf8.pending.len() < 4);
            }
            text.push_str(&utf8.finish());
            let whole = parts.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }
    }
}
