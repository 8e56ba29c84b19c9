//! The daemon as a container: its image unpacked as a runtime does it, and a pod's description turned into what crun runs.
//!
//! What the kubelet and containerd would do is done here for the fields that `deploy/` uses, and a field that is not known
//! is an error, so that none is passed over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::deploy::{Rendered, runtime_default};
use crate::process::Process;
use crate::topology::Node;

/// An image, unpacked.
#[derive(Clone, Debug)]
pub struct Image {
    root: PathBuf,
    config: Value,
}

impl Image {
    /// Unpacks the archive that `SLUICE_IMAGE` names, and checks every digest on the way.
    pub fn unpack(into: &Path) -> Result<Self> {
        let archive = std::env::var_os("SLUICE_IMAGE")
            .context("SLUICE_IMAGE is not set: `cargo xtask test cluster` builds the image and sets it")?;
        let (layout, root) = (into.join("layout"), into.join("rootfs"));
        untar(Path::new(&archive), &layout)?;
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let manifest: Value = serde_json::from_slice(&fs::read(blob(&layout, &index["manifests"][0])?)?)?;
        let config = serde_json::from_slice(&fs::read(blob(&layout, &manifest["config"])?)?)?;
        for layer in list(&manifest["layers"]) {
            untar(&blob(&layout, layer)?, &root)?;
        }
        Ok(Self { root, config })
    }
}

fn untar(archive: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let done = Command::new("tar").arg("-xpf").arg(archive).arg("-C").arg(into).status()?;
    ensure!(done.success(), "could not unpack {}", archive.display());
    Ok(())
}

/// The file of a descriptor; what is in it must be what the descriptor says.
fn blob(layout: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest =
        text(&descriptor["digest"])?.strip_prefix("sha256:").context("another digest than SHA-256")?;
    let file = layout.join("blobs/sha256").join(digest);
    let found = ring::digest::digest(&ring::digest::SHA256, &fs::read(&file)?);
    let found: String = found.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == digest, "{} is {found}", file.display());
    Ok(file)
}

/// What stands on a node for the paths and names that a pod speaks of.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Host paths, and the folders of the laboratory that stand for them.
    pub host_paths: Vec<(&'static str, PathBuf)>,
    /// The service account's folder.
    pub account: PathBuf,
    /// A folder of the container's own.
    pub folder: PathBuf,
}

/// Arguments: the cgroup v2 tree, the node's group in it, where the container finds that, the runtime's folder, the bundle.
///
/// crun wants the v2 tree where it is on machines that have no other, which hides the tree of the others; the mounts are
/// those of this process alone. The node's group is entered already, and nothing above it is to be touched.
const RUNTIME: &str = r#"
mount --bind "$2" "$3"
mount --bind "$1" /sys/fs/cgroup
exec crun --cgroup-manager=disabled --root="$4" run --bundle "$5" sluice
"#;

/// Where the node's group is seen while a container starts.
fn cgroup_folder(ground: &Ground) -> PathBuf {
    ground.folder.join("cgroup")
}

/// Starts the DaemonSet's container on a node. Everything in it ends with the process that is returned.
pub fn start(node: &Node, image: &Image, rendered: &Rendered, ground: &Ground) -> Result<Process> {
    fs::create_dir_all(&ground.folder)?;
    let bundle = ground.folder.join("bundle");
    fs::create_dir_all(&bundle)?;
    fs::create_dir_all(cgroup_folder(ground))?;
    // A runtime that was killed has forgotten nothing.
    let books = ground.folder.join("crun");
    if books.exists() {
        fs::remove_dir_all(&books)?;
    }
    let spec = spec(node, image, rendered, ground)?;
    fs::write(bundle.join("config.json"), spec.to_string())?;
    let mut command = node.place().command("unshare");
    // A process-id namespace around the runtime ends all that is in it when its first process is killed.
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", RUNTIME, "sh"]);
    let cgroup = node.cgroup().path();
    command.arg(cgroup.parent().context("a group without a tree")?).arg(cgroup);
    command.args([cgroup_folder(ground), books, bundle]);
    node.place().start(command)
}

fn spec(node: &Node, image: &Image, rendered: &Rendered, ground: &Ground) -> Result<Value> {
    let pod = rendered.pod()?;
    known("pod", pod, POD)?;
    let container = &pod["containers"][0];
    known("container", container, CONTAINER)?;
    let context = &container["securityContext"];
    known("securityContext", context, CONTEXT)?;
    ensure!(pod["hostNetwork"] == true && context["privileged"] == false, "not the pod that is meant");
    let capabilities = capabilities(&context["capabilities"])?;
    let defaults = &image.config["config"];
    let arguments = container.get("command").unwrap_or(&defaults["Entrypoint"]);
    let mut environment =
        list(&defaults["Env"]).map(|value| text(value).map(str::to_owned)).collect::<Result<Vec<_>>>()?;
    environment.extend(environment_of(node, container, rendered)?);
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": context["runAsUser"], "gid": context["runAsGroup"] },
            "args": arguments,
            "env": environment,
            "cwd": defaults["WorkingDir"],
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": context["allowPrivilegeEscalation"] == false,
        },
        "root": { "path": image.root, "readonly": context["readOnlyRootFilesystem"] },
        "mounts": mounts(pod, rendered, ground)?,
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "mount" }, { "type": "cgroup" }],
            "seccomp": filter(context, &capabilities)?,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }))
}

const POD: &[&str] = &[
    "automountServiceAccountToken",
    "containers",
    "dnsPolicy",
    "hostNetwork",
    "nodeSelector",
    "priorityClassName",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "volumes",
];
const CONTAINER: &[&str] = &[
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "volumeMounts",
];
const CONTEXT: &[&str] = &[
    "allowPrivilegeEscalation",
    "capabilities",
    "privileged",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsUser",
    "seccompProfile",
];

fn known(what: &str, object: &Value, fields: &[&str]) -> Result<()> {
    let names = object.as_object().with_context(|| format!("no {what}"))?.keys();
    let unknown: Vec<_> = names.filter(|name| !fields.contains(&name.as_str())).collect();
    ensure!(unknown.is_empty(), "the laboratory does not know what {unknown:?} does in a {what}");
    Ok(())
}

fn capabilities(wanted: &Value) -> Result<BTreeSet<String>> {
    ensure!(wanted["drop"] == json!(["ALL"]), "capabilities that are not dropped: {wanted}");
    list(&wanted["add"]).map(|name| Ok(format!("CAP_{}", text(name)?))).collect()
}

fn filter(context: &Value, capabilities: &BTreeSet<String>) -> Result<Value> {
    match text(&context["seccompProfile"]["type"])? {
        "RuntimeDefault" => runtime_default(capabilities),
        other => bail!("the laboratory knows no filter {other}"),
    }
}

fn environment_of(node: &Node, container: &Value, rendered: &Rendered) -> Result<Vec<String>> {
    let value = |variable: &Value| -> Result<String> {
        let source = &variable["valueFrom"];
        let (field, key) = (&source["fieldRef"]["fieldPath"], &source["configMapKeyRef"]);
        match (variable["value"].as_str(), field.as_str(), key["name"].as_str()) {
            (Some(value), None, None) => Ok(value.to_owned()),
            (None, Some("spec.nodeName"), None) => Ok(node.name().to_owned()),
            (None, None, Some(map)) => {
                Ok(text(&rendered.object("ConfigMap", map)?["data"][text(&key["key"])?])?.to_owned())
            }
            _ => bail!("the laboratory does not know where {variable} comes from"),
        }
    };
    list(&container["env"])
        .map(|variable| Ok(format!("{}={}", text(&variable["name"])?, value(variable)?)))
        .collect()
}

/// What every container gets, then the pod's own.
fn mounts(pod: &Value, rendered: &Rendered, ground: &Ground) -> Result<Vec<Value>> {
    let plain = |to: &str, kind: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": kind, "options": options });
    let mut all = vec![
        plain("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        plain("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        plain("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        plain("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        bind("/var/run/secrets/kubernetes.io/serviceaccount", &ground.account, true),
    ];
    for mount in list(&pod["containers"][0]["volumeMounts"]) {
        known("volumeMount", mount, &["mountPath", "name", "readOnly"])?;
        let volume = list(&pod["volumes"]).find(|volume| volume["name"] == mount["name"]);
        let from = folder(volume.context("a mount without a volume")?, rendered, ground)?;
        all.push(bind(text(&mount["mountPath"])?, &from, mount["readOnly"] == true));
    }
    Ok(all)
}

fn bind(to: &str, from: &Path, read_only: bool) -> Value {
    let options = if read_only { ["rbind", "rprivate", "ro"] } else { ["rbind", "rprivate", "rw"] };
    json!({ "destination": to, "type": "bind", "source": from, "options": options })
}

/// The folder of a volume, made where it is not there.
fn folder(volume: &Value, rendered: &Rendered, ground: &Ground) -> Result<PathBuf> {
    if let Some(name) = volume["configMap"]["name"].as_str() {
        let folder = ground.folder.join(name);
        fs::create_dir_all(&folder)?;
        let data = rendered.object("ConfigMap", name)?["data"].as_object().context("an empty ConfigMap")?;
        for (file, content) in data {
            fs::write(folder.join(file), text(content)?)?;
        }
        return Ok(folder);
    }
    let path = text(&volume["hostPath"]["path"])?;
    if path == "/sys/fs/cgroup" {
        return Ok(cgroup_folder(ground));
    }
    let stands_for = ground.host_paths.iter().find(|(host, _)| *host == path);
    Ok(stands_for.with_context(|| format!("nothing stands for {path}"))?.1.clone())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}
