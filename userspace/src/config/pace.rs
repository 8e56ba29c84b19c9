//! Watches that end as soon as they have begun are begun anew more and more slowly.
//!
//! A server that takes a watch and closes it at once (one that is overloaded, or a balancer before servers that come and go) is no
//! error to kube's watcher, which asks again in the same moment; so would every node of a cluster. client-go takes such a watch
//! ("very short watch") for a failure, and waits as after one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::Request;
use tokio::time::{Instant, sleep_until};
use tower::{Service, ServiceExt as _};

/// A watch that has lasted so long was one.
const LASTED: Duration = Duration::from_secs(10);
/// The second watch in a row that did not last is followed by a pause of this to its double; each further one by twice as much.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause is from this to its double.
const LONGEST: Duration = Duration::from_secs(5);

/// A client whose watches keep their distance.
#[derive(Clone, Debug)]
pub(super) struct Paced<S> {
    client: S,
    watches: Arc<Mutex<BTreeMap<String, Begun>>>,
}

/// When a watch began, or will, and how many before it did not last.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    short: u32,
}

impl<S> Paced<S> {
    pub(super) fn new(client: S) -> Self {
        Self { client, watches: Arc::default() }
    }

    /// When a watch of what is at `path` may begin.
    fn turn(&self, path: &str) -> Instant {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next(watches.get(path).copied(), Instant::now(), fastrand::f64());
        watches.insert(path.to_owned(), next);
        next.at
    }
}

/// The watch after `last`, if somebody wants one now. `chance` is from zero to one.
fn next(last: Option<Begun>, now: Instant, chance: f64) -> Begun {
    let Some(Begun { at, short }) = last.filter(|last| now < last.at + LASTED) else {
        return Begun { at: now, short: 0 };
    };
    let pause = match short {
        // A server that restarts ends a watch that has just begun, once.
        0 => Duration::ZERO,
        more => FIRST.saturating_mul(1 << (more - 1).min(16)).min(LONGEST).mul_f64(1.0 + chance),
    };
    Begun { at: now.max(at + pause), short: short.saturating_add(1) }
}

impl<S, B> Service<Request<B>> for Paced<S>
where
    S: Service<Request<B>, Future: Send> + Clone + Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // Whether the client is ready is asked when it is its turn.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.client.clone();
        let uri = request.uri();
        let is_watch = uri.query().is_some_and(|query| query.split('&').any(|one| one == "watch=true"));
        let turn = is_watch.then(|| self.turn(uri.path()));
        async move {
            if let Some(turn) = turn {
                sleep_until(turn).await;
            }
            client.oneshot(request).await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::service_fn;

    use super::*;

    /// How long each of these watches waits that end after `lasts`, with the shortest or the longest pauses.
    fn pauses(lasts: Duration, chance: f64) -> Vec<Duration> {
        let mut now = Instant::now();
        let mut last = None;
        let mut step = || {
            let begun = next(last, now, chance);
            let waited = begun.at - now;
            (last, now) = (Some(begun), begun.at + lasts);
            waited
        };
        (0..8).map(|_| step()).collect()
    }

    #[test]
    fn watches_that_do_not_last_wait_longer_and_longer_and_others_do_not() {
        let millis = |chance| {
            pauses(Duration::from_millis(100), chance).iter().map(Duration::as_millis).collect::<Vec<_>>()
        };
        assert_eq!(millis(0.0), [0, 0, 400, 900, 1900, 3900, 4900, 4900]);
        assert_eq!(millis(1.0), [0, 0, 900, 1900, 3900, 7900, 9900, 9900]);
        assert_eq!(pauses(LASTED, 1.0), [Duration::ZERO; 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_watches_of_the_same_objects_keep_a_distance() {
        let client = service_fn(async |_: Request<()>| Ok::<_, Infallible>(()));
        let paced = Paced::new(client);
        let ask = async |uri: &str| {
            let begun = Instant::now();
            let request = Request::builder().uri(uri).body(()).unwrap();
            paced.clone().oneshot(request).await.unwrap();
            begun.elapsed()
        };
        for _ in 0..5 {
            assert_eq!(ask("http://server/api/v1/services?limit=500").await, Duration::ZERO);
        }
        for uri in ["http://server/api/v1/services?watch=true", "http://server/api/v1/nodes?a=b&watch=true"] {
            assert_eq!((ask(uri).await, ask(uri).await), (Duration::ZERO, Duration::ZERO));
            assert!(ask(uri).await >= FIRST, "{uri}");
        }
    }
}
