//! Weft's contracts. Generated types and the descriptor set that reflection serves; no logic.
//!
//! Map: one module a package (`proto/weft/<package>/v1`), and `kserve` for the protocol's package `inference`.
//! Rule: only a crate's `grpc.rs` and the gateway's `outbound/` name these types.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from the .proto files, which carry the comments"
)]

/// Words shared by several services.
pub mod common {
    pub mod v1 {
        tonic::include_proto!("weft.common.v1");
    }
}
/// Text to ids and back.
pub mod tokenizer {
    pub mod v1 {
        tonic::include_proto!("weft.tokenizer.v1");
    }
}
/// Ids in, ids out.
pub mod inference {
    pub mod v1 {
        tonic::include_proto!("weft.inference.v1");
    }
}
/// Text in, verdict out.
pub mod safety {
    pub mod v1 {
        tonic::include_proto!("weft.safety.v1");
    }
}
/// The public API.
pub mod gateway {
    pub mod v1 {
        tonic::include_proto!("weft.gateway.v1");
    }
}
/// Tensors in, tensors out: the public API of other servers' clients.
pub mod kserve {
    tonic::include_proto!("inference");
}

/// All of the above, encoded, for `grpc.reflection.v1`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.bin"));
