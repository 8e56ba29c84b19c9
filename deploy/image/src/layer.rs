//! The one layer: what stands in it, and its bytes, which depend on nothing else.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Paths and what is there. Everything belongs to root, and nobody may write.
pub(crate) type Files = BTreeMap<&'static str, Entry>;

/// One thing in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Folder,
    Program(Vec<u8>),
    Text(String),
}

/// A layer, packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Compressed.
    pub(crate) bytes: Vec<u8>,
    /// Digest of what it is uncompressed.
    pub(crate) diff_id: String,
}

/// Everything in the image.
pub(crate) fn files(program: Vec<u8>, bill: String) -> Files {
    // Mounts go to these; with a root that cannot be written, a runtime must find them.
    let folders = [
        "etc/",
        "etc/sluice/",
        "host/",
        "host/bpf/",
        "host/cgroup/",
        "run/",
        "run/sluice/",
        "tmp/",
        "usr/",
        "usr/local/",
        "usr/local/bin/",
        "usr/share/",
        "usr/share/sluice/",
    ];
    let mut files: Files = folders.map(|folder| (folder, Entry::Folder)).into();
    files.insert("usr/local/bin/sluice", Entry::Program(program));
    files.insert("usr/share/sluice/bill.cdx.json", Entry::Text(bill));
    // The API server may have a name. Without this file the C library would not read /etc/hosts first.
    files.insert("etc/nsswitch.conf", Entry::Text("hosts: files dns\n".to_owned()));
    files
}

/// Packs files in the order of their names, all of the same time.
pub(crate) fn pack(files: &Files, time: u64) -> Result<Layer> {
    let mut tar = Builder::new(Vec::new());
    for (path, entry) in files {
        let (mut header, bytes) = (header(entry, time), content(entry));
        header.set_size(bytes.len().try_into()?);
        tar.append_data(&mut header, path, bytes)?;
    }
    let plain = tar.into_inner()?;
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::default());
    gzip.write_all(&plain)?;
    Ok(Layer { bytes: gzip.finish()?, diff_id: digest(&plain) })
}

fn header(entry: &Entry, time: u64) -> Header {
    let mut header = Header::new_ustar();
    let (kind, mode) = match entry {
        Entry::Folder => (EntryType::Directory, 0o755),
        Entry::Program(_) => (EntryType::Regular, 0o555),
        Entry::Text(_) => (EntryType::Regular, 0o444),
    };
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    header
}

fn content(entry: &Entry) -> &[u8] {
    match entry {
        Entry::Folder => &[],
        Entry::Program(bytes) => bytes,
        Entry::Text(text) => text.as_bytes(),
    }
}

/// As OCI writes it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::{digest, files, pack};

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let one = || pack(&files(b"program".to_vec(), "{}".to_owned()), 7).unwrap();
        assert_eq!(one(), one());
        assert_ne!(one(), pack(&files(b"other".to_vec(), "{}".to_owned()), 7).unwrap());
    }

    #[test]
    fn everything_is_roots_and_of_one_time_and_a_folder_stands_before_what_is_in_it() {
        let layer = pack(&files(b"program".to_vec(), "{}".to_owned()), 7).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&layer.bytes[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(digest(&plain), layer.diff_id);
        let mut seen = vec![String::new()];
        for entry in tar::Archive::new(&plain[..]).entries().unwrap() {
            let header = entry.unwrap().header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 7));
            assert_eq!(header.mode().unwrap() & 0o222 & !0o200, 0, "{header:?}");
            let path = header.path().unwrap().to_string_lossy().into_owned();
            let folder = path.trim_end_matches('/').rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
            assert!(seen.contains(&folder.unwrap_or_default()), "{path} after {seen:?}");
            seen.push(path);
        }
        assert!(seen.contains(&"usr/local/bin/sluice".to_owned()));
    }
}
