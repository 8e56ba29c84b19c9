//! Asks the daemon over its socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What comes back.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reply<T> {
    Refused { error: String },
    Answer(T),
}

/// Sends a line, and reads the answer.
pub(super) fn ask<T: DeserializeOwned>(socket: &Path, question: &str) -> std::io::Result<T> {
    ask_within(socket, question, PATIENCE)
}

/// The same where the answer may take longer, or less.
pub(super) fn ask_within<T: DeserializeOwned>(
    socket: &Path,
    question: &str,
    patience: Duration,
) -> std::io::Result<T> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line)? {
        Reply::Answer(answer) => Ok(answer),
        Reply::Refused { error } => Err(std::io::Error::other(error)),
    }
}
