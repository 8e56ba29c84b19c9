//! One request and its answer, over one socket.

use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use lab::agent::{Answer, Echo};
use nix::errno::Errno;

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Http,
    /// One socket, an address with every datagram.
    Udp,
    UdpConnected,
}

/// Where requests go.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) timeout: Duration,
}

/// An open socket.
pub(crate) enum Line {
    Stream(BufReader<TcpStream>, Protocol),
    Datagram(UdpSocket, Option<SocketAddr>),
}

impl Target {
    /// Asks once, over `kept` if that is open, and leaves an open line there if asked to keep it.
    pub(crate) fn ask(&self, kept: &mut Option<Line>, keep: bool, number: u64) -> Answer {
        let began = Instant::now();
        let outcome = match kept.take() {
            Some(line) => Ok(line),
            None => self.open(),
        }
        .and_then(|mut line| {
            let answer = line.ask(&format!("request-{number}"))?;
            kept.replace(line);
            Ok(answer)
        });
        // A datagram socket survives a lost answer; forgetting it would forget its endpoint, too.
        if !keep {
            kept.take();
        }
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match outcome {
            Ok((echo, peer)) => {
                Answer { ok: true, name: echo.name, source: echo.source, peer, error: String::new(), micros }
            }
            Err(error) => Answer { error: name_of(&error), micros, ..Answer::default() },
        }
    }

    fn open(&self) -> Result<Line> {
        match self.protocol {
            Protocol::Tcp | Protocol::Http => {
                let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.timeout))?;
                Ok(Line::Stream(BufReader::new(stream), self.protocol))
            }
            Protocol::Udp => Ok(Line::Datagram(self.datagram()?, Some(self.address))),
            Protocol::UdpConnected => {
                let socket = self.datagram()?;
                socket.connect(self.address)?;
                Ok(Line::Datagram(socket, None))
            }
        }
    }

    fn datagram(&self) -> Result<UdpSocket> {
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(self.timeout))?;
        Ok(socket)
    }
}

impl Line {
    fn ask(&mut self, said: &str) -> Result<(Echo, String)> {
        match self {
            Self::Stream(stream, Protocol::Http) => by_http(stream, said),
            Self::Stream(stream, Protocol::Tcp | Protocol::Udp | Protocol::UdpConnected) => {
                by_line(stream, said)
            }
            Self::Datagram(socket, to) => by_datagram(socket, *to, said),
        }
    }
}

fn by_line(stream: &mut BufReader<TcpStream>, said: &str) -> Result<(Echo, String)> {
    stream.get_mut().write_all(format!("{said}\n").as_bytes())?;
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((echo(&line, said)?, stream.get_ref().peer_addr()?.to_string()))
}

fn by_http(stream: &mut BufReader<TcpStream>, said: &str) -> Result<(Echo, String)> {
    let request = format!("GET /{said} HTTP/1.1");
    stream.get_mut().write_all(format!("{request}\r\nHost: lab\r\n\r\n").as_bytes())?;
    let length = head(stream)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body);
    Ok((echo(&body, &request)?, stream.get_ref().peer_addr()?.to_string()))
}

/// Reads the head of an answer; how long the body is.
fn head(stream: &mut BufReader<TcpStream>) -> Result<usize> {
    let mut length = 0;
    for (index, line) in stream.lines().enumerate() {
        let line = line?.to_ascii_lowercase();
        if index == 0 && !line.starts_with("http/1.1 200 ") {
            return Err(Error::other(line));
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(Error::other)?;
        }
        if line.is_empty() {
            return Ok(length);
        }
    }
    Err(ErrorKind::UnexpectedEof.into())
}

fn by_datagram(socket: &UdpSocket, to: Option<SocketAddr>, said: &str) -> Result<(Echo, String)> {
    match to {
        Some(to) => socket.send_to(said.as_bytes(), to)?,
        None => socket.send(said.as_bytes())?,
    };
    let mut buffer = [0; 2048];
    loop {
        let (length, sender) = socket.recv_from(&mut buffer)?;
        // An answer that came too late for an earlier request is not the answer to this one.
        if let Ok(echo) = echo(&String::from_utf8_lossy(&buffer[..length]), said) {
            let peer = if to.is_some() { sender } else { socket.peer_addr()? };
            return Ok((echo, peer.to_string()));
        }
    }
}

fn echo(text: &str, said: &str) -> Result<Echo> {
    let echo: Echo = serde_json::from_str(text)?;
    if echo.said == said { Ok(echo) } else { Err(Error::other("answer to another question")) }
}

/// The system's own name for an error, so that a test can ask for it.
pub(crate) fn name_of(error: &Error) -> String {
    if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) {
        return "timeout".to_owned();
    }
    if error.kind() == ErrorKind::UnexpectedEof {
        return "closed".to_owned();
    }
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => error.to_string(),
    }
}
