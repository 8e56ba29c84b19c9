//! Which room may speak of what. The table stands in for a package a room.

use super::Complaint;
use super::paths::{self, Mention};
use super::source;

/// A folder or file, and what its code may not name.
struct Room {
    /// The beginning of the files' names.
    within: &'static str,
    /// Of those, only the files that end so.
    only: &'static str,
    /// But not these.
    except: &'static [&'static str],
    forbidden: &'static [&'static str],
    /// Keywords, macros and methods that may not stand here.
    words: &'static [&'static str],
    /// Exceptions from what is forbidden.
    allowed: &'static [&'static str],
    because: &'static str,
}

const ROOM: Room =
    Room { within: "", only: "", except: &[], forbidden: &[], words: &[], allowed: &[], because: "" };

/// What waits, watches a clock, or asks the machine. A length of time is a plain value.
const WAITING: &[&str] = &[
    "tokio",
    "futures",
    "kube",
    "aya",
    "nftables",
    "tracing",
    "inotify",
    "libc",
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
];

const ROOMS: &[Room] = &[
    Room {
        within: "dataplane-ebpf/src/abi/",
        forbidden: &["std", "alloc", "aya", "aya_ebpf", "crate::datapath", "crate::host", "crate::host_edge"],
        // `std` is there on the host only, where an address becomes an entry.
        allowed: &["aya::Pod", "std::net"],
        because: "abi is bytes that kernel and daemon agree on, and nothing else",
        ..ROOM
    },
    Room {
        within: "dataplane-ebpf/src/datapath/",
        forbidden: &["std", "alloc", "aya", "aya_ebpf", "crate::host", "crate::host_edge"],
        because: "the datapath asks through its traits only",
        ..ROOM
    },
    Room {
        within: "dataplane-ebpf/src/datapath/",
        words: &["unsafe", "loop", "while", "panic", "unwrap", "expect", "format", "todo"],
        because: "the verifier must be able to bound the datapath, and nothing in it may fail",
        ..ROOM
    },
    Room {
        within: "dataplane-ebpf/programs/",
        forbidden: &["std", "alloc", "dataplane_ebpf::host", "dataplane_ebpf::host_edge"],
        because: "programs run in the kernel",
        ..ROOM
    },
    Room { within: "userspace/src/model/", forbidden: WAITING, because: PURE, ..ROOM },
    Room { within: "userspace/src/desired/", forbidden: WAITING, because: PURE, ..ROOM },
    Room { within: "userspace/src/plan/", forbidden: WAITING, because: PURE, ..ROOM },
    Room { within: "userspace/src/backend/", only: "/image.rs", forbidden: WAITING, because: PURE, ..ROOM },
    Room { within: "userspace/src/backend/", only: "/books.rs", forbidden: WAITING, because: PURE, ..ROOM },
    Room { within: "userspace/src/backend/survey/finder.rs", forbidden: WAITING, because: PURE, ..ROOM },
    Room { within: "userspace/src/backend/survey/tallies.rs", forbidden: WAITING, because: PURE, ..ROOM },
    Room {
        within: "userspace/src/backend/nft/",
        except: &[
            "userspace/src/backend/nft/mod.rs",
            "userspace/src/backend/nft/audit.rs",
            "userspace/src/backend/nft/flows.rs",
            "userspace/src/backend/nft/handover.rs",
            "userspace/src/backend/nft/kernel.rs",
            "userspace/src/backend/nft/watch.rs",
            "userspace/src/backend/nft/wire/socket.rs",
        ],
        forbidden: WAITING,
        because: PURE,
        ..ROOM
    },
    Room {
        within: "userspace/src/backend/conntrack/",
        except: &[
            "userspace/src/backend/conntrack/mod.rs",
            "userspace/src/backend/conntrack/socket.rs",
            "userspace/src/backend/conntrack/timeouts.rs",
            "userspace/src/backend/conntrack/usage.rs",
        ],
        forbidden: WAITING,
        because: PURE,
        ..ROOM
    },
    Room {
        within: "userspace/src/model/",
        except: &["userspace/src/model/parse.rs", "userspace/src/model/parse/"],
        forbidden: &["k8s_openapi"],
        because: "only `parse` knows the API's objects",
        ..ROOM
    },
    Room {
        within: "userspace/src/model/",
        forbidden: &[
            "dataplane_ebpf",
            "crate::desired",
            "crate::plan",
            "crate::backend",
            "crate::source",
            "crate::reconcile",
            "crate::serve",
            "crate::inspect",
            "crate::config",
            "crate::settings",
        ],
        because: "the model is the cluster as typed facts and knows no other room",
        ..ROOM
    },
    Room {
        within: "userspace/src/desired/",
        forbidden: &[
            "dataplane_ebpf",
            "k8s_openapi",
            "crate::plan",
            "crate::backend",
            "crate::source",
            "crate::reconcile",
            "crate::serve",
            "crate::inspect",
            "crate::config",
            "crate::settings",
        ],
        because: "desired does not know where facts come from nor how the kernel stores them",
        ..ROOM
    },
    Room {
        within: "userspace/src/settings/",
        except: &["userspace/src/settings/watch.rs"],
        forbidden: WAITING,
        because: PURE,
        ..ROOM
    },
    Room {
        within: "userspace/src/settings/",
        forbidden: &[
            "kube",
            "k8s_openapi",
            "crate::plan",
            "crate::backend",
            "crate::source",
            "crate::reconcile",
            "crate::serve",
            "crate::inspect",
            "crate::config",
        ],
        because: "settings turns text into decisions",
        ..ROOM
    },
    Room {
        within: "userspace/src/dry_run/",
        except: &[
            "userspace/src/dry_run/mod.rs",
            "userspace/src/dry_run/contract.rs",
            "userspace/src/dry_run/stories.rs",
        ],
        forbidden: WAITING,
        because: PURE,
        ..ROOM
    },
    Room {
        within: "userspace/src/dry_run/",
        forbidden: &[
            "dataplane_ebpf",
            "k8s_openapi",
            "crate::plan",
            "crate::backend",
            "crate::reconcile",
            "crate::serve",
        ],
        because: "a dry run ends where the kernel begins",
        ..ROOM
    },
    Room { within: "userspace/src/explain/", forbidden: WAITING, because: PURE, ..ROOM },
    Room {
        within: "userspace/src/explain/",
        forbidden: &[
            "dataplane_ebpf",
            "k8s_openapi",
            "crate::plan",
            "crate::backend",
            "crate::source",
            "crate::reconcile",
            "crate::serve",
            "crate::inspect",
            "crate::config",
        ],
        because: "reasons follow from facts and decisions, not from what the kernel has",
        ..ROOM
    },
    Room { within: "userspace/src/drain/", forbidden: WAITING, because: PURE, ..ROOM },
    Room {
        within: "userspace/src/drain/",
        forbidden: &[
            "dataplane_ebpf",
            "k8s_openapi",
            "crate::plan",
            "crate::backend",
            "crate::source",
            "crate::reconcile",
            "crate::serve",
            "crate::inspect",
            "crate::config",
        ],
        because: "the memory of who left is fed by the loop, and by whoever counts flows",
        ..ROOM
    },
    Room {
        within: "userspace/src/plan/",
        forbidden: &["dataplane_ebpf", "k8s_openapi", "crate"],
        allowed: &["crate::plan"],
        because: "a plan is made of ordered maps of anything",
        ..ROOM
    },
    Room {
        within: "userspace/src/backend/",
        forbidden: &[
            "kube",
            "k8s_openapi",
            "tokio",
            "crate::model",
            "crate::source",
            "crate::reconcile",
            "crate::serve",
            "crate::inspect",
            "crate::config",
        ],
        allowed: &[
            "crate::model::name",
            "crate::model::ServiceName",
            "crate::model::ServicePortName",
            "crate::model::Protocol",
            "crate::model::Family",
            "crate::model::ObjectRef",
            "crate::model::Problem",
        ],
        because: "a backend carries out plans; of the model it knows names and problems only",
        ..ROOM
    },
    Room {
        within: "userspace/src/source/",
        forbidden: &[
            "aya",
            "dataplane_ebpf",
            "crate::desired",
            "crate::plan",
            "crate::backend",
            "crate::reconcile",
            "crate::serve",
            "crate::inspect",
        ],
        because: "a source brings changes and does not know what becomes of them",
        ..ROOM
    },
    Room {
        within: "userspace/src/reconcile",
        forbidden: &[
            "aya",
            "kube",
            "k8s_openapi",
            "libc",
            "std::fs",
            "crate::serve",
            "crate::http",
            "crate::inspect",
        ],
        // What the loop publishes after each pass.
        allowed: &["crate::inspect::status"],
        because: "the loop reaches the kernel through `backend` and the API through `source`",
        ..ROOM
    },
    Room {
        within: "userspace/src/serve",
        forbidden: &["aya", "kube", "k8s_openapi", "crate::source", "crate::desired", "crate::plan"],
        because: "serve reads snapshots",
        ..ROOM
    },
    Room {
        within: "userspace/src/http/",
        forbidden: &[
            "aya",
            "kube",
            "k8s_openapi",
            "crate::source",
            "crate::plan",
            "crate::backend",
            "crate::serve",
        ],
        because: "the servers read what the loop has said",
        ..ROOM
    },
    Room { within: "userspace/src/http/", only: "/health.rs", forbidden: WAITING, because: PURE, ..ROOM },
    Room { within: "userspace/src/http/", only: "/answer.rs", forbidden: WAITING, because: PURE, ..ROOM },
    Room {
        within: "userspace/src/inspect",
        forbidden: &["kube", "k8s_openapi", "crate::source", "crate::desired", "crate::plan"],
        because: "inspect reads snapshots and pinned maps",
        ..ROOM
    },
    Room {
        within: "tests/",
        forbidden: &["sluice"],
        because: "the lab knows the daemon as a process",
        ..ROOM
    },
    Room {
        within: "deploy/image/src/",
        except: &["deploy/image/src/main.rs"],
        forbidden: WAITING,
        // Into memory.
        allowed: &["std::io::Write"],
        because: PURE,
        ..ROOM
    },
];

const PURE: &str = "this room is pure: what it needs of clock, chance and machine is handed in";

/// Complaints about one Rust file.
pub(super) fn judge(file: &str, text: &str) -> Vec<Complaint> {
    let rooms: Vec<&Room> = ROOMS.iter().filter(|room| room.holds(file)).collect();
    if rooms.is_empty() {
        return Vec::new();
    }
    let code = source::code(text);
    let mentions = paths::mentioned(source::without_tests(&code), &module(file));
    let all = mentions.iter().flat_map(|mention| rooms.iter().map(move |room| (*room, mention)));
    let mut found: Vec<Complaint> = all.filter_map(|(room, mention)| room.complaint(file, mention)).collect();
    found.dedup();
    found
}

impl Room {
    fn holds(&self, file: &str) -> bool {
        let tests = file.ends_with("/tests.rs") && !self.within.starts_with("tests/");
        file.starts_with(self.within)
            && file.ends_with(self.only)
            && !tests
            && !self.except.iter().any(|except| file.starts_with(except))
    }

    fn complaint(&self, file: &str, mention: &Mention) -> Option<Complaint> {
        let Mention { line, path, lone } = mention;
        let named = |list: &[&str]| list.iter().any(|entry| is_below(path, entry));
        let wrong = match lone {
            true => self.words.contains(&path.as_str()),
            false => named(self.forbidden) && !named(self.allowed),
        };
        if !wrong {
            return None;
        }
        let text = format!("`{path}` may not be named here: {}", self.because);
        Some(Complaint { file: file.to_owned(), line: *line, text })
    }
}

fn is_below(path: &str, entry: &str) -> bool {
    path.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `userspace/src/model/parse.rs` is `crate::model::parse`.
fn module(file: &str) -> String {
    let inside = file.split_once("/src/").map_or(file, |(_, inside)| inside);
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let steps = inside.split('/').filter(|step| !["mod", "lib", "main"].contains(step));
    std::iter::once("crate").chain(steps).collect::<Vec<_>>().join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fine(file: &str, text: &str) {
        assert_eq!(judge(file, text), [], "{text}");
    }

    #[track_caller]
    fn wrong(file: &str, text: &str, part: &str) {
        let found = judge(file, text);
        assert!(found.iter().any(|complaint| complaint.text.contains(part)), "{text}: {found:?}");
    }

    #[test]
    fn the_model_does_not_wait_and_knows_no_other_room() {
        fine("userspace/src/model/service.rs", "use std::net::IpAddr;\nuse super::name::ServiceName;");
        fine("userspace/src/model/service.rs", "use std::time::Duration;");
        wrong("userspace/src/model/service.rs", "use std::{fmt, time::Instant};", "Instant");
        wrong("userspace/src/model/service.rs", "fn f() { tracing::info!(x) }", "tracing");
        wrong("userspace/src/model/service.rs", "use super::super::backend::Backend;", "backend");
    }

    #[test]
    fn only_parse_knows_the_objects_of_the_api() {
        fine("userspace/src/model/parse.rs", "use k8s_openapi::api::core::v1;");
        wrong("userspace/src/model/cluster.rs", "use k8s_openapi::api::core::v1;", "k8s_openapi");
    }

    #[test]
    fn a_backend_knows_names_of_the_model_only() {
        fine("userspace/src/backend/mod.rs", "use crate::model::{ServiceName, ServicePortName};");
        wrong("userspace/src/backend/mod.rs", "use crate::model::{ServiceName, Cluster};", "Cluster");
    }

    #[test]
    fn an_image_is_pure_and_its_neighbours_need_not_be() {
        fine("userspace/src/backend/ebpf/pins.rs", "use std::fs;");
        wrong("userspace/src/backend/ebpf/image.rs", "use std::fs;", "std::fs");
    }

    #[test]
    fn who_decides_which_flows_are_stale_does_not_speak_to_the_kernel() {
        fine("userspace/src/backend/conntrack/socket.rs", "use std::io;");
        wrong("userspace/src/backend/conntrack/stale.rs", "use std::io;", "std::io");
    }

    #[test]
    fn the_abi_names_the_outside_only_to_call_itself_plain() {
        fine("dataplane-ebpf/src/abi/mod.rs", "unsafe impl aya::Pod for X {}");
        wrong("dataplane-ebpf/src/abi/mod.rs", "use aya::Ebpf;", "aya::Ebpf");
    }

    #[test]
    fn the_datapath_has_no_loop_without_a_bound() {
        fine("dataplane-ebpf/src/datapath/x.rs", "for i in 0..8 { }");
        wrong("dataplane-ebpf/src/datapath/x.rs", "while x { }", "while");
        wrong("dataplane-ebpf/src/datapath/x.rs", "x.unwrap()", "unwrap");
    }

    #[test]
    fn tests_and_words_in_strings_are_free() {
        fine("userspace/src/plan/ids.rs", "const X: &str = \"tokio::x\"; // kube::y\n");
        fine("userspace/src/plan/ids.rs", "#[cfg(test)]\nmod tests { use tokio::x; }");
    }

    #[test]
    fn the_lab_does_not_link_the_daemon() {
        fine("tests/src/daemon.rs", "let sluice = 3;");
        fine("userspace/src/plan/ids.rs", "let kube = 3;");
        wrong("tests/src/daemon.rs", "use sluice::model::Cluster;", "sluice");
    }
}
