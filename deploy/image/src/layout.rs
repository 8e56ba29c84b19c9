//! The archive: an OCI image layout in a tar, as `ctr image import`, `podman load` and `skopeo` read it.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::layer::{Layer, digest};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What the labels say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) version: &'a str,
    pub(crate) revision: &'a str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) architecture: &'a str,
}

/// An image, packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
    /// Digest of the manifest, by which the image is called.
    pub(crate) manifest: String,
}

/// Packs everything. Keys of JSON objects and files are in order.
pub(crate) fn pack(layer: &Layer, about: &About<'_>) -> Result<Archive> {
    let config = serde_json::to_vec(&config(layer, about))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &layer.bytes)],
        "annotations": labels(about),
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let index = serde_json::to_vec(&index(&manifest, about))?;
    let mut files = BTreeMap::from([
        ("index.json".to_owned(), index),
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ]);
    let called = digest(&manifest);
    for blob in [config, manifest, layer.bytes.clone()] {
        files.insert(format!("blobs/{}", digest(&blob).replace(':', "/")), blob);
    }
    Ok(Archive { bytes: tar(&files, about.created)?, manifest: called })
}

/// What a runtime does with the image if nobody says otherwise.
fn config(layer: &Layer, about: &About<'_>) -> Value {
    json!({
        "architecture": about.architecture,
        "os": "linux",
        "created": timestamp(about.created),
        "config": {
            "Entrypoint": ["/usr/local/bin/sluice"],
            "Cmd": ["run"],
            "Env": ["PATH=/usr/local/bin"],
            "WorkingDir": "/",
            "Labels": labels(about),
        },
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
        "history": [{ "created": timestamp(about.created), "created_by": "cargo xtask image" }],
    })
}

fn labels(about: &About<'_>) -> Value {
    json!({
        "org.opencontainers.image.title": "sluice",
        "org.opencontainers.image.description": "A Kubernetes service dataplane: one daemon per node that replaces kube-proxy",
        "org.opencontainers.image.version": about.version,
        "org.opencontainers.image.revision": about.revision,
        "org.opencontainers.image.created": timestamp(about.created),
        "org.opencontainers.image.licenses": "(Apache-2.0 OR MIT) AND (MIT OR GPL-2.0-only)",
    })
}

/// The name is what containerd and podman call the image after the import: `sluice:VERSION` in a pod means the same.
fn index(manifest: &[u8], about: &About<'_>) -> Value {
    let mut entry = descriptor(MANIFEST, manifest);
    entry["platform"] = json!({ "architecture": about.architecture, "os": "linux" });
    let name = format!("docker.io/library/sluice:{}", about.version);
    entry["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    });
    json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] })
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

fn tar(files: &BTreeMap<String, Vec<u8>>, time: u64) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for folder in ["blobs/", "blobs/sha256/"] {
        tar.append_data(&mut header(EntryType::Directory, 0o755, time), folder, &[][..])?;
    }
    for (path, bytes) in files {
        let mut header = header(EntryType::Regular, 0o644, time);
        header.set_size(bytes.len().try_into()?);
        tar.append_data(&mut header, path, &bytes[..])?;
    }
    Ok(tar.into_inner()?)
}

fn header(kind: EntryType, mode: u32, time: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(time);
    header.set_size(0);
    header
}

/// A time as RFC 3339 writes it. Days to dates by counting years of 400-year cycles that begin in March.
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, over) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + cycle * 400 + over;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use serde_json::Value;

    use super::{About, digest, pack, timestamp};
    use crate::layer;

    const ABOUT: About<'_> = About { version: "1.2.3", revision: "abc", created: 7, architecture: "amd64" };

    #[test]
    fn times_are_written_as_rfc_3339_does() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn every_digest_in_the_archive_is_that_of_a_file_in_it() {
        let layer = layer::pack(&layer::files(b"program".to_vec(), "{}".to_owned()), 7).unwrap();
        let archive = pack(&layer, &ABOUT).unwrap();
        assert_eq!(archive, pack(&layer, &ABOUT).unwrap());
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&archive.bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(path, bytes);
        }
        let read = |digest: &Value| {
            let digest = digest.as_str().unwrap();
            let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(super::digest(bytes), digest);
            bytes
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let called = &index["manifests"][0]["digest"];
        assert_eq!(called, &archive.manifest);
        let manifest: Value = serde_json::from_slice(read(called)).unwrap();
        let config: Value = serde_json::from_slice(read(&manifest["config"]["digest"])).unwrap();
        assert_eq!(digest(read(&manifest["layers"][0]["digest"])), digest(&layer.bytes));
        assert_eq!(config["rootfs"]["diff_ids"][0], layer.diff_id);
    }
}
