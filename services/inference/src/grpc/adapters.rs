//! Adapters on the wire.

use tonic::{Request, Response, Status};
use weft_proto::inference::v1 as wire;

use super::count;
use crate::adapters::{Adapters, Lease, Standing};

/// Loads or replaces one.
pub(super) async fn load(
    adapters: &Adapters,
    request: Request<wire::LoadAdapterRequest>,
) -> Result<Response<wire::LoadAdapterResponse>, Status> {
    let wire::LoadAdapterRequest { adapter_id, path, expected_generation } = request.into_inner();
    let standing = adapters.load(&adapter_id, &path, expected_generation).await?;
    Ok(Response::new(wire::LoadAdapterResponse { adapter: Some(standing.into()) }))
}

/// Takes one away.
pub(super) fn unload(
    adapters: &Adapters,
    request: Request<wire::UnloadAdapterRequest>,
) -> Result<Response<wire::UnloadAdapterResponse>, Status> {
    let wire::UnloadAdapterRequest { adapter_id, expected_generation } = request.into_inner();
    adapters.unload(&adapter_id, expected_generation)?;
    Ok(Response::new(wire::UnloadAdapterResponse {}))
}

/// All of them.
pub(super) fn list(adapters: &Adapters) -> Vec<wire::Adapter> {
    adapters.list().into_iter().map(Into::into).collect()
}

/// The one that a request names, if it names one.
pub(super) fn lease(adapters: &Adapters, id: Option<&str>) -> Result<Option<Lease>, Status> {
    Ok(id.map(|id| adapters.lease(id)).transpose()?)
}

impl From<Standing> for wire::Adapter {
    fn from(standing: Standing) -> Self {
        Self {
            adapter_id: standing.id,
            generation: standing.generation,
            rank: count(standing.rank),
            targets: standing.targets,
            bytes: standing.bytes,
            streams: standing.streams,
            fingerprint: standing.fingerprint,
        }
    }
}
