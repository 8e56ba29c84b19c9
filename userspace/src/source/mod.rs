//! Where objects come from: the API server, or a folder of manifests. Both speak in [`Change`]s.

pub mod folder;
pub mod manifest;
pub mod watch;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc::Sender;

use crate::model::{Change, Kind, ObjectRef};

/// The way from a source to the loop. Bounded, so that a flood waits at its source.
pub type Changes = Sender<Change>;

/// Changes that may wait for the loop.
pub const BACKLOG: usize = 4096;

fn object_ref(kind: Kind, meta: &ObjectMeta) -> ObjectRef {
    let text = |field: &Option<String>| field.as_deref().unwrap_or_default().to_owned();
    ObjectRef::new(kind, text(&meta.namespace), text(&meta.name))
}
