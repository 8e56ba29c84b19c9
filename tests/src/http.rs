//! Asking over HTTP, by hand: what is sent and what comes back is all there is.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Netns;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers, by name as it was sent.
    pub headers: BTreeMap<String, String>,
    /// What follows.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }

    fn read(text: &str) -> Result<Self> {
        let (head, body) =
            text.split_once("\r\n\r\n").with_context(|| format!("not an HTTP answer: {text:?}"))?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let header =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Self {
            status: status.with_context(|| format!("an HTTP answer without a status: {text:?}"))?,
            headers: lines.filter_map(header).collect(),
            body: body.to_owned(),
        })
    }
}

/// A GET from within a namespace.
pub fn get(from: &Netns, server: SocketAddr, path: &str) -> Result<Reply> {
    ask(from, server, &format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n"))
}

/// Any request. The answer ends with the connection.
pub fn ask(from: &Netns, server: SocketAddr, request: &str) -> Result<Reply> {
    let answer = from.run(|| {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)
            .with_context(|| format!("could not reach {server}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    Reply::read(&answer)
}

#[cfg(test)]
mod tests {
    use super::Reply;

    #[test]
    fn an_answer_is_a_status_headers_and_what_follows() {
        let reply =
            Reply::read("HTTP/1.1 503 Service Unavailable\r\nA-B: c: d\r\n\r\n{\"e\":1}\r\n").unwrap();
        assert_eq!((reply.status, &*reply.headers["A-B"], &*reply.body), (503, "c: d", "{\"e\":1}\r\n"));
        assert_eq!(reply.json().unwrap()["e"], 1);
        assert!(Reply::read("220 mail").is_err());
    }
}
