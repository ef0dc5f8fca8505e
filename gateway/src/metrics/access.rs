//! Who was let in, and which files were read again.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Callers that were judged, by how they showed who they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Authentications(Family<Judged, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Judged {
    way: &'static str,
    outcome: &'static str,
}

impl Authentications {
    pub(crate) fn count(&self, way: &'static str, outcome: &'static str) {
        self.0.get_or_create(&Judged { way, outcome }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "authentications",
            "Callers, by what they showed and whether it was enough",
            self.0.clone(),
        );
    }
}

/// Files that changed, and whether they could be used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reloads(Family<Reload, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    file: &'static str,
    outcome: &'static str,
}

impl Reloads {
    pub(crate) fn count(&self, file: &'static str, usable: bool) {
        let outcome = if usable { "taken over" } else { "refused" };
        self.0.get_or_create(&Reload { file, outcome }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("reloads", "Changes of files, by what became of them", self.0.clone());
    }
}
