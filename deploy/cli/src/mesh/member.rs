//! The processes of a mesh.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One process of the mesh, in the order in which they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Member {
    /// The front door.
    Gateway,
    /// Text to token ids and back.
    Tokenizer,
    /// The model.
    Inference,
    /// The filter.
    Safety,
    /// The traces; not ours, and optional.
    Jaeger,
}

impl Member {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Gateway, Self::Tokenizer, Self::Inference, Self::Safety, Self::Jaeger];
    /// Those that are Weft's.
    pub(crate) const SERVICES: [Self; 4] = [Self::Gateway, Self::Tokenizer, Self::Inference, Self::Safety];

    /// Its name: of its config file, its log and its pid file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Tokenizer => "tokenizer",
            Self::Inference => "inference",
            Self::Safety => "safety",
            Self::Jaeger => "jaeger",
        }
    }

    /// Its name in traces.
    pub(crate) fn service_name(self) -> String {
        match self {
            Self::Jaeger => "jaeger".to_owned(),
            Self::Gateway | Self::Tokenizer | Self::Inference | Self::Safety => {
                format!("weft-{}", self.name())
            }
        }
    }

    /// The name of its executable.
    pub(crate) fn binary(self) -> String {
        self.service_name()
    }

    /// The gRPC port that it has where its config names none.
    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Gateway => 50051,
            Self::Tokenizer => 50061,
            Self::Inference => 50062,
            Self::Safety => 50063,
            Self::Jaeger => super::jaeger::OTLP_PORT,
        }
    }

    /// A number of its own, for its colour.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
