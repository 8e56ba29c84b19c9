//! One listening socket and those who ask there.
//!
//! Whoever asks may be slow, or mean harm. So many are served at a time, each for so long, and a head may be so long; when one
//! more comes, the one that has been there longest has to go. A probe takes a millisecond and is not hurt by that.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::answer::Answer;

/// What is answered at a path.
pub(super) type Answers = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// How long a head may take to arrive, also the first one and the next one.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may live; it may then finish what it is at.
const LIFE: Duration = Duration::from_secs(60);
/// How long that may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// The longest head, and the most lines in it.
const HEAD: usize = 8 * 1024;
const HEAD_LINES: usize = 64;
/// How many are served at a time.
const MOST: usize = 128;
/// How many may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Wait after a connection could not be accepted: there may be no room for another file.
const PAUSE: Duration = Duration::from_millis(250);

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Who is there, in the order of arrival. Several servers may share the room.
#[derive(Clone, Debug, Default)]
pub(super) struct Guests(Arc<Mutex<VecDeque<AbortHandle>>>);

impl Guests {
    fn add(&self, new: AbortHandle) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|one| !one.is_finished());
        }
        if all.len() >= MOST
            && let Some(oldest) = all.pop_front()
        {
            oldest.abort();
        }
        all.push_back(new);
    }
}

/// Listens. `only` keeps an unspecified IPv6 address to its family; otherwise, as in Go, an unspecified address of either family
/// is all addresses of both.
pub(super) fn listen(address: SocketAddr, only: bool) -> io::Result<std::net::TcpListener> {
    if only || !address.ip().is_unspecified() {
        return bind(address, only);
    }
    let both = SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), address.port());
    match bind(both, false) {
        // Without IPv6 there is no such socket, or no such address.
        Err(error) if is_without_family(&error) && address.is_ipv4() => bind(address, false),
        result => result,
    }
}

fn is_without_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(address: SocketAddr, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // The last daemon's connections may still be about to end.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Answers until it is dropped; then connections end, too.
pub(super) async fn serve(listener: TcpListener, answers: Answers, guests: Guests) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => guests.add(connections.spawn(converse(stream, Arc::clone(&answers)))),
                Err(error) => {
                    warn!(%error, "could not accept a connection");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, answers: Answers) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = response(answers(request.uri().path()));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    builder.max_buf_size(HEAD).max_headers(HEAD_LINES).title_case_headers(true);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = match timeout(LIFE, connection.as_mut()).await {
        Ok(result) => result,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        debug!(%error, "a client of a server went away");
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let Answer { status, content_type, weight, body } = answer;
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(weight) = weight {
        headers.insert(WEIGHT, HeaderValue::from(weight));
    }
    response
}
