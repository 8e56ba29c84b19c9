//! What the command line takes and refuses.

use std::path::PathBuf;

use clap::Arg;

use super::{Own, Refused, Task, Verb, but_not_empty, contradictions, mount_point, parse};

fn read(line: &str) -> Result<Task, Refused> {
    parse(std::iter::once("sluice").chain(line.split(' ')).map(Into::into))
}

fn complaints(line: &str) -> Vec<String> {
    match read(line) {
        Err(Refused::Wrong(complaints)) => complaints,
        Err(Refused::Asked(text)) => vec![format!("asked: {text}")],
        Ok(_) => Vec::new(),
    }
}

/// The command line makes complaints with these words, one each.
#[track_caller]
fn check(line: &str, words: &[&str]) {
    let found = complaints(line);
    assert_eq!(found.len(), words.len(), "{line}: {found:#?}");
    for word in words {
        assert!(found.iter().any(|complaint| complaint.contains(word)), "{word} is not in: {found:#?}");
    }
}

#[test]
fn every_complaint_is_made_at_once() {
    check(
        "run --nonsense --slots-capacity many --services-capacity 2 --source /does/not/exist",
        &["--nonsense", "many", "--services-capacity is 2", "/does/not/exist"],
    );
    check(
        "run --masquerade-all=maybe --conntrack-min x --oom-score-adj=5000 -v loud --cleanup=x --config-sync-period 0",
        &["--masquerade-all", "--conntrack-min", "oomScoreAdj", "--v", "--cleanup", "configSyncPeriod"],
    );
    check(
        "run --config /does/not/exist --slots-capacity 1",
        &["--config /does/not/exist", "--slots-capacity"],
    );
}

#[test]
fn two_sources_are_refused() {
    check("run --source / --kubeconfig /proc/self/status", &["exclude each other"]);
}

#[test]
fn a_daemon_that_nobody_would_serve_for_is_refused() {
    check(
        "run --dataplane=nftables --nftables=drain-only",
        &["--dataplane=nftables and --nftables=drain-only exclude each other"],
    );
    for line in [
        "run --dataplane=nftables --nftables=always",
        "run --dataplane=ebpf --nftables=drain-only",
        "run --nftables=drain-only",
    ] {
        check(line, &[]);
    }
}

#[test]
fn marks_that_share_a_bit_are_refused() {
    let (iptables, nftables) = ("iptables.masqueradeBit", "nftables.masqueradeBit");
    for (line, field, from, flag, bit) in [
        ("run --notrack-mark-bit 14", iptables, "default", "flag --notrack-mark-bit", 14),
        (
            "run --proxy-mode nftables --notrack-mark-bit 14",
            nftables,
            "default",
            "flag --notrack-mark-bit",
            14,
        ),
        ("run --iptables-masquerade-bit 15", iptables, "flag --iptables-masquerade-bit", "default", 15),
        (
            "run --print-config --iptables-masquerade-bit=0 --notrack-mark-bit=0",
            iptables,
            "flag --iptables-masquerade-bit",
            "flag --notrack-mark-bit",
            0,
        ),
    ] {
        let said = format!(
            "{field} ({from}) and --notrack-mark-bit ({flag}) are both {bit}: each needs a bit of the mark for itself"
        );
        assert_eq!(complaints(line), [said], "{line}");
    }
    // The field of the other mode asks for nothing.
    check("run --proxy-mode nftables --iptables-masquerade-bit 15", &[]);
    check("run --iptables-masquerade-bit 15 --notrack-mark-bit 14", &[]);
    check(
        "run --notrack-mark-bit 14 --slots-capacity 1",
        &["--slots-capacity is 1", "iptables.masqueradeBit (default) and --notrack-mark-bit"],
    );
}

#[test]
fn the_number_of_affinity_clients_has_bounds() {
    let taken = |number: &str| {
        let line = ["sluice", "run", "--affinity-clients", number];
        super::read(&line.map(Into::into)).is_ok()
    };
    assert_eq!(["1", "16777216"].map(taken), [true; 2]);
    assert_eq!(["0", "16777217", "-1", "many"].map(taken), [false; 4]);
}

#[test]
fn flows_of_one_service_are_asked_for_by_namespace_and_name() {
    let Ok(Task::Flows(flags)) = read("flows --service default/web -o json") else { panic!("not flows") };
    assert_eq!(flags.service.unwrap().to_string(), "default/web");
    for wrong in ["web", "default/", "/web", "default/web/tcp", ""] {
        let line = format!("flows --service={wrong}");
        check(&line, &["--service <NAMESPACE/NAME>"]);
        if !wrong.is_empty() {
            check(&line, &["write a namespace and a name, as in default/web"]);
        }
    }
}

#[test]
fn ports_of_the_edge_layer_are_a_range() {
    for wrong in ["0-10", "10-9", "1024", "a-b", "1-70000"] {
        let line = format!("run --snat-ports={wrong}");
        check(&line, &["--snat-ports <FIRST-LAST>"]);
        check(&line, &[wrong]);
    }
    check("run --edge=maybe", &["--edge <WHERE>"]);
}

/// What is wrong with a command line if these flags' values came from these variables.
#[track_caller]
fn from_variables(line: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let words: Vec<_> = std::iter::once("sluice").chain(line.split(' ')).map(Into::into).collect();
    let (cli, mut own) = super::read(&words).unwrap();
    let Verb::Run(run) = cli.verb else { panic!("not run") };
    for Own { flag, value: _, origin } in &mut own {
        if let Some((_, name)) = variables.iter().find(|(of, _)| of == flag) {
            *origin = format!("environment {name}");
        }
    }
    assert_eq!(contradictions(&run, &own), expected, "{line}");
}

#[test]
fn a_complaint_names_the_variable_that_the_value_came_from() {
    let source = [("--source", "SLUICE_SOURCE")];
    from_variables("run --source /dev/null", &source, &["SLUICE_SOURCE /dev/null is not a directory"]);
    from_variables(
        "run --cgroup /dev/null --services-capacity 1",
        &[("--cgroup", "SLUICE_CGROUP")],
        &[
            "SLUICE_CGROUP /dev/null is not a directory",
            "--services-capacity is 1, but the smallest map holds 16",
        ],
    );
    from_variables(
        "run --source / --kubeconfig /dev/null",
        &source,
        &["SLUICE_SOURCE and --kubeconfig exclude each other: objects come from one place"],
    );
    from_variables("run --source /dev/null", &[], &["--source /dev/null is not a directory"]);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    // Cargo sets both for tests, the first to nothing.
    let kept = |name: &'static str| but_not_empty(Arg::new("x").env(name)).get_env().is_some();
    assert_eq!(kept("CARGO_PKG_VERSION_PRE"), std::env::var_os("CARGO_PKG_VERSION_PRE").is_none());
    assert!(kept("CARGO_PKG_NAME") && kept("NOBODY_SETS_THIS"));
}

#[test]
fn the_node_of_a_plan_may_not_be_blank() {
    let words = ["sluice", "plan", "--node", " "].map(Into::into);
    let Err(Refused::Wrong(complaints)) = parse(words) else { panic!("taken") };
    assert_eq!(complaints, ["--node \" \" is blank"]);
    check("plan --node=", &[]);
}

#[test]
fn a_good_command_line_has_no_complaints() {
    for line in [
        "run --source / --node-name n1",
        "run --source / --node-name n1 --log-format json --verbosity 1",
        "run -v2 --proxy-mode nftables --masquerade-all --iptables-localhost-nodeports=false",
        "run -v=2 --v=4 --oom-score-adj -998 --conntrack-tcp-timeout-established 1h30m",
        "run --nodeport-addresses 10.0.0.0/8,fd00::/8 --nodeport-addresses primary --cluster_cidr=10.244.0.0/16",
        "run --oom-score-adj=-0x3e7 --conntrack-min 131_072",
        "run --feature-gates=AllAlpha=true,AllBeta=false --cluster-cidr= --init-only=false",
        "status -o json",
        "probe --dataplane ebpf --nftables drain-only -o yaml",
    ] {
        check(line, &[]);
    }
}

#[test]
fn whoever_waits_says_for_how_long_and_does_not_watch() {
    let wait = |line: &str| match read(line) {
        Ok(Task::Drain(flags)) => Some((flags.service.is_some(), flags.wait.map(|wait| wait.as_millis()))),
        _ => None,
    };
    assert_eq!(wait("drain"), Some((false, None)));
    assert_eq!(wait("drain default/web --wait -o json"), Some((true, Some(300_000))));
    assert_eq!(wait("drain --wait=0.5 --watch=1"), None);
    assert_eq!(wait("drain --wait=0.5"), Some((false, Some(500))));
    for wrong in ["drain --wait=0", "drain --wait=x", "drain web", "drain --wait --watch"] {
        assert_eq!(wait(wrong), None, "{wrong}");
    }
}

#[test]
fn each_deed_instead_of_running_has_its_flag() {
    let deed = |line: &str| match read(line) {
        Ok(Task::Run(..)) => "run",
        Ok(Task::PrintConfig(..)) => "print",
        Ok(Task::WriteConfig(..)) => "write",
        Ok(Task::InitOnly) => "init",
        Ok(Task::Cleanup(_)) => "cleanup",
        Ok(Task::Plan(..) | Task::Diff(..)) => "plan",
        Ok(
            Task::Status(_)
            | Task::Services(_)
            | Task::Backends(_)
            | Task::Flows(_)
            | Task::Audit(_)
            | Task::Drain(_)
            | Task::Top(_)
            | Task::Probe(_)
            | Task::Explain(_),
        ) => "show",
        Ok(Task::Completions(_) | Task::Man(_)) => "about itself",
        Err(Refused::Asked(_)) => "asked",
        Err(Refused::Wrong(_)) => "wrong",
    };
    for (line, expected) in [
        ("run", "run"),
        ("run --cleanup --init-only", "cleanup"),
        ("run --cleanup=false", "run"),
        ("run --init-only", "init"),
        ("run --write-config-to x --cleanup", "write"),
        ("run --print-config -o yaml", "print"),
        ("run -o yaml", "wrong"),
        ("run --version", "asked"),
        ("run --version=raw", "asked"),
        ("run --help", "asked"),
        ("audit --fix -o json", "show"),
        ("cleanup", "cleanup"),
        ("backends", "show"),
        ("flows", "show"),
        ("flows --watch -o wide", "show"),
        ("explain pod 10.96.0.1:80", "show"),
        ("explain 192.0.2.1 default/web:http/udp -o json", "show"),
        ("explain pod", "wrong"),
        ("explain pod web", "wrong"),
        ("status --watch=0.5", "show"),
        ("status --watch=0", "wrong"),
        ("completions fish", "about itself"),
        ("completions", "wrong"),
        ("man", "about itself"),
        ("man /tmp/pages", "about itself"),
        ("run now", "wrong"),
        ("plan --source / --node n1 --explain --strict -o yaml", "plan"),
        ("plan --node-address 10.0.0.1 --node-address fd00::1,10.0.0.2", "plan"),
        ("plan --node-address here", "wrong"),
        ("plan --source /does/not/exist", "wrong"),
        ("diff --source / --node n1 -o json", "plan"),
        ("diff --source / --kubeconfig /etc/passwd", "wrong"),
        ("plan --source / --kubeconfig /proc/self/status", "wrong"),
        ("plan --config /does/not/exist", "wrong"),
    ] {
        assert_eq!(deed(line), expected, "{line}");
    }
}

#[test]
fn the_node_of_a_plan_is_the_one_named() {
    let Ok(Task::Plan(_, effective)) = read("plan --node N1") else { panic!("no plan") };
    assert_eq!(effective.node, "n1");
}

#[test]
fn what_sluice_has_of_its_own_is_printed_with_its_origin() {
    let Ok(Task::PrintConfig(effective, own, _)) = read("run --print-config --slots-capacity 99 --master m")
    else {
        panic!("not to be printed");
    };
    let text = crate::settings::print::table(&effective, &own);
    let row = |flag: &str| text.lines().find(|line| line.starts_with(flag)).unwrap_or_default().to_owned();
    assert!(row("--slots-capacity").ends_with("flag --slots-capacity"), "{text}");
    assert!(row("--services-capacity").ends_with("default"), "{text}");
    assert!(row("--master").ends_with("flag --master"), "{text}");
    assert!(row("--cleanup").is_empty() && row("--output").is_empty(), "{text}");
}

#[test]
fn mounts_are_found_by_type() {
    let mounts = "a /sys tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw 0 0\n";
    assert_eq!(mount_point(mounts, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
    assert_eq!(mount_point(mounts, "bpf"), None);
}

#[test]
fn the_kernel_is_looked_through_as_often_as_is_said() {
    for (line, expected) in [
        ("run", Some(Some(60))),
        ("run --audit-interval=1m30s", Some(Some(90))),
        ("run --audit-interval=0", Some(None)),
        ("run --audit-interval=soon", None),
        ("run --audit-interval=-1s", None),
    ] {
        let found = match read(line) {
            Ok(Task::Run(run, _)) => Some(run.audit_interval().map(|every| every.as_secs())),
            Ok(_) | Err(_) => None,
        };
        assert_eq!(found, expected, "{line}");
    }
}
