//! Why a caller is not let in. Nothing here says whether a key exists, and nothing repeats a credential.

use tonic::Code;

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// It shows nothing.
    #[error("no credentials were shown; this gateway takes {accepted}")]
    Missing { accepted: String },

    /// What it shows is not the form of a credential.
    #[error("the credentials are malformed: {rule}")]
    Malformed { rule: &'static str },

    /// What it shows is unknown, revoked, forged or meant for somebody else. Which of these is nobody's business.
    #[error("the credentials are not valid")]
    Invalid,

    /// A token that the issuer signed, and that has ended: whoever holds it reads the same in it, and can fetch another.
    #[error("the token has expired")]
    Expired,

    /// A token that is good for us and does not say whose it is.
    #[error("the token has no claim {claim:?} that names a tenant")]
    Claim { claim: String },

    /// It is known, and may not call this method.
    #[error("{name:?} may not call {method}{}", .same.map(|same| format!(" ({same})")).unwrap_or_default())]
    Method {
        name: String,
        method: String,
        /// What it stands for, where it is of another API.
        same: Option<&'static str>,
    },

    /// It is known, and may not use this model.
    #[error("{name:?} may not use the model {model:?}")]
    Model { name: String, model: String },
}

/// The longest name that is repeated in an answer, which has to fit into a header.
const LONGEST_NAME: usize = 128;

impl Denied {
    pub(super) fn method(name: &str, method: &str, same: Option<&'static str>) -> Self {
        Self::Method { name: cut(name), method: cut(method), same }
    }

    pub(super) fn model(name: &str, model: &str) -> Self {
        Self::Model { name: cut(name), model: cut(model) }
    }

    /// The code that the caller sees.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Missing { .. }
            | Self::Malformed { .. }
            | Self::Invalid
            | Self::Expired
            | Self::Claim { .. } => Code::Unauthenticated,
            Self::Method { .. } | Self::Model { .. } => Code::PermissionDenied,
        }
    }

    /// The `reason` of its `ErrorInfo`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "CREDENTIALS_MISSING",
            Self::Malformed { .. } => "CREDENTIALS_MALFORMED",
            Self::Invalid => "CREDENTIALS_INVALID",
            Self::Expired => "CREDENTIALS_EXPIRED",
            Self::Claim { .. } => "CREDENTIALS_WITHOUT_TENANT",
            Self::Method { .. } => "METHOD_NOT_ALLOWED",
            Self::Model { .. } => "MODEL_NOT_ALLOWED",
        }
    }

    /// The metadata of its `ErrorInfo`.
    pub(crate) fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Missing { accepted } => vec![("accepted", accepted.clone())],
            Self::Malformed { .. } | Self::Invalid | Self::Expired => Vec::new(),
            Self::Claim { claim } => vec![("claim", claim.clone())],
            Self::Method { name, method, .. } => vec![("identity", name.clone()), ("method", method.clone())],
            Self::Model { name, model } => vec![("identity", name.clone()), ("model", model.clone())],
        }
    }

    /// Its name in metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Malformed { .. } => "malformed",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Claim { .. } => "without tenant",
            Self::Method { .. } | Self::Model { .. } => "not allowed",
        }
    }
}

fn cut(name: &str) -> String {
    let end = name.floor_char_boundary(LONGEST_NAME);
    if end == name.len() { name.to_owned() } else { format!("{}…", &name[..end]) }
}
