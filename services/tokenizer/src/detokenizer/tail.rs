//! The end of a text that may not be shown yet.

use unicode_segmentation::UnicodeSegmentation as _;

/// Holds back the last character as readers see it (a grapheme cluster): the next token may add an accent, a skin
/// tone or the rest of a family to it.
///
/// # Why the last one always
/// Whether the next token completes it is known only when the next token is. Nothing is lost by the wait but one
/// token's time for one character; a control character such as a line break cannot be continued and does not wait.
#[derive(Debug, Default)]
pub(super) struct Tail {
    held: String,
}

/// The longest emoji in Unicode's list has 35 bytes. A longer cluster is accents piled up without end, and a stream
/// holds no more of them than this.
const LONGEST: usize = 128;

impl Tail {
    /// Takes the next text and gives what can no longer change.
    pub(super) fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let open = self.held.split_off(finished(&self.held));
        std::mem::replace(&mut self.held, open)
    }

    /// Takes the last text and gives all that is left.
    pub(super) fn finish(self, text: &str) -> String {
        self.held + text
    }
}

/// Where the part of `text` ends that nothing can continue. A cluster starts at the beginning of `text`.
fn finished(text: &str) -> usize {
    // A carriage return may still be joined by its line feed.
    if text.ends_with(|last: char| last.is_control() && last != '\r') {
        return text.len();
    }
    match text.grapheme_indices(true).next_back() {
        Some((start, cluster)) if cluster.len() <= LONGEST => start,
        _ => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use unicode_segmentation::UnicodeSegmentation as _;

    use super::{LONGEST, Tail};

    fn shown(parts: &[&str]) -> Vec<String> {
        let mut tail = Tail::default();
        let mut shown: Vec<String> = parts.iter().map(|part| tail.push(part)).collect();
        shown.push(tail.finish(""));
        shown
    }

    #[test]
    fn an_accent_arrives_with_its_letter() {
        assert_eq!(shown(&["caf", "e", "\u{301}", "!"]), ["ca", "f", "", "e\u{301}", "!"]);
    }

    #[test]
    fn a_family_arrives_whole() {
        assert_eq!(shown(&["👩", "\u{200D}", "👧", " "]), ["", "", "", "👩\u{200D}👧", " "]);
    }

    #[test]
    fn a_line_break_does_not_wait() {
        assert_eq!(shown(&["a\n", "b\r", "\n"]), ["a\n", "b", "\r\n", ""]);
    }

    #[test]
    fn accents_without_end_do_not_fill_memory() {
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.push("\u{301}");
            assert!(tail.held.len() <= LONGEST);
        }
    }

    proptest! {
        #[test]
        fn no_text_ends_inside_a_cluster(parts in vec("[a\\r\\n \u{301}\u{200D}\u{FE0F}👩👧🇩🇪\u{1F3FB}क\u{94D}ष한ᅡ]{0,3}", 0..12)) {
            let mut tail = Tail::default();
            let whole = parts.concat();
            prop_assume!(whole.graphemes(true).all(|cluster| cluster.len() <= LONGEST));
            let borders: Vec<usize> =
                whole.grapheme_indices(true).map(|(start, _)| start).chain([whole.len()]).collect();
            let mut text = String::new();
            for part in &parts {
                text.push_str(&tail.push(part));
                prop_assert!(borders.contains(&text.len()));
            }
            text.push_str(&tail.finish(""));
            prop_assert_eq!(text, whole);
        }
    }
}
