//! The hooks: which there are, and how a program gets behind one without a gap.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{magic, sys};
use crate::backend::BackendError;

/// One hook on the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program, and of the pinned link.
    pub name: &'static str,
    /// `enum bpf_attach_type`.
    attach_type: u32,
}

/// The hook at a socket's end (since 5.9): what is open is right only if each end is seen.
pub(super) const RELEASE: Hook = Hook { name: "sock_release", attach_type: 34 };

/// Every hook, in the order of attaching: whoever gets an answer translated back must find that ready before anything
/// is translated forth, and nothing is counted as open before its end is seen. Detaching goes the other way.
pub const HOOKS: [Hook; 9] = [
    RELEASE,
    Hook { name: "getpeername4", attach_type: 29 },
    Hook { name: "getpeername6", attach_type: 30 },
    Hook { name: "recvmsg4", attach_type: 19 },
    Hook { name: "recvmsg6", attach_type: 20 },
    Hook { name: "sendmsg4", attach_type: 14 },
    Hook { name: "sendmsg6", attach_type: 15 },
    Hook { name: "connect4", attach_type: 10 },
    Hook { name: "connect6", attach_type: 11 },
];

/// The cgroup the hooks hang on.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: File,
    id: u64,
}

impl Cgroup {
    pub(super) fn open(path: &Path) -> Result<Self, BackendError> {
        let failed = |source| BackendError::Cgroup { path: path.to_owned(), source };
        let directory = File::open(path).map_err(failed)?;
        if !magic::is_on(path, magic::CGROUP2) {
            return Err(BackendError::NotCgroup2(path.to_owned()));
        }
        // The id of a cgroup is the inode number of its directory (kernfs, since 5.5).
        let id = directory.metadata().map_err(failed)?.ino();
        Ok(Self { directory, id })
    }
}

/// The links, pinned in one directory under the names of their hooks.
#[derive(Debug)]
pub(super) struct Links {
    directory: PathBuf,
}

/// How a hook stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    /// Its name.
    pub hook: String,
    /// Whether a program hangs there.
    pub attached: bool,
    /// Id of that program (`bpftool prog show id`).
    pub program: Option<u32>,
}

impl Links {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Puts `program` behind the hook: an existing link is turned over to it in one step, else a new link is made.
    pub(super) fn put(
        &self,
        hook: &Hook,
        cgroup: &Cgroup,
        program: BorrowedFd<'_>,
    ) -> Result<(), BackendError> {
        let failed = |deed| move |source| BackendError::Link { deed, hook: hook.name, source };
        let path = self.directory.join(hook.name);
        match self.open(hook).map_err(failed("open"))? {
            Some(link) if self.fits(&link, cgroup) && sys::link_update(link.as_fd(), program).is_ok() => {
                Ok(())
            }
            old => {
                // A link of another cgroup, or of one that is gone: the new link first, then the old one's end.
                fs::create_dir_all(&self.directory).map_err(failed("make room for"))?;
                // No dot in the name: the bpf file system keeps those to itself.
                let draft = self.directory.join(format!("{}-new", hook.name));
                // Left by a daemon that died between pinning and renaming.
                let _ = fs::remove_file(&draft);
                let link = sys::link_create(program, cgroup.directory.as_fd(), hook.attach_type)
                    .map_err(failed("attach"))?;
                sys::pin(link.as_fd(), &draft).map_err(failed("pin"))?;
                drop(old);
                fs::rename(&draft, &path).map_err(failed("pin"))
            }
        }
    }

    fn fits(&self, link: &OwnedFd, cgroup: &Cgroup) -> bool {
        sys::link_info(link.as_fd()).is_ok_and(|info| info.cgroup == cgroup.id)
    }

    fn open(&self, hook: &Hook) -> io::Result<Option<OwnedFd>> {
        match sys::open(&self.directory.join(hook.name)) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How each hook stands, in the order of [`HOOKS`].
    pub(super) fn states(&self) -> Vec<HookState> {
        HOOKS.iter().map(|hook| self.state(hook)).collect()
    }

    /// How one hook stands.
    pub(super) fn state(&self, hook: &Hook) -> HookState {
        let link = self.open(hook).ok().flatten();
        let info = link.and_then(|link| sys::link_info(link.as_fd()).ok()).filter(|info| info.cgroup != 0);
        HookState {
            hook: hook.name.to_owned(),
            attached: info.is_some(),
            program: info.map(|info| info.program),
        }
    }
}
