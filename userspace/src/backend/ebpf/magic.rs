//! Which file system a path is on.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The bpf file system (`BPF_FS_MAGIC`, include/uapi/linux/magic.h).
pub(in crate::backend) const BPF: i64 = 0xcafe_4a11;
/// The cgroup v2 tree (`CGROUP2_SUPER_MAGIC`, same header).
pub(in crate::backend) const CGROUP2: i64 = 0x6367_7270;

/// Whether `path` is on the file system with this `f_type`.
pub(in crate::backend) fn is_on(path: &Path, magic: i64) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: statfs is a plain C structure for which all zero is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and the structure is ours; both outlive the call.
    let result = unsafe { libc::statfs(path.as_ptr(), &mut stat) };
    result == 0 && stat.f_type == magic
}
