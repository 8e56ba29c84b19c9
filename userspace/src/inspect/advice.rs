//! What an operator can do next about an error.

use std::io::ErrorKind;
use std::path::Path;

use crate::backend::BackendError;

/// What may not be done without privilege.
const ROOT: &str =
    "reading what the kernel has takes root (or CAP_BPF and CAP_NET_ADMIN): try again with sudo";

/// A sentence for an error that somebody without privilege gets; nothing for others, which say it themselves.
pub fn next(error: &anyhow::Error) -> Option<&'static str> {
    let denied = |kind| kind == ErrorKind::PermissionDenied;
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    let is_denied = io.map(std::io::Error::kind).any(denied);
    let is_kernels = error.chain().any(|cause| cause.downcast_ref::<BackendError>().is_some());
    (is_denied && is_kernels).then_some(ROOT)
}

/// What it means that no daemon answers.
pub fn silent(socket: &Path, error: &std::io::Error) -> String {
    let place = socket.display();
    let kind = error.kind();
    if kind == ErrorKind::NotFound {
        format!(
            "no daemon answers: there is no socket {place}. Is it running (`sluice run`)? If it has another --socket, name that"
        )
    } else if kind == ErrorKind::ConnectionRefused {
        format!(
            "no daemon answers on {place}: the one that made this socket has ended. Start it again (`sluice run`)"
        )
    } else if kind == ErrorKind::PermissionDenied {
        format!("may not ask the daemon on {place}: its socket is for root. Try again with sudo")
    } else {
        format!("no daemon answers on {place}: {error}")
    }
}

/// What it means that nothing is there.
pub fn nothing(pin_dir: &Path) -> String {
    format!(
        "nothing is installed here: no pins below {}, no tables of ours. Has a daemon run on this node (`sluice run`), with another --pin-dir?",
        pin_dir.display()
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn who_lacks_privilege_is_told_so_and_nobody_else() {
        let of = |kind| {
            anyhow::Error::new(BackendError::Map { deed: "read", map: "META", source: io::Error::from(kind) })
        };
        assert_eq!(next(&of(ErrorKind::PermissionDenied)), Some(ROOT));
        assert_eq!(next(&of(ErrorKind::NotFound)), None);
        let ours =
            anyhow::Error::new(io::Error::from(ErrorKind::PermissionDenied)).context("could not write x.1");
        assert_eq!(next(&ours), None, "a file of the operator's own");
    }

    #[test]
    fn a_silent_socket_is_told_by_its_kind() {
        for (kind, part) in [
            (ErrorKind::NotFound, "Is it running"),
            (ErrorKind::ConnectionRefused, "has ended"),
            (ErrorKind::PermissionDenied, "sudo"),
            (ErrorKind::TimedOut, "timed out"),
        ] {
            let said = silent(Path::new("/run/s"), &io::Error::from(kind));
            assert!(said.contains(part) && said.contains("/run/s"), "{said}");
        }
    }
}
