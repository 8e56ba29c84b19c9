//! What the daemon needs of the kernel, said before it is missed; and its place when memory runs out.

use std::{fs, io};

/// A capability, by number and by name (include/uapi/linux/capability.h).
struct Capability {
    bit: u32,
    name: &'static str,
    why: &'static str,
}

const BPF: u32 = 39;
const PERFMON: u32 = 38;

const NEEDED: [Capability; 3] = [
    Capability { bit: BPF, name: "CAP_BPF", why: "to load programs and maps" },
    Capability { bit: PERFMON, name: "CAP_PERFMON", why: "to load programs that copy addresses in loops" },
    Capability {
        bit: 12,
        name: "CAP_NET_ADMIN",
        why: "to attach programs to the cgroup's socket hooks, and to program nftables",
    },
];

/// Includes CAP_BPF and CAP_PERFMON (kernel commits 2c78ee898d8f and 980737282232).
const SYS_ADMIN: u32 = 21;

/// Each capability that is needed for anything: its name, what for, and whether this process has it.
pub fn needed() -> Vec<(&'static str, &'static str, bool)> {
    let set = own();
    NEEDED.iter().map(|capability| (capability.name, capability.why, capability.is_in(set))).collect()
}

/// Whether this process may mount file systems.
pub fn may_mount() -> bool {
    own() & (1 << SYS_ADMIN) != 0
}

/// One sentence for each capability that this process lacks; empty if it has all.
pub fn missing() -> Vec<String> {
    missing_in(own())
}

/// The same for a daemon that may do without eBPF.
pub fn missing_for_nftables() -> Vec<String> {
    missing().into_iter().filter(|sentence| sentence.starts_with("CAP_NET_ADMIN")).collect()
}

/// How readily the kernel ends this process when memory runs out; a lower score than before needs CAP_SYS_RESOURCE.
pub fn set_oom_score(score: i32) -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    if fs::read_to_string(FILE)?.trim() == score.to_string() {
        return Ok(());
    }
    fs::write(FILE, score.to_string())
}

impl Capability {
    fn is_in(&self, set: u64) -> bool {
        let has = |bit: u32| set & (1 << bit) != 0;
        has(self.bit) || ([BPF, PERFMON].contains(&self.bit) && has(SYS_ADMIN))
    }
}

/// What this process may do; everything, if that cannot be told: the kernel will say.
fn own() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status).unwrap_or(u64::MAX)
}

/// The effective set, from /proc/self/status.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_in(set: u64) -> Vec<String> {
    let sentence = |capability: &Capability| {
        let Capability { bit: _, name, why } = capability;
        format!(
            "{name} is missing: it is needed {why}; run as root, or add it (securityContext.capabilities.add)"
        )
    };
    NEEDED.iter().filter(|capability| !capability.is_in(set)).map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::{effective, missing_in};

    #[test]
    fn each_missing_capability_is_named() {
        assert_eq!(missing_in(1 << 39 | 1 << 38 | 1 << 12), Vec::<String>::new());
        let missing = missing_in(1 << 38 | 1 << 12);
        assert!(missing.len() == 1 && missing.iter().all(|line| line.contains("CAP_BPF")), "{missing:?}");
        assert_eq!(missing_in(0).len(), 3);
    }

    #[test]
    fn sys_admin_includes_bpf_and_perfmon() {
        assert_eq!(missing_in(1 << 21 | 1 << 12), Vec::<String>::new());
    }

    #[test]
    fn the_effective_set_is_read_from_the_status_file() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000001000\n"), Some(0x1000));
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
