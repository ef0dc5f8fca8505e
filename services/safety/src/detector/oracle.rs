//! What detectors find, said once more in the plainest way: over whole texts, with the `regex` crate, one position
//! after the other. The window's searches are compared with it.

use std::ops::Range;

use regex::Regex;

use super::{Seen, Spec, Tail, specs};

/// A detector's expressions, compiled by `regex`.
pub(crate) struct Oracle {
    spec: &'static Spec,
    head: Regex,
    end: Option<Regex>,
}

/// One for each built-in detector.
pub(crate) fn oracles() -> Vec<Oracle> {
    let compile = |expression: &str| Regex::new(expression).unwrap();
    let oracle = |spec: &'static Spec| Oracle {
        spec,
        head: compile(&format!(r"\A(?:{})", spec.head)),
        end: if let Tail::Until(end) = spec.tail { Some(compile(end)) } else { None },
    };
    specs().map(oracle).collect()
}

impl Oracle {
    /// The detector's own name.
    pub(crate) fn rule(&self) -> &'static str {
        self.spec.rule
    }

    /// What it reports.
    pub(crate) fn category(&self) -> &'static str {
        self.spec.category
    }

    /// All that it finds in a text, tails cut where they are longer than `longest_tail`.
    pub(crate) fn find_all(&self, text: &str, longest_tail: usize) -> Vec<Range<usize>> {
        let (mut found, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let hit = if text.is_char_boundary(at) { self.find_at(text, at) } else { None };
            at = match hit {
                None => at + 1,
                Some(hit) => {
                    let end = hit.end;
                    found.extend(self.parts(text, hit, longest_tail));
                    end
                }
            };
        }
        found
    }

    fn find_at(&self, text: &str, at: usize) -> Option<Range<usize>> {
        let bytes = text.as_bytes();
        if at > 0 && self.spec.not_after.has(bytes[at - 1]) {
            return None;
        }
        let window = &text[at..text.floor_char_boundary((at + self.spec.bound).min(text.len()))];
        let head = self.head.find(window)?.as_str();
        let next = bytes.get(at + head.len()).copied();
        if next.is_some_and(|byte| self.spec.not_before.has(byte)) {
            return None;
        }
        let part = (self.spec.check)(&Seen { text: head, next })?;
        let end = match self.spec.tail {
            Tail::None => part.end,
            Tail::While(set) => {
                let rest = &bytes[at + part.end..];
                part.end + rest.iter().position(|byte| !set.has(*byte)).unwrap_or(rest.len())
            }
            Tail::Until(_) => {
                let rest = &text[at + part.end..];
                part.end + self.end.as_ref()?.find(rest).map_or(rest.len(), |end| end.end())
            }
        };
        Some(at + part.start..at + end)
    }

    fn parts(&self, text: &str, hit: Range<usize>, longest: usize) -> Vec<Range<usize>> {
        let (mut parts, mut from) = (Vec::new(), hit.start);
        if !matches!(self.spec.tail, Tail::None) {
            while let Some(to) = (from + longest..hit.end).find(|at| text.is_char_boundary(*at)) {
                parts.push(from..to);
                from = to;
            }
        }
        parts.push(from..hit.end);
        parts
    }
}
