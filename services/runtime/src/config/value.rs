//! What may stand in a TOML file or in an environment variable.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// A value that can stand in a TOML file or in an environment variable.
pub trait Value: Sized + Clone {
    /// What is expected, in words: `a whole number`, `a duration such as "30s"`.
    const EXPECTED: &'static str;
    /// Reads it, or `None` if it is something else.
    fn from_toml(value: &toml::Value) -> Option<Self>;
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Value for String {
    const EXPECTED: &'static str = "a text";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        value.as_str().map(PathBuf::from)
    }
}

macro_rules! whole_numbers {
    ($($number:ty, $expected:literal;)*) => { $(
        impl Value for $number {
            const EXPECTED: &'static str = $expected;
            fn from_toml(value: &toml::Value) -> Option<Self> {
                value.as_integer().and_then(|number| number.try_into().ok())
            }
        }
    )* };
}

whole_numbers! {
    u16, "a whole number from 0 to 65535";
    u32, "a whole number from 0 to 4294967295";
    u64, "a whole number that is not negative";
    usize, "a whole number that is not negative";
    i64, "a whole number";
}

impl Value for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        match value {
            toml::Value::Float(number) => Some(*number),
            // Written without a point. A whole number of 2^53 or more would lose digits, and none is meant that way.
            toml::Value::Integer(number) => i32::try_from(*number).ok().map(Self::from),
            _ => None,
        }
    }
}

impl Value for f32 {
    const EXPECTED: &'static str = "a number";
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the nearest f32 is what the owner of the key asked for"
    )]
    fn from_toml(value: &toml::Value) -> Option<Self> {
        f64::from_toml(value).map(|number| number as Self)
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "a duration such as \"30s\" or \"1m 30s\"";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        humantime::parse_duration(value.as_str()?).ok()
    }
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an address and port such as \"127.0.0.1:50051\"";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Value for http::Uri {
    const EXPECTED: &'static str = "an address such as \"http://127.0.0.1:50061\"";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        let uri: Self = value.as_str()?.parse().ok()?;
        (uri.scheme().is_some() && uri.authority().is_some()).then_some(uri)
    }
}

impl<T: Value> Value for Vec<T> {
    const EXPECTED: &'static str = "a list, each item of the right kind";
    fn from_toml(value: &toml::Value) -> Option<Self> {
        value.as_array()?.iter().map(T::from_toml).collect()
    }
}
