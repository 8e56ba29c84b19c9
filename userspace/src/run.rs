//! `sluice run`: puts the parts together.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval, timeout};
use tracing::{error, info, warn};

use crate::backend::counts;
use crate::backend::dataplane::{self, Choice, Dataplane};
use crate::backend::ebpf;
use crate::backend::nft::Marks;
use crate::config::Run;
use crate::metrics::{Ledger, Metrics};
use crate::model::{Cluster, Origin};
use crate::notify::{Notice, Notices, Reason};
use crate::reconcile::{Inputs, Outputs, Reconciler, Surveyor, outlet};
use crate::settings::{Effective, print, watch};
use crate::source::{self, BACKLOG};
use crate::{http, privilege, serve};

pub use crate::config::{client as client_config, connect};

/// How long the end waits for the loop to finish what it is at. A pod is killed thirty seconds after it was asked to end, and the
/// next daemon can go on from any point.
const LAST_PASS: Duration = Duration::from_secs(3);

/// How often lost lines of the log are counted.
const LOST_LINES: Duration = Duration::from_secs(5);

/// Runs the daemon until a signal or a change of its configuration ends it. What is installed stays in force. `lost` tells how
/// many lines of the log have been lost.
pub async fn run(
    flags: &Run,
    effective: &Effective,
    lost: impl Fn() -> u64 + Send + 'static,
) -> anyhow::Result<()> {
    // Before anything slow: a signal from now on is a request to end.
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let (outlet, inlet) = outlet::pair();
    let metrics = Arc::new(Metrics::new().context("could not make the metrics")?);
    let deaf = http::start(effective, inlet, &metrics)?;
    tokio::spawn(count_lost_lines(Arc::clone(&metrics), lost));
    let backend = open(flags, effective)?;
    follow_counts(flags, &metrics)?;
    let (changes, received) = mpsc::channel(BACKLOG);
    let (ask, asks) = mpsc::channel(16);
    let (end, shutdown) = oneshot::channel();
    serve::start(&flags.socket.socket, ask, told(flags, effective))
        .with_context(|| format!("could not listen on {}", flags.socket.socket.display()))?;
    let (source, notices) = start_source(flags, effective, changes).await?;
    for complaint in deaf {
        let note = format!("{complaint}; it is tried again until it works");
        notices.give(Notice::of_node(true, Reason::Configuration, note));
    }
    info!(version = env!("CARGO_PKG_VERSION"), node = effective.node, source, "started");
    let inputs = Inputs { changes: received, asks, shutdown };
    let outputs = Outputs { metrics, notices };
    let surveyor = Surveyor::start(flags.pins.path()).context("could not start a thread")?;
    let loop_ = reconciler(flags, effective, backend, source, outputs)
        .telling(outlet)
        .surveying(surveyor)
        .auditing(flags.audit_interval());
    let mut running = tokio::spawn(loop_.run(inputs));
    let [terminate, interrupt] = &mut signals;
    let asked = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        () = reconfigured(effective) => false,
        ended = &mut running => {
            error!(?ended, "the loop ended by itself");
            bail!("the loop ended by itself");
        }
    };
    info!("ending; programs and maps stay in force");
    let _ = end.send(());
    match timeout(LAST_PASS, running).await {
        Ok(ended) => ended.context("the loop failed while ending")?,
        Err(_) => warn!(waited = ?LAST_PASS, "the loop is busy with the kernel; it is left there"),
    }
    // It may be gone already, with the directory it was in.
    let _ = std::fs::remove_file(&flags.socket.socket);
    if asked { Ok(()) } else { bail!("configuration changed; restarting to take it") }
}

/// For whoever asks what this daemon was told.
fn told(flags: &Run, effective: &Effective) -> serve::Settings {
    // Whoever asks may be in another directory.
    let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let mut configuration = print::file(&effective.fields);
    if let Some(kubeconfig) = &effective.kubeconfig {
        configuration["clientConnection"]["kubeconfig"] = whole(kubeconfig).display().to_string().into();
    }
    serve::Settings { node: effective.node.clone(), source: flags.source.as_ref().map(whole), configuration }
}

async fn count_lost_lines(metrics: Arc<Metrics>, lost: impl Fn() -> u64) {
    let mut ticks = interval(LOST_LINES);
    loop {
        ticks.tick().await;
        metrics.log_lines_lost(lost());
    }
}

/// How often what is counted for Services is read.
const COUNTS: Duration = Duration::from_secs(5);

fn follow_counts(flags: &Run, metrics: &Arc<Metrics>) -> anyhow::Result<()> {
    let (metrics, mut ledger) = (Arc::clone(metrics), Ledger::new(flags.service_metrics as usize));
    let tell = move |usage: &counts::Usage| {
        ledger.take(usage);
        metrics.set_services(&ledger);
    };
    counts::follow(flags.pins.path(), COUNTS, tell).context("could not start a thread")
}

fn reconciler(
    flags: &Run,
    effective: &Effective,
    backend: Dataplane,
    source: String,
    outputs: Outputs,
) -> Reconciler<Dataplane> {
    let origin = if flags.source.is_some() { Origin::Folder } else { Origin::Server };
    let cluster = Cluster::of_node(effective.node.as_str(), origin);
    Reconciler::new(backend, source, effective.settings.clone(), cluster, outputs)
}

/// Ends when the configuration file holds something else; never if there is none.
async fn reconfigured(effective: &Effective) {
    match &effective.file {
        Some(file) => {
            watch::changed(file).await;
            error!(file = %file.path.display(), "configuration changed; restarting to take it");
        }
        None => std::future::pending().await,
    }
}

fn open(flags: &Run, effective: &Effective) -> anyhow::Result<Dataplane> {
    let needed = if flags.dataplane == Choice::Ebpf {
        privilege::missing()
    } else {
        privilege::missing_for_nftables()
    };
    if !needed.is_empty() {
        bail!("{}", needed.join("\n"));
    }
    let settings = dataplane::Settings {
        choice: flags.dataplane,
        floor: flags.nftables,
        marks: Marks {
            masquerade: effective.masquerade_bit,
            notrack: flags.notrack_mark_bit,
            ports: flags.edge.ports_for_others(),
        },
        affinity_clients: flags.affinity_clients,
        pin_dir: flags.pins.path(),
        edge: None,
        ebpf: ebpf_settings(flags).map_err(|error| format!("{error:#}")),
    };
    let wanted = settings.ebpf.is_ok() && flags.dataplane != Choice::Nftables;
    let edge = flags.edge.settings(&settings.pin_dir, flags.services_capacity, flags.slots_capacity);
    if edge.is_some() && !wanted {
        const WHY: &str = "there is no edge layer without eBPF: nftables has the traffic from outside";
        if flags.edge.is_demanded() { warn!("{WHY}") } else { info!("{WHY}") }
    }
    let settings = dataplane::Settings { edge: edge.filter(|_| wanted), ..settings };
    Ok(Dataplane::open(settings)?)
}

/// Where eBPF is to be installed, or why it cannot be.
fn ebpf_settings(flags: &Run) -> anyhow::Result<ebpf::Settings> {
    let missing = privilege::missing();
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    let Some(cgroup) = flags.cgroup() else {
        bail!("no cgroup v2 tree is mounted; mount one, or name its directory with --cgroup");
    };
    if let Some(place) = flags.pins.mount_needed().filter(|_| flags.dataplane != Choice::Nftables) {
        mount_bpffs(place)?;
    }
    let settings = ebpf::Settings { cgroup, pin_dir: flags.pins.path(), capacity: flags.capacity() };
    info!(cgroup = %settings.cgroup.display(), pin_dir = %settings.pin_dir.display(), "opening the dataplane");
    Ok(settings)
}

async fn start_source(
    flags: &Run,
    effective: &Effective,
    changes: source::Changes,
) -> anyhow::Result<(String, Notices)> {
    if let Some(directory) = &flags.source {
        tokio::spawn(source::folder::follow(directory.clone(), changes));
        return Ok((format!("folder {}", directory.display()), Notices::default()));
    }
    let config = client_config(effective).await?;
    let name = format!("API server {}", config.cluster_url);
    let (client, node) = (connect(config)?, effective.node.clone());
    let notices = Notices::publish(client.clone(), node.clone());
    tokio::spawn(async move { source::watch::follow(client, &node, changes).await });
    Ok((name, notices))
}

/// Mounts a bpf file system where it belongs.
fn mount_bpffs(place: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(place)?;
    let target = CString::new(place.as_os_str().as_encoded_bytes())?;
    let kind = c"bpf".as_ptr();
    // SAFETY: all three are C strings that outlive the call; this file system takes no data.
    let result = unsafe { libc::mount(kind, target.as_ptr(), kind, 0, std::ptr::null()) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        bail!(
            "no bpf file system is mounted, and mounting one on {} failed: {error}; \
             mount it before (`mount -t bpf bpf {0}`) or name one with --pin-dir",
            place.display()
        );
    }
    info!(place = %place.display(), "mounted a bpf file system");
    Ok(())
}
