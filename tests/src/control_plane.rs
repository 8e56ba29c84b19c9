//! A real control plane: etcd, kube-apiserver and kube-controller-manager, on the wire of a lab, without a way out.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::ByteString;
use kube::api::{GetParams, Request};
use nix::sys::signal::Signal;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::keeper::Keeper;
use crate::netns::Netns;
use crate::objects::Objects;
use crate::process::{Place, Process};
use crate::sandbox::Sandbox;
use crate::topology::Wire;
use crate::wait;

/// Where etcd answers, on the wire's own loopback.
const ETCD: &str = "127.0.0.1:2379";
/// Port of the API server, on the wire's address.
const PORT: u16 = 6443;
/// Token of a user who may do everything.
const ADMIN: &str = "admin-of-the-lab";
/// First address of the service range: the API server's own Service has it.
pub const KUBERNETES: &str = "10.96.0.1";
/// What makes slices and pods.
const CONTROLLERS: [&str; 4] = [
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "deployment-controller",
    "replicaset-controller",
];
/// How long a part may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The running parts. They end when this is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    keeper: Keeper<Parts>,
    wire: Wire,
    authority: Vec<u8>,
}

/// Lives on the keeper's thread.
#[derive(Debug)]
struct Parts {
    place: Place,
    folder: PathBuf,
    etcd: Process,
    server: Option<Process>,
    controllers: Option<Process>,
    scheduler: Option<Process>,
}

impl ControlPlane {
    /// Starts all of it on a wire of its own, and waits until the server is ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&CONTROLLERS)
    }

    /// The same with what gives DaemonSets their pods, and pods their nodes.
    pub fn start_with_daemon_sets() -> Result<Self> {
        let this = Self::start_with(&[&CONTROLLERS[..], &["daemonset-controller"]].concat())?;
        this.keeper.ask(Parts::start_scheduler)?;
        Ok(this)
    }

    fn start_with(controllers: &[&str]) -> Result<Self> {
        let controllers = controllers.join(",");
        let wire = Wire::new()?;
        let netns = wire.netns().clone();
        let keeper = Keeper::start(move || Parts::start(&netns))?;
        let authority = keeper.ask(|parts| Ok(fs::read(parts.folder.join("apiserver.crt"))?))?;
        let this = Self { keeper, wire, authority };
        this.wait_ready()?;
        let kubeconfig = this.kubeconfig(ADMIN);
        this.keeper.ask(move |parts| parts.start_controllers(&kubeconfig, &controllers))?;
        Ok(this)
    }

    /// What connects it with nodes.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// The certificate by which the server is known, as PEM.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// The port of the API server at [`Wire::V4`].
    pub const PORT: u16 = PORT;

    /// A kubeconfig for the bearer of a token.
    pub fn kubeconfig(&self, token: &str) -> String {
        let cluster = json!({
            "server": format!("https://{}:{PORT}", Wire::V4),
            "certificate-authority-data": ByteString(self.authority.clone()),
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "lab", "cluster": cluster }],
            "users": [{ "name": "user", "user": { "token": token } }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "user" } }],
            "current-context": "lab",
        });
        config.to_string()
    }

    /// A kubeconfig for somebody who may do everything.
    pub fn admin_kubeconfig(&self) -> String {
        self.kubeconfig(ADMIN)
    }

    /// Objects, as somebody sees them who may do everything.
    pub fn objects(&self) -> Objects {
        Objects::new(self.wire.netns(), self.admin_kubeconfig())
    }

    /// Kills the API server: its clients lose it without a word.
    pub fn stop_server(&self) -> Result<()> {
        self.keeper.ask(|parts| {
            let Some(mut server) = parts.server.take() else { return Ok(()) };
            server.signal(Signal::SIGKILL)?;
            server.end(PATIENCE).map(drop)
        })
    }

    /// Starts it again on what etcd kept, and waits until it is ready.
    pub fn start_server(&self) -> Result<()> {
        self.keeper.ask(Parts::start_server)?;
        self.wait_ready()
    }

    /// Moves etcd's clock on by a write that is nobody's object, and forgets everything before it. What a client has
    /// seen last is then too old to continue from.
    pub fn forget_the_past(&self) -> Result<()> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        self.wire.netns().run(|| {
            let put = etcd("kv/put", &json!({ "key": bytes("/lab/tick"), "value": bytes("tock") }))?;
            let revision = put["header"]["revision"].clone();
            etcd("kv/compaction", &json!({ "revision": revision, "physical": true })).map(drop)
        })
    }

    fn wait_ready(&self) -> Result<()> {
        let objects = self.objects();
        let is_ready = wait::until("the API server to be ready", PATIENCE, || {
            if let Some(log) = self.keeper.ask(Parts::death)? {
                return Ok(Err(log));
            }
            objects.run(async |client| {
                let question = Request::new("").get("readyz", &GetParams::default())?;
                ensure!(client.request_text(question).await? == "ok", "not ready");
                Ok(Ok(()))
            })
        })?;
        is_ready.map_err(|log| anyhow!("the API server has ended; its log:\n{log}"))
    }
}

impl Parts {
    fn start(netns: &Netns) -> Result<Self> {
        let folder = Sandbox::enter()?.folder().to_owned();
        let place = Place::new(netns);
        write_secrets(&folder)?;
        let etcd = start_etcd(&place, &folder)?;
        let mut parts = Self { place, folder, etcd, server: None, controllers: None, scheduler: None };
        parts.start_server()?;
        let certificate = parts.folder.join("apiserver.crt");
        wait::until("the API server's certificate", PATIENCE, || {
            ensure!(parts.etcd.is_running(), "etcd has ended:\n{}", parts.etcd.err);
            ensure!(parts.death()?.is_none(), "the API server has ended");
            ensure!(fs::metadata(&certificate)?.len() > 0, "it is empty");
            Ok(())
        })?;
        Ok(parts)
    }

    /// The server's log, if it has ended.
    fn death(&mut self) -> Result<Option<String>> {
        let server = self.server.as_mut().context("no API server")?;
        Ok((!server.is_running()).then(|| server.err.to_string()))
    }

    fn start_server(&mut self) -> Result<()> {
        let mut command = self.place.command(part("kube-apiserver")?);
        let folder = self.folder.display();
        command.args([
            &format!("--etcd-servers=http://{ETCD}"),
            "--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/112",
            "--service-account-issuer=https://kubernetes.default.svc",
            &format!("--service-account-key-file={folder}/accounts.pub"),
            &format!("--service-account-signing-key-file={folder}/accounts.key"),
            &format!("--token-auth-file={folder}/tokens.csv"),
            "--authorization-mode=RBAC",
            &format!("--cert-dir={folder}"),
            &format!("--bind-address={}", Wire::V4),
            &format!("--advertise-address={}", Wire::V4),
            &format!("--secure-port={PORT}"),
            // As kubeadm has it: plugins and `kubectl debug` need it.
            "--allow-privileged=true",
            // Pods of the lab have no service account to wait for.
            "--disable-admission-plugins=ServiceAccount",
        ]);
        self.server = Some(self.place.start(command)?);
        Ok(())
    }

    /// What the controllers and the scheduler know the server by.
    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("controllers.kubeconfig")
    }

    fn start_scheduler(&mut self) -> Result<()> {
        let mut command = self.place.command(part("kube-scheduler")?);
        command.arg(format!("--kubeconfig={}", self.kubeconfig().display()));
        command.args(["--leader-elect=false", "--secure-port=0"]);
        self.scheduler = Some(self.place.start(command)?);
        Ok(())
    }

    fn start_controllers(&mut self, kubeconfig: &str, controllers: &str) -> Result<()> {
        let file = self.kubeconfig();
        fs::write(&file, kubeconfig)?;
        let mut command = self.place.command(part("kube-controller-manager")?);
        command.arg(format!("--kubeconfig={}", file.display())).args([
            &format!("--controllers={controllers}"),
            "--leader-elect=false",
            "--secure-port=0",
        ]);
        self.controllers = Some(self.place.start(command)?);
        Ok(())
    }
}

fn start_etcd(place: &Place, folder: &Path) -> Result<Process> {
    let mut command = place.command(part("etcd")?);
    command.args([
        &format!("--data-dir={}/etcd", folder.display()),
        "--unsafe-no-fsync",
        &format!("--listen-client-urls=http://{ETCD}"),
        &format!("--advertise-client-urls=http://{ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--log-level=warn",
    ]);
    place.start(command)
}

/// One of the programs, from the folder that `SLUICE_PARTS` names.
pub fn part(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("SLUICE_PARTS")
        .context("SLUICE_PARTS is not set: `cargo xtask test cluster` builds the parts and sets it")?;
    let path = Path::new(&folder).join(name);
    ensure!(path.is_file(), "{} is missing", path.display());
    Ok(path)
}

/// The key that signs service accounts' tokens, and the token of the administrator.
fn write_secrets(folder: &Path) -> Result<()> {
    let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_ASN1_SIGNING);
    let private = EcdsaKeyPair::generate_pkcs8(kind, &random).ok().context("could not make a key")?;
    let pair =
        EcdsaKeyPair::from_pkcs8(kind, private.as_ref(), &random).ok().context("could not read a key")?;
    let public = [&PUBLIC_P256, pair.public_key().as_ref()].concat();
    fs::write(folder.join("accounts.key"), pem("PRIVATE KEY", private.as_ref())?)?;
    fs::write(folder.join("accounts.pub"), pem("PUBLIC KEY", &public)?)?;
    Ok(fs::write(folder.join("tokens.csv"), format!("{ADMIN},admin,1,\"system:masters\"\n"))?)
}

/// What precedes the point of a P-256 key in a SubjectPublicKeyInfo (RFC 5480, section 2).
const PUBLIC_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

fn pem(label: &str, bytes: &[u8]) -> Result<String> {
    let text = serde_json::to_value(ByteString(bytes.to_vec()))?;
    let text = text.as_str().context("bytes do not become text")?;
    Ok(format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"))
}

/// One call of etcd's JSON interface.
fn etcd(path: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let mut stream = TcpStream::connect(ETCD).context("could not reach etcd")?;
    write!(
        stream,
        "POST /v3/{path} HTTP/1.0\r\nHost: {ETCD}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    ensure!(head.contains(" 200 "), "etcd refused {path}: {answer}");
    serde_json::from_str(body).with_context(|| answer.clone())
}
