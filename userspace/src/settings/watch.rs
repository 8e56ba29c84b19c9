//! Waits until the configuration file holds something else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::sleep;
use tracing::warn;

use super::File;

/// A file that is being written is read again after this time.
const SETTLED: Duration = Duration::from_millis(100);

/// How often the file is read when it cannot be watched.
const PACE: Duration = Duration::from_secs(10);

/// Ends when the file holds something else than it did. A file that is away is being replaced, or is nobody's wish.
pub async fn changed(file: &File) {
    let mut events = watch(&file.path);
    while !differs(file).await {
        let Some(stream) = &mut events else {
            sleep(PACE).await;
            continue;
        };
        if stream.next().await.is_none() {
            events = None;
        }
    }
}

/// Whether the content differs, and stands.
async fn differs(file: &File) -> bool {
    let read = || std::fs::read(&file.path).ok().filter(|bytes| *bytes != file.bytes);
    let Some(mut last) = read() else { return false };
    loop {
        sleep(SETTLED).await;
        match read() {
            Some(bytes) if bytes == last => return true,
            Some(bytes) => last = bytes,
            None => return false,
        }
    }
}

/// Folders are watched, not the file: a ConfigMap changes by a link that is put in place of another one.
fn watch(path: &Path) -> Option<EventStream<Vec<u8>>> {
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
    let stream = Inotify::init().and_then(|inotify| {
        for folder in folders(path) {
            inotify.watches().add(folder, mask | WatchMask::ONLYDIR)?;
        }
        inotify.into_event_stream(vec![0; 4096])
    });
    stream
        .inspect_err(
            |error| warn!(%error, "cannot watch the configuration file; reading it again and again instead"),
        )
        .ok()
}

/// Where the file is named, and where it really is.
fn folders(path: &Path) -> Vec<PathBuf> {
    let above = |path: &Path| match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    let mut folders = vec![above(path)];
    folders.extend(std::fs::canonicalize(path).ok().map(|path| above(&path)));
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::File;
    use super::changed;

    #[tokio::test]
    async fn a_file_with_other_content_is_noticed() {
        check("write", |folder| fs::write(folder.join("c"), "new"), true).await;
        check(
            "rename",
            |folder| fs::write(folder.join("d"), "new").and_then(|()| rename(folder, "d", "c")),
            true,
        )
        .await;
    }

    #[tokio::test]
    async fn a_file_with_the_same_content_is_not() {
        check("same", |folder| fs::write(folder.join("c"), "old"), false).await;
        check("away", |folder| fs::remove_file(folder.join("c")), false).await;
        check("other", |folder| fs::write(folder.join("x"), "new"), false).await;
    }

    #[tokio::test]
    async fn a_config_map_that_is_swapped_is_noticed() {
        let folder = folder("swap");
        for (version, text) in [("..1", "old"), ("..2", "new")] {
            fs::create_dir(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("c"), text).unwrap();
        }
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/c", folder.join("c")).unwrap();
        let swap = |folder: &Path| {
            symlink("..2", folder.join("..tmp")).and_then(|()| rename(folder, "..tmp", "..data"))
        };
        assert!(seen(&folder, swap).await);
        fs::remove_dir_all(folder).unwrap();
    }

    fn rename(folder: &Path, from: &str, to: &str) -> std::io::Result<()> {
        fs::rename(folder.join(from), folder.join(to))
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("sluice-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    async fn seen(folder: &Path, change: impl FnOnce(&Path) -> std::io::Result<()>) -> bool {
        let file = File { path: folder.join("c"), bytes: b"old".to_vec() };
        let waiting = tokio::spawn(async move { changed(&file).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished());
        change(folder).unwrap();
        timeout(Duration::from_secs(2), waiting).await.is_ok()
    }

    async fn check(name: &str, change: impl FnOnce(&Path) -> std::io::Result<()>, noticed: bool) {
        let folder = folder(name);
        fs::write(folder.join("c"), "old").unwrap();
        assert_eq!(seen(&folder, change).await, noticed, "{name}");
        fs::remove_dir_all(folder).unwrap();
    }
}
