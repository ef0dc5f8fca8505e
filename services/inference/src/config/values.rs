//! Values of our own kinds, how they are written, and their rules.

use std::path::PathBuf;

use weft_runtime::config::{Rule, Value};

/// Where the model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The first CUDA device if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
}

/// A number of bytes, written as a whole number or as a text such as `"512MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A list of names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Names(pub(super) Vec<String>);

impl std::fmt::Display for Names {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "[{}]", self.0.join(", "))
    }
}

impl Value for Names {
    const EXPECTED: &'static str = "a list of names";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        let names = value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned));
        names.collect::<Option<_>>().map(Self)
    }
}

/// A path that is one.
pub(super) fn a_path() -> Rule<PathBuf> {
    let holds = |path: &PathBuf, _: &[PathBuf]| !path.as_os_str().is_empty();
    Rule { holds, bounds: Vec::new(), words: "must not be empty".to_owned() }
}

/// Tokens of a block.
pub(super) fn a_block_size() -> Rule<usize> {
    let holds = |size: &usize, _: &[usize]| size.is_power_of_two() && *size <= 1024;
    Rule { holds, bounds: Vec::new(), words: "must be a power of two, at most 1024".to_owned() }
}

/// More bytes than none.
pub(super) fn some_memory() -> Rule<ByteSize> {
    let holds = |size: &ByteSize, _: &[ByteSize]| size.0 > 0;
    Rule { holds, bounds: Vec::new(), words: "must be more than nothing".to_owned() }
}

impl Value for Device {
    const EXPECTED: &'static str = "\"auto\", \"cpu\" or \"cuda:N\"";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        match value.as_str()? {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            other => other.strip_prefix("cuda:")?.parse().ok().map(Self::Cuda),
        }
    }
}

impl Value for ByteSize {
    const EXPECTED: &'static str = "a size such as \"512MiB\" or \"2GiB\", or a number of bytes";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
        if let Some(bytes) = value.as_integer() {
            return bytes.try_into().ok().map(Self);
        }
        let text = value.as_str()?;
        let (number, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, *shift)))
            .unwrap_or((text, 0));
        number.trim().parse::<u64>().ok()?.checked_mul(1 << shift).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let size = |text: &str| ByteSize::from_toml(&toml::Value::String(text.to_owned()));
        assert_eq!(size("2GiB"), Some(ByteSize(2 << 30)));
        assert_eq!(size("64 KiB"), Some(ByteSize(64 << 10)));
        assert_eq!(size("123"), Some(ByteSize(123)));
        assert_eq!(size("9999999999TiB"), None);
        assert_eq!(size("-1MiB"), None);
    }
}
