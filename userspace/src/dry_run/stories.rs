//! Stories in text: objects in, plan out. `UPDATE=1 cargo test -p sluice stories` rewrites what is expected; read the
//! difference. The format is told in `userspace/tests/stories/README.md`.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::document::{Address, Document, Explain, Flow, From, HealthCheck, Masquerade, ServicePort};
use super::{Question, plan};
use crate::desired::Desired;
use crate::model::{Change, Cluster, Kind, ObjectRef, Origin};
use crate::settings;
use crate::source::folder;

/// Begins every line that is an order.
const MARK: &str = ">>> ";

#[test]
fn every_story_ends_as_it_is_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "txt"));
    files.sort_unstable();
    assert!(!files.is_empty(), "where are the stories?");
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for path in files {
        let told = fs::read_to_string(&path).unwrap();
        let happened = tell(&told);
        if update && told != happened {
            fs::write(&path, &happened).unwrap();
        } else if told != happened {
            wrong.push(format!("{}:\n{}", path.display(), difference(&told, &happened)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The state of the cluster while a story is told.
struct Scene {
    question: Question,
    changes: Vec<Change>,
    live: Option<Live>,
}

/// What a daemon would keep, and how many changes it has seen.
struct Live {
    cluster: Cluster,
    desired: Desired,
    seen: usize,
}

/// The story with every expectation replaced by what happened.
fn tell(story: &str) -> String {
    let question = Question {
        node: "n1".to_owned(),
        origin: Origin::Folder,
        addresses: Vec::new(),
        settings: settings::of_text("").unwrap(),
        explain: false,
    };
    let mut scene = Scene { question, changes: Vec::new(), live: None };
    let mut told = String::new();
    for (order, body) in parts(story) {
        match order {
            None => told += &body,
            Some(order) => {
                let body = scene.obey(&order, body);
                write!(told, "{MARK}{order}\n{body}").unwrap();
            }
        }
    }
    told
}

/// Orders, each with the lines below it; first what stands before any order.
fn parts(story: &str) -> Vec<(Option<String>, String)> {
    let mut parts = vec![(None, String::new())];
    for line in story.lines() {
        match line.strip_prefix(MARK) {
            Some(order) => parts.push((Some(order.to_owned()), String::new())),
            None => writeln!(parts.last_mut().unwrap().1, "{line}").unwrap(),
        }
    }
    parts
}

impl Scene {
    /// Returns the body, or what it should be.
    fn obey(&mut self, order: &str, body: String) -> String {
        let words: Vec<&str> = order.split_whitespace().collect();
        match words.as_slice() {
            ["apply"] => self.changes.extend(folder::of_text("story.yaml", &body)),
            ["delete", kind, name] => self.changes.push(Change::Deleted(reference(kind, name))),
            ["node", name, addresses @ ..] => {
                self.question.node = (*name).to_owned();
                let read = |address: &&str| address.parse::<IpAddr>().unwrap();
                self.question.addresses = addresses.iter().map(read).collect();
            }
            ["config"] => self.question.settings = settings::of_text(&body).unwrap(),
            ["expect"] => return self.happened(false),
            ["explain"] => return self.happened(true),
            _ => panic!("no such order: {order}"),
        }
        body
    }

    fn happened(&mut self, explain: bool) -> String {
        let question = Question { explain, ..self.question.clone() };
        let listing = self.changes.iter().cloned().chain(Kind::ALL.map(Change::End));
        let document = plan(&question, listing.collect());
        super::contract::check(&document);
        assert_eq!(
            self.followed(&question),
            document,
            "a daemon that follows the changes has another answer"
        );
        text(&document) + "\n"
    }
}

impl Scene {
    /// The same, from what was kept and what is new.
    fn followed(&mut self, question: &Question) -> Document {
        let new = |node: &str| Live {
            cluster: Cluster::of_node(node, Origin::Folder),
            desired: Desired::default(),
            seen: 0,
        };
        let kept = self.live.take().filter(|live| **live.cluster.own_name() == *question.node);
        let mut live = kept.unwrap_or_else(|| new(&question.node));
        self.changes[live.seen..].iter().for_each(|change| live.cluster.take(change.clone()));
        live.seen = self.changes.len();
        Kind::ALL.into_iter().for_each(|kind| live.cluster.take(Change::End(kind)));
        live.desired.set_context(super::context(question, &live.cluster), &live.cluster);
        let dirty = live.cluster.dirty();
        live.desired.update(&live.cluster, dirty);
        let document = super::draw(question, &live.cluster, &live.desired);
        self.live = Some(live);
        document
    }
}

fn reference(kind: &str, name: &str) -> ObjectRef {
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind).unwrap();
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    ObjectRef::new(kind, namespace, name)
}

fn text(document: &Document) -> String {
    let Document { node: _, services, health_checks, service_cidrs, problems } = document;
    let mut text: String = services.iter().map(service).collect();
    for HealthCheck { namespace, name, family, port, local_endpoints } in health_checks {
        let family = family.map(|family| format!(" {family}")).unwrap_or_default();
        writeln!(text, "health {namespace}/{name} port {port}{family}: {local_endpoints}").unwrap();
    }
    text.extend(service_cidrs.iter().map(|range| format!("service range {range}\n")));
    text.extend(problems.iter().map(|problem| format!("problem {problem}\n")));
    if text.is_empty() { "nothing\n".to_owned() } else { text }
}

fn service(port: &ServicePort) -> String {
    let ServicePort { namespace, name, port_name, protocol, family, addresses, session_affinity, explain } =
        port;
    let affinity = session_affinity.map(|one| format!(" affinity {} s", one.timeout_seconds));
    let affinity = affinity.unwrap_or_default();
    let mut text = format!("{namespace}/{name}:{port_name} {protocol} {family}{affinity}\n");
    text.extend(addresses.iter().map(address));
    text.extend(explain.as_ref().map(reasons));
    text
}

fn address(Address { kind, ip, port, source_ranges, from }: &Address) -> String {
    let From { pod, node, outside } = from;
    let ranges =
        if source_ranges.is_empty() { String::new() } else { format!(" only {}", source_ranges.join(" ")) };
    let place = std::net::SocketAddr::new(*ip, *port);
    let mut text = format!("  {kind:?} {place}{ranges}\n");
    if pod == node && node == outside {
        writeln!(text, "    all      {}", flow(pod)).unwrap();
    } else {
        for (class, one) in [("pod", pod), ("node", node), ("outside", outside)] {
            writeln!(text, "    {class:8} {}", flow(one)).unwrap();
        }
    }
    text
}

fn flow(Flow { action, endpoints, masquerade, list: _ }: &Flow) -> String {
    let Some(endpoints) = endpoints else { return format!("{action:?}").to_lowercase() };
    let masqueraded = if *masquerade == Some(Masquerade::Always) { " masqueraded" } else { "" };
    format!("{}{masqueraded}", endpoints.join(" "))
}

fn reasons(Explain { lists, unused, notes }: &Explain) -> String {
    let mut text = String::new();
    text.extend(lists.iter().map(|one| format!("  {} list: {}\n", one.list, one.rule)));
    for one in unused {
        let list = one.list.map(|list| format!(" in {list} list")).unwrap_or_default();
        writeln!(text, "  not used{list}: {} ({}): {}", one.endpoint, one.slice, one.reason).unwrap();
    }
    text.extend(notes.iter().map(|note| format!("  note: {note}\n")));
    text
}

/// The first line that is another one, and what is there instead.
fn difference(told: &str, happened: &str) -> String {
    let lines =
        told.lines().chain(std::iter::repeat("(end)")).zip(happened.lines().chain(std::iter::once("(end)")));
    let first = lines.enumerate().find(|(_, (told, happened))| told != happened);
    first.map_or_else(String::new, |(number, (told, happened))| {
        format!("  line {}\n    told:     {told}\n    happened: {happened}\n", number + 1)
    })
}
