//! What most tests of this ring stand on: one node, one client, a folder of manifests and a dual-stack Service `web`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lab::agent::Answer;
use lab::manifest::{Service, Slice, State, file};
use lab::{Daemon, Lab, Manifests, Node, Pod, Server, Settings};

/// Cluster addresses of `web`.
pub(crate) const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
pub(crate) const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10));
/// Where clients ask for `web`.
pub(crate) const WEB4: SocketAddr = SocketAddr::new(V4, 80);
pub(crate) const WEB6: SocketAddr = SocketAddr::new(V6, 80);
/// Where its pods listen.
pub(crate) const PORT: u16 = 8080;

pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) node: Node,
    pub(crate) client: Pod,
    pub(crate) manifests: Manifests,
    arguments: &'static [&'static str],
}

/// A pod and its server.
pub(crate) struct Backend {
    pub(crate) pod: Pod,
    pub(crate) _server: Server,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let lab = Lab::new().expect("a lab");
        let node = lab.node("n1").expect("a node");
        let client = node.pod("client").expect("a pod");
        let manifests = Manifests::at(lab.folder().join("manifests")).expect("a folder");
        Self { lab, node, client, manifests, arguments: &[] }
    }

    /// For what only eBPF does, or does in its own way, whichever dataplane these tests are run with.
    pub(crate) fn of_ebpf() -> Self {
        Self { arguments: &["--dataplane=auto"], ..Self::new() }
    }

    /// Pods with servers, by name.
    pub(crate) fn backends(&self, names: &[&str]) -> Vec<Backend> {
        names.iter().map(|name| self.backend(name)).collect()
    }

    pub(crate) fn backend(&self, name: &str) -> Backend {
        let pod = self.node.pod(name).expect("a pod");
        Backend { _server: pod.serve(PORT).expect("a server"), pod }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::folder(self.manifests.folder()).with(self.arguments)
    }

    pub(crate) fn daemon(&self) -> Daemon {
        self.node.daemon(self.settings()).expect("a synced daemon")
    }

    /// Makes these the ready endpoints of `web`, and waits until the kernel has them.
    pub(crate) fn web(&self, ready: &[&Pod]) {
        self.web_with(ready, &[]);
    }

    /// The same with endpoints that end but still serve.
    pub(crate) fn web_with(&self, ready: &[&Pod], draining: &[&Pod]) {
        self.manifests.put("web.yaml", web(ready, draining)).expect("a manifest");
        let active = if ready.is_empty() { draining.len() } else { ready.len() };
        // Two protocols, two families.
        let count = u32::try_from(4 * active).expect("few pods");
        self.node.wait_endpoints("default", "web", count).expect("endpoints in the kernel");
    }
}

/// Pods of backends.
pub(crate) fn pods(backends: &[Backend]) -> Vec<&Pod> {
    backends.iter().map(|backend| &backend.pod).collect()
}

/// The Service `web` and its slices.
pub(crate) fn web(ready: &[&Pod], draining: &[&Pod]) -> String {
    web_as(
        |service| service,
        |slice, ip| {
            let slice = ready.iter().fold(slice, |slice, pod| slice.ready(ip(pod)).on(pod.node().name()));
            draining
                .iter()
                .fold(slice, |slice, pod| slice.endpoint(ip(pod), State::Draining).on(pod.node().name()))
        },
    )
}

/// `web` with more said of it: of the Service, and of the endpoints of each slice. The last argument of `endpoints`
/// gives a pod's address of the slice's family.
pub(crate) fn web_as(
    service: impl FnOnce(Service) -> Service,
    endpoints: impl Fn(Slice, &dyn Fn(&Pod) -> IpAddr) -> Slice,
) -> String {
    let plain = Service::new("web", &[V4, V6]).port("tcp", "TCP", 80).port("udp", "UDP", 80);
    let ports = |slice: Slice| slice.port("tcp", "TCP", PORT).port("udp", "UDP", PORT);
    let v4 = endpoints(ports(Slice::v4("web-4", "web")), &|pod| pod.v4().into());
    let v6 = endpoints(ports(Slice::v6("web-6", "web")), &|pod| pod.v6().into());
    file(&[service(plain).object(), v4.object(), v6.object()])
}

/// Addresses of pods, of both families.
pub(crate) fn addresses(pods: &[&Pod]) -> Vec<IpAddr> {
    pods.iter().flat_map(|pod| [IpAddr::V4(pod.v4()), IpAddr::V6(pod.v6())]).collect()
}

/// Which servers answered. Every call must have been answered.
pub(crate) fn names(answers: &[Answer]) -> BTreeSet<&str> {
    assert!(answers.iter().all(|answer| answer.ok), "{answers:?}");
    answers.iter().map(|answer| answer.name.as_str()).collect()
}
