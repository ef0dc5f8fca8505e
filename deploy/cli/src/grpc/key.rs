//! Who asks: the API key in the environment.

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

/// The variable with the key. A command line would show it to everybody on the machine.
const VARIABLE: &str = "WEFT_API_KEY";

/// Shows the key with every call, if there is one. Only the gateway is shown it.
#[derive(Clone, Debug)]
pub(crate) struct ApiKey(Option<Result<MetadataValue<Ascii>, Status>>);

impl ApiKey {
    /// The key in the environment.
    pub(crate) fn from_env() -> Self {
        Self(std::env::var_os(VARIABLE).filter(|key| !key.is_empty()).map(|key| {
            let header = key.to_str().and_then(|key| format!("Bearer {key}").parse().ok());
            let mut header: MetadataValue<Ascii> = header.ok_or_else(|| {
                Status::unauthenticated(format!("{VARIABLE} is set and no key: must be ASCII"))
            })?;
            header.set_sensitive(true);
            Ok(header)
        }))
    }
}

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone()?);
        }
        Ok(request)
    }
}
