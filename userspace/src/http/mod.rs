//! The daemon's HTTP servers: probes at one address, metrics and the configuration at another, and load balancers' questions at
//! the ports of their Services. As kube-proxy answers; `docs/health.md` says what differs.
//!
//! They have a thread of their own and read what the loop has said: they answer, and answer truly, while it hangs.

mod answer;
mod health;
mod node_port;
mod server;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use self::answer::Answer;
use self::health::Look;
use self::server::{Answers, Guests, listen, serve};
use crate::metrics::{CONTENT_TYPE, Metrics, Probe};
use crate::reconcile::outlet::{Checks, Clock, Inlet, Pulse};
use crate::settings::listen::Listen;
use crate::settings::{Effective, print};

/// How often an address at which nobody could listen is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What the configuration calls itself where it is shown.
const CONFIG_KEY: &str = "kubeproxy.config.k8s.io";

/// What the loop has said, for those who answer.
#[derive(Clone, Debug)]
struct View {
    clock: Clock,
    pulse: watch::Receiver<Pulse>,
    checks: watch::Receiver<Checks>,
    patience: Duration,
}

/// A server that should be there.
struct Wanted {
    address: SocketAddr,
    field: &'static str,
    flag: &'static str,
    answers: Answers,
}

/// Starts all servers, and leaves them running until the process ends; says which cannot listen yet, and why. An error is a
/// socket that must be had and cannot.
pub fn start(effective: &Effective, inlet: Inlet, metrics: &Arc<Metrics>) -> anyhow::Result<Vec<String>> {
    let Listen { healthz, metrics: at, hard_fail, patience } = effective.listen;
    let Inlet { clock, pulse, checks, problems } = inlet;
    let view = View { clock, pulse, checks, patience };
    let health = healthz.map(|address| Wanted {
        address,
        field: "healthzBindAddress",
        flag: "--healthz-bind-address",
        answers: health_answers(view.clone(), Arc::clone(metrics)),
    });
    let metrics = at.map(|address| Wanted {
        address,
        field: "metricsBindAddress",
        flag: "--metrics-bind-address",
        answers: metrics_answers(effective, Arc::clone(metrics)),
    });
    let servers = health.into_iter().chain(metrics).map(|wanted| wanted.begin(hard_fail));
    let servers = servers.collect::<anyhow::Result<Vec<_>>>()?;
    let late = servers.iter().filter_map(|(wanted, found)| Some(wanted.complaint(found.as_ref().err()?)));
    let late = late.collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let all = async move {
        let ports = tokio::spawn(node_port::keep(view, problems));
        let servers: Vec<_> =
            servers.into_iter().map(|(wanted, found)| tokio::spawn(wanted.keep(found.ok()))).collect();
        for task in servers.into_iter().chain([ports]) {
            let _ = task.await;
        }
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(move || runtime.block_on(all))?;
    Ok(late)
}

impl Wanted {
    /// Listens, if that can be had at once.
    fn begin(self, hard_fail: bool) -> anyhow::Result<(Self, io::Result<std::net::TcpListener>)> {
        let found = listen(self.address, false);
        match &found {
            Ok(_) => {}
            Err(error) if hard_fail => anyhow::bail!("{}; bindAddressHardFail is set", self.complaint(error)),
            Err(error) => {
                let (address, field) = (self.address, self.field);
                warn!(%error, %address, field, retry_in = ?AGAIN, "could not listen");
            }
        }
        Ok((self, found))
    }

    fn complaint(&self, error: &io::Error) -> String {
        format!("{self}: could not listen: {error}")
    }

    /// Answers, as soon as it can listen.
    async fn keep(self, mut found: Option<std::net::TcpListener>) {
        let listener = loop {
            if let Some(Ok(listener)) = found.take().map(TcpListener::from_std) {
                break listener;
            }
            sleep(AGAIN).await;
            found = listen(self.address, false).ok();
        };
        info!(address = %self.address, field = self.field, "listening");
        serve(listener, self.answers, Guests::default()).await;
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, field, flag, answers: _ } = self;
        write!(out, "{field} ({flag}) {address}")
    }
}

impl View {
    fn look(&self) -> Look {
        Look { pulse: self.pulse.borrow().clone(), now: self.clock.now(), patience: self.patience }
    }
}

fn health_answers(view: View, metrics: Arc<Metrics>) -> Answers {
    let counted = move |probe, answer: Answer| {
        metrics.probed(probe, answer.status);
        answer
    };
    Arc::new(move |path| match path {
        "/healthz" => counted(Probe::Healthz, view.look().healthz()),
        "/livez" => counted(Probe::Livez, view.look().livez()),
        "/readyz" => view.look().readyz(),
        _ => Answer::missing(),
    })
}

fn metrics_answers(effective: &Effective, metrics: Arc<Metrics>) -> Answers {
    let mode = effective.fields.text("mode").to_owned();
    let config = json!({ CONFIG_KEY: print::file(&effective.fields) });
    let pings = AtomicU64::new(0);
    Arc::new(move |path| match path {
        "/healthz" => {
            pings.fetch_add(1, Ordering::Relaxed);
            Answer::text("ok")
        }
        "/proxyMode" => Answer::text(&*mode),
        "/configz" => Answer::json(&config),
        "/metrics" => match metrics.text() {
            Ok(text) => Answer::metrics(text, CONTENT_TYPE),
            Err(error) => Answer::failed(error),
        },
        "/metrics/slis" => Answer::metrics(slis(pings.load(Ordering::Relaxed)), CONTENT_TYPE),
        _ => Answer::missing(),
    })
}

/// How often this server's `/healthz` has been asked and, as it answered, was well; nothing before the first time.
fn slis(pings: u64) -> String {
    if pings == 0 {
        return String::new();
    }
    format!(
        "# HELP kubernetes_healthcheck Whether the last check of this server's own health went well.\n\
         # TYPE kubernetes_healthcheck gauge\n\
         kubernetes_healthcheck{{name=\"ping\",type=\"healthz\"}} 1\n\
         # HELP kubernetes_healthchecks_total How often it has been checked, by result.\n\
         # TYPE kubernetes_healthchecks_total counter\n\
         kubernetes_healthchecks_total{{name=\"ping\",status=\"success\",type=\"healthz\"}} {pings}\n"
    )
}
