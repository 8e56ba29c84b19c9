//! Flags, and what follows from them. Every complaint is collected, so that one start shows them all.

mod client;
mod connection;
pub mod edge;
mod load;
mod pace;
mod top;

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::backend::dataplane::{Choice, Floor};
use crate::backend::ebpf::Capacity;
use crate::backend::nft::{AFFINITY_CLIENTS, NOTRACK_BIT};
use crate::backend::probe::Place;
use crate::explain::{Source, Target};
use crate::inspect::{Output, Show, answer};
use crate::model::ServiceName;
use crate::settings::print::Own;
use crate::settings::value::Value;
use crate::settings::{Effective, Flags, flags};

pub use self::client::client;
pub use self::connection::connect;
pub use self::load::effective;
pub use self::top::Top;

/// Where bpf file systems are mounted by custom.
const BPFFS: &str = "/sys/fs/bpf";

/// Flags with another name: complaints name the first one.
const ALIASES: [(&str, &str); 5] = [
    ("--v", "-v"),
    ("--v", "--verbosity"),
    ("--output", "-o"),
    ("--hostname-override", "--node-name"),
    ("--logging-format", "--log-format"),
];

/// Smallest useful tables.
const SMALLEST: u32 = 16;

/// What a script may rely on.
const EXIT_CODES: &str = "\
Exit codes:
  0  done; nothing is wrong
  1  it failed; probe: no dataplane can run; plan --strict: there are problems; diff: there are differences;
     drain --wait: something still drains
  2  wrong usage; diff: it failed
  3  status: no daemon answers, or it is not synced
  4  explain: the kernel is not as computed";

/// A Kubernetes service dataplane: makes Service addresses answer on this node.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon; takes kube-proxy's flags and configuration file
    Run(Run),
    /// Show what the daemon does and what the kernel has
    Status(Status),
    /// List the services that are programmed, read from the kernel
    Services(Listing),
    /// List the endpoints that are programmed, read from the kernel
    Backends(Listing),
    /// List the live flows of callers from outside that eBPF serves (--edge), read from the kernel
    Flows(Flows),
    /// Say who gets no new flows any more and still has some: why, since when, and by which layer; or wait for their end
    Drain(Drain),
    /// Show which services get connections at this moment, read from the kernel; at a terminal again and again
    Top(Top),
    /// Show what this node would do for each address, and why; reads once, touches nothing, needs no privilege
    Plan(Plan),
    /// Compare what this node should have by the objects with what the kernel has; exit code as diff(1)
    Diff(Diff),
    /// Say what this kernel can do and which dataplane would run; changes nothing
    Probe(Probe),
    /// Say what becomes of a flow, why, and whether the kernel agrees
    Explain(Explain),
    /// Remove everything that was ever installed on this node
    Cleanup(PinDir),
    /// Print what a shell needs to complete commands: `source <(sluice completions bash)`
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write one for each verb
    Man {
        /// Write sluice.1, sluice-run.1 and so on here
        directory: Option<PathBuf>,
    },
}

/// What was asked for, with everything it needs.
#[derive(Debug)]
pub enum Task {
    /// Run the daemon.
    Run(Box<Run>, Box<Effective>),
    /// Print the effective configuration.
    PrintConfig(Box<Effective>, Vec<Own>, Form),
    /// Write a configuration file.
    WriteConfig(PathBuf, Box<Effective>),
    /// Do what needs privilege only once: nothing.
    InitOnly,
    /// Show what the daemon does.
    Status(Status),
    /// List services.
    Services(Listing),
    /// List endpoints.
    Backends(Listing),
    /// List flows.
    Flows(Flows),
    /// Say what drains.
    Drain(Drain),
    /// Show who gets connections.
    Top(Top),
    /// Show what would be done.
    Plan(Plan, Box<Effective>),
    /// Compare what would be done with what is there.
    Diff(Diff, Box<Effective>),
    /// Say what can run.
    Probe(Probe),
    /// Say what becomes of a flow.
    Explain(Explain),
    /// Remove everything.
    Cleanup(PinDir),
    /// Complete commands.
    Completions(Shell),
    /// Print or write manual pages.
    Man(Option<PathBuf>),
}

/// A slip of the pen must not be a licence to fill the kernel's memory.
const AFFINITY_CLIENTS_MOST: i64 = 16_777_216;

/// Sluice's own flags of `run`, and kube-proxy's that were given.
#[derive(Clone, Debug, Args)]
#[command(args_override_self = true)]
pub struct Run {
    /// Folder of Service and EndpointSlice manifests to follow instead of an API server
    #[arg(long, value_name = "DIR", env = "SLUICE_SOURCE")]
    pub source: Option<PathBuf>,
    /// Cgroup whose processes eBPF serves [default: the root of the mounted cgroup v2 tree]
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
    /// Which dataplane; auto: eBPF if it works here, else nftables
    #[arg(long, value_name = "WHICH", default_value = "auto", env = "SLUICE_DATAPLANE")]
    pub dataplane: Choice,
    /// What nftables does beside eBPF: serve what eBPF leaves alone, or only take connections over that eBPF gives up
    #[arg(long, value_name = "WHEN", default_value = "always", env = "SLUICE_NFTABLES")]
    pub nftables: Floor,
    /// Bit of the packet mark by which connection tracking is told to leave a packet alone
    #[arg(long, value_name = "BIT", default_value_t = NOTRACK_BIT, value_parser = clap::value_parser!(u32).range(0..32))]
    pub notrack_mark_bit: u32,
    /// Most clients of Services with session affinity whose endpoints nftables remembers, in each family
    #[arg(long, value_name = "N", default_value_t = AFFINITY_CLIENTS, value_parser = clap::value_parser!(u32).range(1..=AFFINITY_CLIENTS_MOST))]
    pub affinity_clients: u32,
    /// Most service ports with labels of their own in the metrics of connections; all others share theirs
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub service_metrics: u32,
    /// The edge layer.
    #[command(flatten)]
    pub edge: edge::Flags,
    /// kube-proxy's configuration file; replaces most of kube-proxy's flags, and none of Sluice's own
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do instead of running.
    #[command(flatten)]
    pub instead: Instead,
    /// kube-proxy's flags.
    #[arg(skip)]
    pub flags: Flags,
}

/// Flags of `run` that ask for another deed.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Instead of running")]
pub struct Instead {
    /// Print the effective configuration and where each value came from, and exit; needs no privilege
    #[arg(long)]
    pub print_config: bool,
    /// How to print the configuration
    #[arg(short, long, default_value = "table", requires = "print_config")]
    pub output: Form,
    /// Write the configuration as a file for --config, and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// The same as `sluice cleanup`
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub cleanup: bool,
    /// Accepted: nothing needs to be prepared
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub init_only: bool,
    /// Print the version
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub version: Option<String>,
}

/// How to print the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
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
    /// How to print, and how often.
    #[command(flatten)]
    pub show: Show,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
    /// Where the daemon answers.
    #[command(flatten)]
    pub socket: Socket,
}

/// Which objects, and for which node.
#[derive(Clone, Debug, Args)]
pub struct Objects {
    /// Folder of manifests to read instead of an API server
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Kubeconfig of the API server to read; without it and --source, that of --config, or the in-cluster service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the node to plan for [default: the host name, lower case]
    #[arg(long, value_name = "NAME", visible_aliases = ["node-name", "hostname-override"])]
    pub node: Option<String>,
    /// KubeProxyConfiguration that the daemon would run with
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the node, in place of those of its Node object; may be repeated
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_address: Vec<IpAddr>,
}

/// Flags of `plan`.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Which objects, and for which node.
    #[command(flatten)]
    pub objects: Objects,
    /// Say which rule made each list of endpoints, and why an endpoint is not used
    #[arg(long)]
    pub explain: bool,
    /// Exit with 1 if there are problems
    #[arg(long)]
    pub strict: bool,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: PlanForm,
}

/// Flags of `diff`.
#[derive(Clone, Debug, Args)]
pub struct Diff {
    /// Which objects, and for which node.
    #[command(flatten)]
    pub objects: Objects,
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

/// Flags of `probe`: those of `run` that decide about the dataplane.
#[derive(Clone, Debug, Args)]
pub struct Probe {
    /// As for `run`
    #[arg(long, value_name = "WHICH", default_value = "auto", env = "SLUICE_DATAPLANE")]
    pub dataplane: Choice,
    /// As for `run`
    #[arg(long, value_name = "WHEN", default_value = "always", env = "SLUICE_NFTABLES")]
    pub nftables: Floor,
    /// Cgroup whose processes would be served [default: the root of the mounted cgroup v2 tree]
    #[arg(long, value_name = "DIR", env = "SLUICE_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Where programs and maps would be pinned.
    #[command(flatten)]
    pub pins: PinDir,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Output,
}

/// How to print a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanForm {
    /// For people.
    Table,
    /// For people with room: the endpoints themselves.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
    /// The tables that nftables would load, as `nft` reads them.
    Nft,
}

/// Flags of the lists.
#[derive(Clone, Debug, Args)]
pub struct Listing {
    /// How to print, and how often.
    #[command(flatten)]
    pub show: Show,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
}

/// Flags of `flows`.
#[derive(Clone, Debug, Args)]
pub struct Flows {
    /// Only flows of this Service
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service)]
    pub service: Option<ServiceName>,
    /// As for the other lists.
    #[command(flatten)]
    pub listing: Listing,
}

/// Flags of `drain`.
#[derive(Clone, Debug, Args)]
pub struct Drain {
    /// Only endpoints of this Service
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
    pub service: Option<ServiceName>,
    /// Wait until nothing drains any more, so many seconds at most (300); exit code 1 if something still does
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "300", value_parser = answer::seconds, conflicts_with = "watch")]
    pub wait: Option<Duration>,
    /// How to print, and how often.
    #[command(flatten)]
    pub show: Show,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
    /// Where the daemon answers.
    #[command(flatten)]
    pub socket: Socket,
}

/// Flags of `explain`.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// Who calls: an address, or any `pod`, any process of the `node`, anybody `outside`
    pub source: Source,
    /// What is called: 10.96.0.1:80, [fd00::1]:53/udp, or namespace/service:port, by the port's name or number [default: TCP]
    pub target: Target,
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

/// Reads `NAMESPACE/NAME`.
fn service(text: &str) -> Result<ServiceName, String> {
    let is_name = |part: &str| !part.is_empty() && !part.contains(|c: char| c == '/' || c.is_whitespace());
    match text.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => {
            Ok(ServiceName::new(namespace, name))
        }
        Some(_) | None => Err("write a namespace and a name, as in default/web".to_owned()),
    }
}

/// Why there is no command line.
#[derive(Debug)]
pub enum Refused {
    /// Help or version was asked for: print this and end well.
    Asked(String),
    /// Everything that is wrong.
    Wrong(Vec<String>),
}

/// Reads the command line, and for `run` the configuration file that it names.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Task, Refused> {
    let mut arguments: Vec<OsString> = arguments.into_iter().map(with_dashes).collect();
    let mut complaints = Vec::new();
    loop {
        let error = match read(&arguments) {
            Ok((cli, own)) => return task(cli.verb, own, complaints),
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

/// kube-proxy takes `--cluster_cidr` for `--cluster-cidr`.
fn with_dashes(argument: OsString) -> OsString {
    let Some(text) = argument.to_str().filter(|text| text.starts_with("--")) else { return argument };
    let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
    format!("{}{value}", name.replace('_', "-")).into()
}

/// The whole command line, with kube-proxy's flags.
pub fn command() -> clap::Command {
    let command = Cli::command().mut_subcommand("run", |run| run.args(flags::arguments()));
    command.mut_subcommands(|verb| verb.mut_args(but_not_empty))
}

/// A variable that is set to nothing counts as not set: a manifest that fills it may have nothing to fill in.
fn but_not_empty(argument: Arg) -> Arg {
    let empty = argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if empty { argument.env(Resettable::Reset) } else { argument }
}

fn read(arguments: &[OsString]) -> Result<(Cli, Vec<Own>), clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    let mut own = Vec::new();
    if let (Verb::Run(run), Some(matches)) = (&mut cli.verb, matches.subcommand_matches("run")) {
        run.flags = flags::given(matches);
        own = own_flags(matches);
    }
    Ok((cli, own))
}

/// Sluice's own flags of `run`, with the origin of each value.
fn own_flags(matches: &ArgMatches) -> Vec<Own> {
    let command = <Run as Args>::augment_args(clap::Command::new("run"));
    let settings = command.get_arguments().filter(|argument| {
        !["Instead of running"].iter().any(|heading| argument.get_help_heading() == Some(*heading))
    });
    settings.map(|argument| own_flag(argument, matches)).chain(master(matches)).collect()
}

fn own_flag(argument: &Arg, matches: &ArgMatches) -> Own {
    let id = argument.get_id().as_str();
    let flag = format!("--{}", argument.get_long().unwrap_or(id));
    let values =
        matches.get_raw(id).map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>());
    let origin = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => format!("flag {flag}"),
        Some(ValueSource::EnvVariable) => {
            format!(
                "environment {}",
                argument.get_env().map(|name| name.to_string_lossy()).unwrap_or_default()
            )
        }
        Some(_) | None => "default".to_owned(),
    };
    Own { flag, value: values.unwrap_or_default().join(","), origin }
}

/// Not a field of the file, and yet it counts.
fn master(matches: &ArgMatches) -> Option<Own> {
    let values = matches.get_raw("master")?.next_back()?.to_string_lossy().into_owned();
    Some(Own { flag: "--master".to_owned(), value: values, origin: "flag --master".to_owned() })
}

fn task(verb: Verb, own: Vec<Own>, mut complaints: Vec<String>) -> Result<Task, Refused> {
    let task = match verb {
        Verb::Run(run) => return run_or_instead(run, own, complaints),
        Verb::Status(flags) => Task::Status(flags),
        Verb::Services(flags) => Task::Services(flags),
        Verb::Backends(flags) => Task::Backends(flags),
        Verb::Flows(flags) => Task::Flows(flags),
        Verb::Drain(flags) => Task::Drain(flags),
        Verb::Top(flags) => Task::Top(flags),
        Verb::Plan(flags) => {
            let effective = objects(&flags.objects, complaints)?;
            return Ok(Task::Plan(flags, effective));
        }
        Verb::Diff(flags) => {
            let effective = objects(&flags.objects, complaints)?;
            return Ok(Task::Diff(flags, effective));
        }
        Verb::Probe(flags) => {
            complaints.extend(nobody_serves(flags.dataplane, flags.nftables));
            Task::Probe(flags)
        }
        Verb::Explain(flags) => Task::Explain(flags),
        Verb::Cleanup(pins) => Task::Cleanup(pins),
        Verb::Completions { shell } => Task::Completions(shell),
        Verb::Man { directory } => Task::Man(directory),
    };
    if complaints.is_empty() { Ok(task) } else { Err(Refused::Wrong(complaints)) }
}

fn objects(plan: &Objects, mut complaints: Vec<String>) -> Result<Box<Effective>, Refused> {
    if plan.source.is_some() && plan.kubeconfig.is_some() {
        complaints.push(two_sources("--source", "--kubeconfig"));
    }
    for (flag, path, directory) in
        [("--source", &plan.source, true), ("--kubeconfig", &plan.kubeconfig, false)]
    {
        complaints.extend(path.as_ref().and_then(|path| unfit(flag, path, directory)));
    }
    let (blank, named): (Vec<_>, Vec<_>) =
        plan.node.iter().partition(|name| !name.is_empty() && name.trim().is_empty());
    complaints.extend(blank.iter().map(|name| format!("--node {name:?} is blank")));
    let flags = named.into_iter().map(|name| ("hostname-override", Value::Text(name.clone()))).collect();
    match effective(plan.config.as_deref(), &flags) {
        Ok(mut settled) if complaints.is_empty() => {
            // The file says what the daemon does; where to look now is said here.
            settled.kubeconfig = plan.kubeconfig.clone().or(settled.kubeconfig);
            Ok(Box::new(settled))
        }
        Ok(_) => Err(Refused::Wrong(complaints)),
        Err(more) => {
            complaints.extend(more);
            Err(Refused::Wrong(complaints))
        }
    }
}

/// The order is kube-proxy's: write, clean up, initialise, run.
fn run_or_instead(run: Run, own: Vec<Own>, mut complaints: Vec<String>) -> Result<Task, Refused> {
    if run.instead.version.as_ref().is_some_and(|how| how != "false") {
        return Err(Refused::Asked(format!("sluice {}\n", env!("CARGO_PKG_VERSION"))));
    }
    complaints.extend(contradictions(&run, &own));
    let settled = match effective(run.config.as_deref(), &run.flags) {
        Ok(settled) => {
            complaints.extend(one_bit_for_both(&run, &own, &settled));
            Box::new(settled)
        }
        Err(more) => {
            complaints.extend(more);
            return Err(Refused::Wrong(complaints));
        }
    };
    if !complaints.is_empty() {
        return Err(Refused::Wrong(complaints));
    }
    let Instead { print_config, output, write_config_to, cleanup, init_only, version: _ } =
        run.instead.clone();
    Ok(match (print_config, write_config_to, cleanup, init_only) {
        (true, _, _, _) => Task::PrintConfig(settled, own, output),
        (_, Some(path), _, _) => Task::WriteConfig(path, settled),
        (_, _, true, _) => Task::Cleanup(run.pins),
        (_, _, _, true) => Task::InitOnly,
        (false, None, false, false) => Task::Run(Box::new(run), settled),
    })
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
    let flag = about.split([' ', '=', '[']).next().unwrap_or(about);
    let refused = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value))
            if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) =>
        {
            Some(value.as_str())
        }
        Some(_) | None => None,
    };
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let follows =
        |at: usize| refused.is_some_and(|value| words.get(at + 1).is_some_and(|next| next == value));
    let found = words.iter().enumerate().find_map(|(at, word)| {
        let value = attached(flag, word)?;
        // The flag may be there again, with a value that is right.
        let meant = refused.is_none_or(|refused| value.trim_start_matches('=') == refused);
        (meant || follows(at)).then_some((at, value.is_empty() && follows(at)))
    });
    let Some((at, with_next)) = found else { return false };
    arguments.drain(at..=at + usize::from(with_next));
    true
}

/// What is written behind a flag, or behind one of its other names, in the same word.
fn attached<'a>(flag: &str, word: &'a str) -> Option<&'a str> {
    let others = ALIASES.iter().filter(|(name, _)| *name == flag).map(|(_, other)| *other);
    others.chain([flag]).find_map(|name| {
        let rest = word.strip_prefix(name)?;
        let short = !name.starts_with("--");
        (rest.is_empty() || rest.starts_with('=') || short).then_some(rest)
    })
}

/// Sluice's own settings that cannot be, each with the flag's name.
fn contradictions(run: &Run, own: &[Own]) -> Vec<String> {
    let mut wrong = Vec::new();
    let kubeconfig = run.config.is_none().then(|| load::kubeconfig(run)).flatten();
    let source = run.source.as_ref().map(|path| (written(own, "--source"), path));
    let cgroup = run.cgroup.as_ref().map(|path| (written(own, "--cgroup"), path));
    if let (Some((source, _)), Some((kubeconfig, _))) = (source, &kubeconfig) {
        wrong.push(two_sources(source, kubeconfig));
    }
    for (from, path) in source.into_iter().chain(cgroup) {
        wrong.extend(unfit(from, path, true));
    }
    wrong.extend(kubeconfig.and_then(|(from, path)| unfit(from, &path, false)));
    for (flag, value) in
        [("--services-capacity", run.services_capacity), ("--slots-capacity", run.slots_capacity)]
    {
        if value < SMALLEST {
            wrong.push(format!("{flag} is {value}, but the smallest map holds {SMALLEST}"));
        }
    }
    wrong.extend(nobody_serves(run.dataplane, run.nftables));
    wrong
}

/// A packet that asks for masquerading must not keep away from connection tracking, which does it.
fn one_bit_for_both(run: &Run, own: &[Own], settled: &Effective) -> Option<String> {
    let flag = "--notrack-mark-bit";
    let field = settled.fields.mode.masquerade_bit();
    let from = settled.fields.entries.get(field)?.origin;
    let origin = own.iter().find(|own| own.flag == flag).map_or("default", |own| &own.origin);
    let bit = run.notrack_mark_bit;
    (bit == settled.masquerade_bit).then(|| {
        format!(
            "{field} ({from}) and {flag} ({origin}) are both {bit}: each needs a bit of the mark for itself"
        )
    })
}

fn nobody_serves(dataplane: Choice, nftables: Floor) -> Option<String> {
    let contradict = (dataplane, nftables) == (Choice::Nftables, Floor::DrainOnly);
    contradict.then(|| {
        "--dataplane=nftables and --nftables=drain-only exclude each other: nobody would serve".to_owned()
    })
}

/// Where the operator wrote a value: in the flag, or in the variable that stands for it.
fn written<'a>(own: &'a [Own], flag: &'a str) -> &'a str {
    let given = own.iter().find(|own| own.flag == flag);
    given.and_then(|own| own.origin.strip_prefix("environment ")).unwrap_or(flag)
}

fn two_sources(one: &str, other: &str) -> String {
    format!("{one} and {other} exclude each other: objects come from one place")
}

/// The path and where it was written: a flag, or a variable.
fn unfit(from: &str, path: &Path, directory: bool) -> Option<String> {
    match fs::metadata(path) {
        Err(error) => Some(format!("{from} {}: {error}", path.display())),
        Ok(found) if found.is_dir() != directory => {
            let kind = if directory { "directory" } else { "file" };
            Some(format!("{from} {} is not a {kind}", path.display()))
        }
        Ok(_) => None,
    }
}

impl Run {
    /// Room in new maps.
    pub fn capacity(&self) -> Capacity {
        Capacity { services: self.services_capacity, slots: self.slots_capacity }
    }

    /// The cgroup to serve: the one given, or the root of the v2 tree.
    pub fn cgroup(&self) -> Option<PathBuf> {
        cgroup(self.cgroup.as_ref())
    }
}

impl Probe {
    /// Where eBPF would be installed.
    pub fn place(&self) -> Place {
        let must_mount = self.pins.mount_needed().is_some();
        Place { cgroup: cgroup(self.cgroup.as_ref()), pin_dir: self.pins.path(), must_mount }
    }
}

fn cgroup(given: Option<&PathBuf>) -> Option<PathBuf> {
    given.cloned().or_else(|| mount_point(&mounts(), "cgroup2"))
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
mod page;
#[cfg(test)]
mod tests;
