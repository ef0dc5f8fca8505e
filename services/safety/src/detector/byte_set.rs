//! Sets of bytes that constants can be made of.

/// A set of bytes, written as in a character class: `0-9A-Za-z_-` (a dash at either end is itself).
#[derive(Clone, Copy)]
pub(crate) struct ByteSet([bool; 256]);

impl ByteSet {
    /// No byte.
    pub(crate) const NONE: Self = Self([false; 256]);

    /// The bytes of a class; ranges need a byte on each side of their dash.
    pub(crate) const fn of(class: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut i = 0;
        while i < class.len() {
            let is_range = i + 2 < class.len() && class[i + 1] == b'-';
            let last = if is_range { class[i + 2] } else { class[i] };
            let mut byte = class[i] as usize;
            while byte <= last as usize {
                set[byte] = true;
                byte += 1;
            }
            i += if is_range { 3 } else { 1 };
        }
        Self(set)
    }

    /// Every byte that is not in the set.
    pub(crate) const fn complement(self) -> Self {
        let mut set = [false; 256];
        let mut i = 0;
        while i < 256 {
            set[i] = !self.0[i];
            i += 1;
        }
        Self(set)
    }

    /// Adds one byte.
    pub(crate) const fn with(mut self, byte: u8) -> Self {
        self.0[byte as usize] = true;
        self
    }

    /// Whether the set has the byte.
    pub(crate) const fn has(&self, byte: u8) -> bool {
        self.0[byte as usize]
    }
}

impl std::fmt::Debug for ByteSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes: Vec<u8> = (0..=u8::MAX).filter(|byte| self.has(*byte)).collect();
        write!(f, "ByteSet({})", bytes.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSet;

    #[test]
    fn a_class_holds_its_ranges_and_a_dash_at_the_end() {
        let set = ByteSet::of(b"0-9a-c_-");
        let members: Vec<u8> = (0..=u8::MAX).filter(|byte| set.has(*byte)).collect();
        assert_eq!(members, b"-0123456789_abc");
        assert!(!set.complement().has(b'-') && set.complement().has(b'd'));
    }
}
