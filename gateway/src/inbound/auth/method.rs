//! What a call stands for: one vocabulary for who may call what, whichever API it comes by.
//!
//! Whoever may call `GatewayService/Chat` may ask the same by HTTP. A call goes by its own path too, so that a key can be
//! bound to one of the APIs.

const CHAT: &str = "weft.gateway.v1.GatewayService/Chat";
const COMPLETE: &str = "weft.gateway.v1.GatewayService/Complete";
const EMBED: &str = "weft.gateway.v1.GatewayService/Embed";
const LIST_MODELS: &str = "weft.gateway.v1.GatewayService/ListModels";
const GET_MODEL: &str = "weft.gateway.v1.GatewayService/GetModel";
/// Of the safety filter: moderation is its answer, and no method of the gateway's own API.
const SCREEN: &str = "weft.safety.v1.SafetyService/Screen";

/// Calls of the other APIs by their paths, which may end with `*`, and the gRPC methods that do the same.
const SAME: [(&str, &str); 11] = [
    ("v1/chat/completions", CHAT),
    ("v1/completions", COMPLETE),
    ("v1/embeddings", EMBED),
    ("v1/moderations", SCREEN),
    ("v1/models", LIST_MODELS),
    ("v1/models/*", GET_MODEL),
    ("inference.GRPCInferenceService/ModelInfer", COMPLETE),
    ("inference.GRPCInferenceService/ModelStreamInfer", COMPLETE),
    ("inference.GRPCInferenceService/ModelReady", GET_MODEL),
    ("inference.GRPCInferenceService/ModelMetadata", GET_MODEL),
    ("inference.GRPCInferenceService/ServerMetadata", LIST_MODELS),
];

/// The gRPC method that does the same as the call of this path (without the slash before it) of another API.
pub(crate) fn same(path: &str) -> Option<&'static str> {
    let fits = |(other, _): &&(&str, &str)| match other.strip_suffix('*') {
        Some(beginning) => path.starts_with(beginning),
        None => path == *other,
    };
    SAME.iter().find(fits).map(|(_, method)| *method)
}

/// The names that a call goes by.
pub(super) fn names(path: &str) -> impl Iterator<Item = &str> {
    [Some(path), same(path)].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use weft_runtime::config::parse;

    use super::*;
    use crate::inbound::auth::AuthConfig;

    /// Methods of all contracts.
    fn contracts() -> BTreeSet<String> {
        let files = FileDescriptorSet::decode(weft_proto::FILE_DESCRIPTOR_SET).unwrap().file;
        let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
        let full =
            |(file, service): (&prost_types::FileDescriptorProto, &prost_types::ServiceDescriptorProto)| {
                let name = format!("{}.{}", file.package(), service.name());
                service
                    .method
                    .iter()
                    .map(move |method| format!("{name}/{}", method.name()))
                    .collect::<Vec<_>>()
            };
        services.flat_map(full).collect()
    }

    #[test]
    fn what_calls_stand_for_are_methods_of_the_contracts() {
        let contracts = contracts();
        for (_, method) in SAME {
            assert!(contracts.contains(method), "{method}");
        }
    }

    #[test]
    fn every_method_of_the_open_inference_protocol_stands_for_one_or_is_open() {
        let open = parse::<AuthConfig>("", &[]).unwrap().open;
        for method in contracts().iter().filter(|method| method.starts_with("inference.")) {
            assert!(same(method).is_some() != open.allow(method), "{method}");
        }
    }

    #[test]
    fn a_call_goes_by_its_path_and_by_what_it_stands_for() {
        assert_eq!(names(CHAT).collect::<Vec<_>>(), [CHAT]);
        assert_eq!(names("v1/models").collect::<Vec<_>>(), ["v1/models", LIST_MODELS]);
        assert_eq!(names("v1/models/a/b").collect::<Vec<_>>(), ["v1/models/a/b", GET_MODEL]);
        for unknown in ["v1", "v1/chat", "v1/chat/completions/", "v1/models2", "V1/models"] {
            assert_eq!(names(unknown).collect::<Vec<_>>(), [unknown]);
        }
    }
}
