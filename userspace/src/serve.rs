//! The unix socket on which the tool asks the daemon. One line in, one line of JSON out. Root only.
//!
//! `status` is answered with the status, `explain SOURCE TARGET` with the reasons for what becomes of such a flow, `drain` with
//! who left the lists of new flows, `audit` with where the kernel is not as it should be (`audit fix`: and that is put right),
//! `settings` with what the daemon was told when it began; what is not understood with an `error`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::reconcile::Ask;

/// How long a client may take to ask and to read. To look through a big kernel takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait where nobody can be heard.
const PAUSE: Duration = Duration::from_secs(5);

/// Opens the socket. A file left by a daemon that is gone is replaced; one that still answers is an error.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there"));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What a daemon was told when it began: it ends where that changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The Node's name.
    pub node: String,
    /// The folder that it follows in place of an API server.
    pub source: Option<PathBuf>,
    /// What counts, as a file for `--config`.
    pub configuration: serde_json::Value,
}

/// Answers from now on. Where the file system has no room for a socket, or takes no file, it is asked again until it has: nodes
/// have full disks, and traffic is worth more than the tool.
pub fn start(path: &Path, asks: mpsc::Sender<Ask>, settings: Settings) -> io::Result<()> {
    match listen(path) {
        Ok(listener) => drop(tokio::spawn(serve(listener, asks, settings))),
        Err(error) if lacks_room(&error) => {
            warn!(%error, socket = %path.display(), "there is no room for the tool's socket; going on without, and trying again");
            tokio::spawn(start_later(path.to_owned(), asks, settings));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn lacks_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    [StorageFull, QuotaExceeded, ReadOnlyFilesystem].contains(&error.kind())
}

async fn start_later(path: PathBuf, asks: mpsc::Sender<Ask>, settings: Settings) {
    while !asks.is_closed() {
        sleep(PAUSE).await;
        if let Ok(listener) = listen(&path) {
            info!(socket = %path.display(), "the tool's socket has room now");
            return serve(listener, asks, settings).await;
        }
    }
}

/// Answers until the loop has ended.
pub async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>, settings: Settings) {
    let settings = Arc::new(settings);
    while !asks.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (asks, settings) = (asks.clone(), Arc::clone(&settings));
                tokio::spawn(async move {
                    match timeout(PATIENCE, answer(stream, asks, &settings)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%error, "a client of the socket went away"),
                        Err(_) => debug!("a client of the socket was too slow"),
                    }
                });
            }
            Err(error) => {
                warn!(%error, "could not accept on the socket");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, asks: mpsc::Sender<Ask>, settings: &Settings) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await?;
    let reply = match line.trim() {
        "status" => ask(&asks, Ask::Status).await?,
        "settings" => serde_json::to_string(settings)?,
        "audit" => ask(&asks, |reply| Ask::Audit(false, reply)).await?,
        "audit fix" => ask(&asks, |reply| Ask::Audit(true, reply)).await?,
        "drain" => ask(&asks, Ask::Drain).await?,
        other => match other.split_once(' ') {
            Some(("explain", question)) => match question.parse() {
                Ok(question) => ask(&asks, |reply| Ask::Explain(question, reply)).await?,
                Err(wrong) => refusal(wrong),
            },
            Some(_) | None => refusal(format!("unknown request {other:?}; try \"status\"")),
        },
    };
    writer.write_all(reply.as_bytes()).await?;
    writer.write_all(b"\n").await
}

fn refusal(error: String) -> String {
    serde_json::json!({ "error": error }).to_string()
}

async fn ask<T: Serialize>(
    asks: &mpsc::Sender<Ask>,
    make: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> io::Result<String> {
    let (ask, reply) = oneshot::channel();
    let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the daemon is ending");
    asks.send(make(ask)).await.map_err(|_| ended())?;
    let answer = reply.await.map_err(|_| ended())?;
    Ok(serde_json::to_string(&answer)?)
}
