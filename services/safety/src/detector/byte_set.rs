//! Sets of bytes that constants can be made of.

/// A set of bytes, written as in a character class: `0-9A-Za-z_-` (a dash at either end is itself).
#[derive(Clone, Copy)]
pub(crate) struct ByteSet([u64; 4]);

impl ByteSet {
    /// No byte.
    pub(crate) const NONE: Self = Self([0; 4]);

    /// The bytes of a class; ranges need a byte on each side of their dash.
    pub(crate) const fn of(class: &[u8]) -> Self {
        let mut set = Self::NONE;
        let mut i = 0;
        while i < class.len() {
            let is_range = i + 2 < class.len() && class[i + 1] == b'-';
            let last = if is_range { class[i + 2] } else { class[i] };
            let mut byte = class[i];
            while byte <= last {
                set = set.with(byte);
                byte += 1;
            }
            i += if is_range { 3 } else { 1 };
        }
        set
    }

    /// Every byte that is not in the set.
    pub(crate) const fn complement(self) -> Self {
        let [a, b, c, d] = self.0;
        Self([!a, !b, !c, !d])
    }

    /// Adds one byte.
    pub(crate) const fn with(mut self, byte: u8) -> Self {
        self.0[(byte >> 6) as usize] |= 1 << (byte & 63);
        self
    }

    /// Whether the set has the byte.
    pub(crate) const fn has(&self, byte: u8) -> bool {
        self.0[(byte >> 6) as usize] >> (byte & 63) & 1 == 1
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
