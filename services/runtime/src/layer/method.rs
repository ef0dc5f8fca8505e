//! Names of methods, from a fixed list: what a stranger calls must not become a label.

use std::{collections::BTreeSet, sync::LazyLock};

use http::Request;
use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::server::Operation;

/// Stands for every method that no contract of ours has.
pub(crate) const UNKNOWN: &str = "unknown";

/// Every contract that a process may serve: ours, health, reflection.
pub(crate) const CONTRACTS: [&[u8]; 4] = [
    weft_proto::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// `package.Service/Method` of all of them. Constant data, so the one static of this crate is harmless.
static KNOWN: LazyLock<BTreeSet<String>> =
    LazyLock::new(|| CONTRACTS.iter().flat_map(|bytes| methods(bytes)).collect());

fn methods(contract: &[u8]) -> Vec<String> {
    // The bytes are compiled in and a test decodes them; were they broken, every method would be `unknown`.
    let files = FileDescriptorSet::decode(contract).unwrap_or_default().file;
    let mut names = Vec::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                names.push(format!("{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    names
}

/// The fully qualified method of a request's path, such as `weft.tokenizer.v1.TokenizerService/Encode`, or `unknown`.
pub(crate) fn known(path: &str) -> &'static str {
    let name = path.strip_prefix('/').unwrap_or(path);
    KNOWN.get(name).map_or(UNKNOWN, String::as_str)
}

/// The name of a call: the operation of one that came through a [`Door`](crate::server::Door), else its method.
pub(crate) fn of<B>(request: &Request<B>) -> &'static str {
    match request.extensions().get::<Operation>() {
        Some(Operation(name)) => name,
        None => known(request.uri().path()),
    }
}

/// Whether a path belongs to health or reflection: asked by machines around us, at all times and for as long as they
/// like, so not part of the work that is traced, drained and given a default deadline.
pub(crate) fn is_housekeeping(path: &str) -> bool {
    path.starts_with("/grpc.health.") || path.starts_with("/grpc.reflection.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_a_contract_have_a_name() {
        assert_eq!(known("/grpc.health.v1.Health/Check"), "grpc.health.v1.Health/Check");
        assert_eq!(
            known("/weft.tokenizer.v1.TokenizerService/Encode"),
            "weft.tokenizer.v1.TokenizerService/Encode"
        );
        assert_eq!(known("/weft.tokenizer.v1.TokenizerService/Encode2"), UNKNOWN);
        assert_eq!(known("/"), UNKNOWN);
        assert_eq!(known(""), UNKNOWN);
        assert!(CONTRACTS.iter().all(|bytes| !methods(bytes).is_empty()));
    }
}
