//! Network namespaces without a name: one lives as long as somebody holds it open or runs in it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, held open.
#[derive(Clone, Debug)]
pub struct Netns(Arc<OwnedFd>);

impl Netns {
    /// Makes an empty one, with its loopback up and the settings every place of the lab wants.
    pub fn new() -> Result<Self> {
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("could not make a network namespace (are you root?)")?;
            let file = File::open("/proc/thread-self/ns/net").context("could not open the new namespace")?;
            Ok(Self(Arc::new(file.into())))
        })?;
        made.run(settle)?;
        crate::link::batch(&made, "link set lo up\n")?;
        Ok(made)
    }

    /// Moves the calling thread in, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("could not enter a network namespace")
    }

    /// Does something inside, on a thread of its own.
    pub fn run<T: Send>(&self, deed: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            self.enter()?;
            deed()
        })
    }

    /// A name for `ip link ... netns NAME` that other processes can open while this one lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn on_a_thread<T: Send>(deed: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(deed).join().map_err(|_| anyhow!("a thread of the lab panicked"))?)
}

/// What every namespace of the lab is set to. TIME_WAIT sockets are not kept: the same client ports reach the same
/// endpoint through a service and directly, and the next SYN would wait a second for its timestamp to be accepted.
const SETTINGS: [(&str, &str); 9] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/tcp_max_tw_buckets", "0"),
    ("net/ipv4/ip_local_port_range", "10000 65000"),
];

fn settle() -> Result<()> {
    for (name, value) in SETTINGS {
        std::fs::write(format!("/proc/sys/{name}"), value)
            .with_context(|| format!("could not set {name}"))?;
    }
    Ok(())
}
