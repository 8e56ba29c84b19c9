//! Waits until the configuration file holds something else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::File;

/// A file that is being written is read again after this time.
const SETTLED: Duration = Duration::from_millis(100);

/// How often the file is read whatever the watch says: a folder above it may be replaced, a link turned, and a file on
/// another host's disk be written, and none of that is an event here.
const PACE: Duration = Duration::from_secs(5);

type Events = EventStream<Vec<u8>>;

/// Ends when the file holds something else than it did. A file that is away is being replaced, or is nobody's wish.
pub async fn changed(file: &File) {
    let mut events = open();
    loop {
        if let Some(events) = &events {
            watch(events, &file.path);
        }
        if differs(file).await {
            return;
        }
        wake(&mut events).await;
    }
}

/// Ends with an event, or after a while.
async fn wake(events: &mut Option<Events>) {
    let Some(stream) = events else { return sleep(PACE).await };
    match timeout(PACE, stream.next()).await {
        Ok(Some(Ok(_))) | Err(_) => {}
        Ok(Some(Err(_)) | None) => {
            *events = None;
            sleep(PACE).await;
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

fn open() -> Option<Events> {
    let stream = Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; 4096]));
    stream
        .inspect_err(
            |error| warn!(%error, "cannot watch the configuration file; reading it again and again instead"),
        )
        .ok()
}

/// Folders are watched, not the file: a ConfigMap changes by a link that is put in place of another one. To add what is
/// watched already changes nothing; a folder that took another's place is added anew. What cannot be watched is read at the
/// usual pace.
fn watch(events: &Events, path: &Path) {
    let changes = WatchMask::CLOSE_WRITE | WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
    let replaced = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
    for folder in folders(path) {
        let _ = events.watches().add(folder, changes | replaced);
    }
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
    use super::{changed, open, wake, watch};

    /// Sooner than the file is read without an event.
    const SOON: Duration = Duration::from_secs(2);
    /// Later than that.
    const LATE: Duration = Duration::from_secs(30);

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
        assert!(seen(&folder, "c", swap, SOON).await);
        fs::remove_dir_all(folder).unwrap();
    }

    /// The clock is not the world's here: it leaps from one reading to the next.
    #[tokio::test(start_paused = true)]
    async fn a_file_in_a_folder_that_was_replaced_is_noticed() {
        for (text, noticed) in [("new", true), ("old", false)] {
            let folder = folder(&format!("replaced-{text}"));
            fs::write(folder.join("c"), "old").unwrap();
            let replace = |folder: &Path| {
                fs::remove_dir_all(folder)?;
                fs::create_dir(folder)?;
                fs::write(folder.join("c"), text)
            };
            assert_eq!(seen(&folder, "c", replace, LATE).await, noticed, "{text}");
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_behind_a_link_that_was_turned_is_noticed() {
        let folder = folder("link");
        for (version, text) in [("1", "old"), ("2", "new")] {
            fs::create_dir_all(folder.join(version).join("below")).unwrap();
            fs::write(folder.join(version).join("below/c"), text).unwrap();
        }
        symlink("1", folder.join("link")).unwrap();
        let turn = |folder: &Path| {
            fs::remove_file(folder.join("link")).and_then(|()| symlink("2", folder.join("link")))
        };
        assert!(seen(&folder, "link/below/c", turn, LATE).await);
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_took_anothers_place_is_watched_again() {
        let folder = folder("again");
        let file = File { path: folder.join("c"), bytes: b"old".to_vec() };
        fs::write(&file.path, "old").unwrap();
        let mut events = open();
        watch(events.as_ref().unwrap(), &file.path);
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        while let Ok(()) = timeout(Duration::from_millis(100), wake(&mut events)).await {}
        watch(events.as_ref().unwrap(), &file.path);
        fs::write(&file.path, "new").unwrap();
        assert!(timeout(SOON, wake(&mut events)).await.is_ok());
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

    async fn seen(
        folder: &Path,
        file: &str,
        change: impl FnOnce(&Path) -> std::io::Result<()>,
        within: Duration,
    ) -> bool {
        let file = File { path: folder.join(file), bytes: b"old".to_vec() };
        let waiting = tokio::spawn(async move { changed(&file).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished());
        change(folder).unwrap();
        timeout(within, waiting).await.is_ok()
    }

    async fn check(name: &str, change: impl FnOnce(&Path) -> std::io::Result<()>, noticed: bool) {
        let folder = folder(name);
        fs::write(folder.join("c"), "old").unwrap();
        assert_eq!(seen(&folder, "c", change, SOON).await, noticed, "{name}");
        fs::remove_dir_all(folder).unwrap();
    }
}
