//! A network namespace that lasts as long as what is done in it.

use std::panic::resume_unwind;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Does something in an empty network namespace, on a thread of its own. The namespace ends with the thread.
pub(crate) fn inside<T: Send>(deed: impl FnOnce() -> T + Send) -> T {
    let there = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
        deed()
    };
    thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
