//! Flags, and what follows from them. Every complaint is collected, so that one start shows them all.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::backend::ebpf::Capacity;
use crate::inspect::Output;

/// Where bpf file systems are mounted by custom.
const BPFFS: &str = "/sys/fs/bpf";

/// Flags with a short name: complaints name the long one.
const SHORT: [(&str, &str); 2] = [("--verbosity", "-v"), ("--output", "-o")];

/// Smallest useful tables.
const SMALLEST: u32 = 16;

/// A Kubernetes service dataplane: makes Service addresses answer on this node.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the daemon
    Run(Run),
    /// Show what the daemon does and what the kernel has
    Status(Status),
    /// List the services that are programmed, read from the kernel
    Services(Listing),
    /// List the endpoints that are programmed, read from the kernel
    Backends(Listing),
    /// Remove everything that was ever installed on this node
    Cleanup(PinDir),
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Folder of Service and EndpointSlice manifests to follow instead of an API server
    #[arg(long, value_name = "DIR", env = "SLUICE_SOURCE")]
    pub source: Option<PathBuf>,
    /// Kubeconfig of the API server to follow; without it and --source, the in-cluster service account
    #[arg(long, value_name = "FILE", env = "SLUICE_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node [default: the host name, lower case]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Cgroup whose processes are served [default: the root of the mounted cgroup v2 tree]
    #[arg(long, value_name = "DIR", env = "SLUICE_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
    /// Where the daemon answers.
    #[command(flatten)]
    pub socket: Socket,
    /// Room for this many service addresses in new maps; they grow before they fill
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub services_capacity: u32,
    /// Room for this many endpoints in new maps; they grow before they fill
    #[arg(long, value_name = "N", default_value_t = 262_144)]
    pub slots_capacity: u32,
    /// How to log, on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// How much to log: 0 what an operator needs, 1 debug, 2 trace
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub verbosity: u8,
}

/// Where programs and maps are pinned.
#[derive(Clone, Debug, Args)]
pub struct PinDir {
    /// Directory for pins, on a bpf file system [default: `sluice` below the mounted one]
    #[arg(long, value_name = "DIR", env = "SLUICE_PIN_DIR")]
    pub pin_dir: Option<PathBuf>,
}

/// Where the daemon answers.
#[derive(Clone, Debug, Args)]
pub struct Socket {
    /// Unix socket on which the daemon answers
    #[arg(long, value_name = "PATH", default_value = "/run/sluice/sluice.sock", env = "SLUICE_SOCKET")]
    pub socket: PathBuf,
}

/// Flags of `status`.
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Output,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
    /// Where the daemon answers.
    #[command(flatten)]
    pub socket: Socket,
}

/// Flags of the lists.
#[derive(Clone, Debug, Args)]
pub struct Listing {
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Output,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no command line.
#[derive(Debug)]
pub enum Refused {
    /// Help or version was asked for: print this and end well.
    Asked(String),
    /// Everything that is wrong.
    Wrong(Vec<String>),
}

/// Reads the command line.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut complaints = Vec::new();
    loop {
        let error = match Cli::try_parse_from(&arguments) {
            Ok(cli) => {
                complaints.extend(contradictions(&cli));
                return if complaints.is_empty() { Ok(cli) } else { Err(Refused::Wrong(complaints)) };
            }
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Err(Refused::Asked(error.to_string()));
        }
        complaints.push(first_paragraph(&error));
        // The complaint's cause is taken out, and the rest is read again for further ones.
        if !take_out(&error, &mut arguments) {
            return Err(Refused::Wrong(complaints));
        }
    }
}

fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("Usage") && !line.starts_with("For more"));
    let joined = lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    joined.trim_start_matches("error: ").to_owned()
}

/// Removes the argument that an error is about; false if that cannot be told.
fn take_out(error: &clap::Error, arguments: &mut Vec<OsString>) -> bool {
    let Some(ContextValue::String(about)) = error.get(ContextKind::InvalidArg) else { return false };
    let flag = about.split([' ', '=']).next().unwrap_or(about);
    let Some(at) = arguments.iter().position(|argument| {
        let text = argument.to_string_lossy();
        let short = SHORT.iter().find(|(long, _)| *long == flag).is_some_and(|(_, short)| text == *short);
        text == flag || short || text.starts_with(&format!("{flag}="))
    }) else {
        return false;
    };
    let alone = !arguments.remove(at).to_string_lossy().contains('=');
    // `--flag value`: the value was refused, so it goes with its flag.
    if alone
        && matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue)
        && let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && arguments.get(at).is_some_and(|next| next.to_string_lossy() == *value)
    {
        arguments.remove(at);
    }
    true
}

/// Settings that cannot be, each with the flag's name.
fn contradictions(cli: &Cli) -> Vec<String> {
    let Verb::Run(run) = &cli.verb else { return Vec::new() };
    let mut wrong = Vec::new();
    if run.source.is_some() && run.kubeconfig.is_some() {
        wrong.push("--source and --kubeconfig exclude each other: objects come from one place".to_owned());
    }
    for (flag, path, directory) in [
        ("--source", &run.source, true),
        ("--kubeconfig", &run.kubeconfig, false),
        ("--cgroup", &run.cgroup, true),
    ] {
        wrong.extend(path.as_ref().and_then(|path| unfit(flag, path, directory)));
    }
    for (flag, value) in
        [("--services-capacity", run.services_capacity), ("--slots-capacity", run.slots_capacity)]
    {
        if value < SMALLEST {
            wrong.push(format!("{flag} is {value}, but the smallest map holds {SMALLEST}"));
        }
    }
    if run.node_name.as_ref().is_some_and(|name| name.trim().is_empty()) {
        wrong.push("--node-name is blank".to_owned());
    }
    wrong
}

fn unfit(flag: &str, path: &Path, directory: bool) -> Option<String> {
    match fs::metadata(path) {
        Err(error) => Some(format!("{flag} {}: {error}", path.display())),
        Ok(found) if found.is_dir() != directory => {
            let kind = if directory { "directory" } else { "file" };
            Some(format!("{flag} {} is not a {kind}", path.display()))
        }
        Ok(_) => None,
    }
}

impl Run {
    /// Room in new maps.
    pub fn capacity(&self) -> Capacity {
        Capacity { services: self.services_capacity, slots: self.slots_capacity }
    }

    /// Name of this node.
    pub fn node(&self) -> String {
        let name = self
            .node_name
            .clone()
            .unwrap_or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default());
        name.trim().to_lowercase()
    }

    /// The cgroup to serve: the one given, or the root of the v2 tree.
    pub fn cgroup(&self) -> Option<PathBuf> {
        self.cgroup.clone().or_else(|| mount_point(&mounts(), "cgroup2"))
    }
}

impl PinDir {
    /// The directory given, or the customary one on the mounted bpf file system.
    pub fn path(&self) -> PathBuf {
        let below = || mount_point(&mounts(), "bpf").unwrap_or_else(|| PathBuf::from(BPFFS)).join("sluice");
        self.pin_dir.clone().unwrap_or_else(below)
    }

    /// Where a bpf file system has to be mounted for the default directory; `None` if there is one, or if another
    /// directory was given.
    pub fn mount_needed(&self) -> Option<&'static Path> {
        let needed = self.pin_dir.is_none() && mount_point(&mounts(), "bpf").is_none();
        needed.then_some(Path::new(BPFFS))
    }
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap_or_default()
}

/// Where the first file system of a type is mounted. The format is that of fstab(5): fields parted by blanks, with
/// blanks inside them as `\040`.
fn mount_point(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == kind).then(|| PathBuf::from(place.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Refused, mount_point, parse};

    fn complaints(line: &str) -> Vec<String> {
        let arguments = std::iter::once("sluice").chain(line.split(' ')).map(Into::into);
        match parse(arguments) {
            Err(Refused::Wrong(complaints)) => complaints,
            Err(Refused::Asked(text)) => vec![format!("asked: {text}")],
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn every_complaint_is_made_at_once() {
        let found =
            complaints("run --nonsense --slots-capacity many --services-capacity 2 --source /does/not/exist");
        let all = found.join("\n");
        for word in ["--nonsense", "many", "--services-capacity is 2", "/does/not/exist"] {
            assert!(all.contains(word), "{word} is not in:\n{all}");
        }
        assert_eq!(found.len(), 4, "{all}");
    }

    #[test]
    fn two_sources_are_refused() {
        let found = complaints("run --source / --kubeconfig /proc/self/status");
        assert!(found.len() == 1 && found[0].contains("exclude each other"), "{found:?}");
    }

    #[test]
    fn a_good_command_line_has_no_complaints() {
        assert_eq!(complaints("run --source / --node-name n1"), Vec::<String>::new());
        assert_eq!(complaints("status -o json"), Vec::<String>::new());
    }

    #[test]
    fn mounts_are_found_by_type() {
        let mounts = "a /sys tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw 0 0\n";
        assert_eq!(mount_point(mounts, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(mount_point(mounts, "bpf"), None);
    }
}
