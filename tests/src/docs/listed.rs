//! Commands of the pages that are not run, or that do not end with 0; by page and exact text, comments left out.

use super::Command;

/// A command that cannot run in a test.
#[derive(Debug)]
pub struct NotRun {
    /// The page.
    pub page: &'static str,
    /// Its text.
    pub command: &'static str,
    /// Why not.
    pub why: &'static str,
}

/// A command that ends with another code than 0.
#[derive(Debug)]
pub struct EndsWith {
    /// The page.
    pub page: &'static str,
    /// Its text.
    pub command: &'static str,
    /// Its exit code here.
    pub code: i32,
}

const KUBELET: &str = "needs a kubelet that runs the pods; tests/cluster/container.rs runs the container";
const HELM: &str =
    "Helm's program is not built; tests/cluster/deploy.rs renders the chart with Helm's engine";
const RUNTIME: &str =
    "needs a container runtime's service; tests/cluster/container.rs unpacks and runs the image";

/// Those that are not run.
pub const NOT_RUN: &[NotRun] = &[
    NotRun {
        page: "docs/install.md",
        command: "ctr --namespace k8s.io images import sluice-0.1.0-amd64.oci.tar",
        why: RUNTIME,
    },
    NotRun {
        page: "docs/install.md",
        command: "podman load --input sluice-0.1.0-amd64.oci.tar",
        why: RUNTIME,
    },
    NotRun {
        page: "docs/install.md",
        command: "kubectl -n kube-system rollout status daemonset/sluice",
        why: KUBELET,
    },
    NotRun {
        page: "docs/install.md",
        command: "kubectl -n kube-system exec daemonset/sluice -- sluice status",
        why: KUBELET,
    },
    NotRun {
        page: "docs/install.md",
        command: "kubectl -n kube-system logs --selector app.kubernetes.io/name=sluice --prefix",
        why: KUBELET,
    },
    NotRun {
        page: "docs/install.md",
        command: "helm install sluice deploy/chart --namespace kube-system --set apiServer.host=203.0.113.10 --set image.repository=registry.example/sluice",
        why: HELM,
    },
    NotRun {
        page: "docs/install.md",
        command: "helm upgrade sluice deploy/chart --namespace kube-system --reuse-values --set cleanup=true",
        why: HELM,
    },
    NotRun { page: "docs/install.md", command: "helm uninstall sluice --namespace kube-system", why: HELM },
];

/// Those that end otherwise.
pub const ENDS_WITH: &[EndsWith] = &[
    // The folders differ, which is what that command shows.
    EndsWith {
        page: "docs/plan.md",
        command: "sluice plan --source changed/ --node n1 -o json | diff before -",
        code: 1,
    },
    // The daemon of that page follows the API server, which has a Service `kubernetes`.
    EndsWith { page: "docs/tool.md", command: "sluice diff --source DIR --node n1 -o json", code: 1 },
];

/// Why a command is not run.
pub fn reason(command: &Command) -> Option<&'static str> {
    let entry = NOT_RUN.iter().find(|entry| entry.page == command.page && entry.command == command.text);
    entry.map(|entry| entry.why)
}

/// How a command ends.
pub fn code(command: &Command) -> i32 {
    let entry = ENDS_WITH.iter().find(|entry| entry.page == command.page && entry.command == command.text);
    entry.map_or(0, |entry| entry.code)
}
