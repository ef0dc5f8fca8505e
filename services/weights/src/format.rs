//! The formats of quantized weights, by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How a matrix `[outputs, inputs]` is held in fewer bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Format {
    /// A byte a weight and a scale an output: `weight = code * scale`, codes from -127 to 127.
    Int8,
    /// Half a byte a weight, a scale and a least value a group of inputs: `weight = code * scale + min`, codes from 0 to 15.
    Int4(Group),
}

/// How many inputs in a row share a scale and a least value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// 5 bits a weight, scales included.
    G32,
    /// 4.5 bits a weight.
    G64,
    /// 4.25 bits a weight.
    G128,
}

impl Format {
    /// All of them, the closest to the original first.
    pub const ALL: [Self; 4] =
        [Self::Int8, Self::Int4(Group::G32), Self::Int4(Group::G64), Self::Int4(Group::G128)];

    /// The name: `int8`, `int4-g32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int4(Group::G32) => "int4-g32",
            Self::Int4(Group::G64) => "int4-g64",
            Self::Int4(Group::G128) => "int4-g128",
        }
    }

    /// The name of a tensor's scales: F32 `[outputs]` for int8, F16 `[outputs, inputs / group]` for int4.
    pub(crate) fn scale_of(name: &str) -> String {
        format!("{name}_scale")
    }

    /// The name of a tensor's least values, which int4 has: F16 `[outputs, inputs / group]`.
    pub(crate) fn min_of(name: &str) -> String {
        format!("{name}_min")
    }

    /// The names of all parts that a tensor has in a file: its codes have its own name.
    pub fn parts_of(self, name: &str) -> Vec<String> {
        match self {
            Self::Int8 => vec![name.into(), Self::scale_of(name)],
            Self::Int4(_) => vec![name.into(), Self::scale_of(name), Self::min_of(name)],
        }
    }

    /// What whoever chooses the format should know, where `make quality` has found it outside its bound even with matrices
    /// that are close to the original.
    pub const fn caution(self) -> Option<&'static str> {
        match self {
            Self::Int8 => Some(
                "int8 costs more than its bound of 0.5 %: 1.0 % of perplexity with the default model, most of it because \
                 products take their inputs in 8 bits too; measure before use (`make quality`)",
            ),
            Self::Int4(_) => None,
        }
    }

    /// The relative error of a matrix above which its use is warned of. For int8 about twice what weights that are spread
    /// normally have. For int4 less than those have: with the default model matrices 6 % off cost 23 % of perplexity
    /// (`make quality`), so whoever uses weights like that should measure first.
    pub const fn doubtful_error(self) -> f64 {
        match self {
            Self::Int8 => 0.02,
            Self::Int4(_) => 0.05,
        }
    }
}

impl Group {
    /// All of them, the largest first.
    pub const ALL: [Self; 3] = [Self::G128, Self::G64, Self::G32];

    /// Inputs of a group.
    pub const fn size(self) -> usize {
        match self {
            Self::G32 => 32,
            Self::G64 => 64,
            Self::G128 => 128,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A name that no format has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no format {0:?}; there are int8, int4-g32, int4-g64 and int4-g128")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| UnknownFormat(name.into()))
    }
}

impl TryFrom<String> for Format {
    type Error = UnknownFormat;

    fn try_from(name: String) -> Result<Self, UnknownFormat> {
        name.parse()
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.name().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_found_by_its_name() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let error = "int4".parse::<Format>().unwrap_err().to_string();
        assert_eq!(error, "there is no format \"int4\"; there are int8, int4-g32, int4-g64 and int4-g128");
    }
}
