//! The explanation for people.

use super::super::table::table;
use super::judge::has_text;
use super::{Edge, Explained, Explanation, Flow, Found, Kernel, Tried};
use crate::explain::{Answering, Candidate};

pub(super) fn text(explanation: &Explanation, wide: bool) -> String {
    let Explanation { source, target, caller: _, why_caller, is_here, no_daemon, addresses, notes } =
        explanation;
    let place = match is_here {
        Some(true) => "on this node",
        Some(false) => "not on this node",
        None => "on this node or not: name an address to tell",
    };
    let mut text = format!(
        "flow        {source} to {target}\ncaller      {}: {why_caller}; {place}\n",
        explanation.caller_word()
    );
    text.extend(no_daemon.iter().map(|why| format!("reasons     unknown: {why}\n")));
    text.extend(notes.iter().map(|note| format!("note        {note}\n")));
    text.extend(addresses.iter().map(|one| address(one, wide)));
    text
}

impl Explanation {
    fn caller_word(&self) -> &'static str {
        use crate::explain::Caller;
        match self.caller {
            Caller::Pod => "pod",
            Caller::Node => "node",
            Caller::Outside => "outside",
        }
    }
}

fn address(one: &Explained, wide: bool) -> String {
    let Explained { address, protocol, computed, served_by, why_served_by, kernel, masquerade, alarms } = one;
    let mut text = format!("\naddress     {address}/{protocol}\n");
    text += &format!("served by   {}: {why_served_by}\n", served_by.as_str());
    text.extend(computed.iter().map(computed_text));
    text += &format!("masquerade  {masquerade}\n");
    text += &kernel_text(kernel, wide);
    text.extend(alarms.iter().map(|alarm| format!("ALARM       {alarm}\n")));
    text
}

fn computed_text(computed: &Answering) -> String {
    let Answering {
        service,
        kind,
        source_ranges,
        admitted,
        action,
        list,
        candidates,
        affinity_seconds,
        notes,
        ..
    } = computed;
    let by = list.as_ref().map(|list| format!(" ({} list: {})", list.list, list.rule)).unwrap_or_default();
    let mut text = format!(
        "service     {service} ({kind:?})\nverdict     {}{by}\n",
        format!("{action:?}").to_lowercase()
    );
    if !source_ranges.is_empty() {
        let word = match admitted {
            Some(true) => "the caller is in it",
            Some(false) => "the caller is NOT in it, so its packets are dropped",
            None => "name an address to see whether it is let in",
        };
        text += &format!("sources     {}: {word}\n", source_ranges.join(", "));
    }
    let affinity =
        affinity_seconds.map_or_else(|| "none".to_owned(), |seconds| format!("ClientIP, {seconds}s"));
    text += &format!("affinity    {affinity}\n");
    text.extend(notes.iter().map(|note| format!("note        {note}\n")));
    let row = |Candidate { endpoint, used, why }: &Candidate| {
        vec![endpoint.clone(), if *used { "yes" } else { "NO" }.to_owned(), why.clone()]
    };
    let rows: Vec<Vec<String>> = candidates.iter().map(row).collect();
    text + &table(&["ENDPOINT", "USED", "WHY"], &rows)
}

fn kernel_text(kernel: &Kernel, wide: bool) -> String {
    let Kernel { running, socket, nftables, edge, flows, remembered } = kernel;
    let mut text = format!("kernel      socket: {}\n", found_text(socket));
    text += &format!("            nftables: {}\n", found_text(nftables));
    text += &format!("            edge: {}\n", edge_text(edge));
    if let Some(running) = running.as_ref().filter(|_| wide) {
        text += &format!("dataplane   {}: {}\n", running.dataplane, running.reason);
    }
    if let Some((endpoint, seconds)) = remembered {
        text += &format!("remembered  {endpoint} at the edge, last new flow {seconds}s ago\n");
    }
    let flow =
        |Flow { client, endpoint, state }: &Flow| format!("flow        {client} has {endpoint} ({state})\n");
    text.extend(flows.iter().map(flow));
    text
}

fn found_text(found: &Found) -> String {
    match found {
        Found { unread: Some(why), has: _ } => format!("unknown: {why}"),
        Found { unread: None, has: Some(has) } => has_text(has),
        Found { unread: None, has: None } => "nothing at this address".to_owned(),
    }
}

fn edge_text(edge: &Edge) -> String {
    let Edge { untried, device, program, outcomes } = edge;
    if let Some(why) = untried {
        return format!("not tried: {why}");
    }
    let outcome = |Tried { verdict, endpoint, source, packets }: &Tried| {
        let to = endpoint.map(|endpoint| format!(" to {endpoint}")).unwrap_or_default();
        let source = source.map(|source| format!(" as {source}")).unwrap_or_default();
        format!("{packets} {verdict}{to}{source}")
    };
    let outcomes: Vec<String> = outcomes.iter().map(outcome).collect();
    let (device, program) = (device.as_deref().unwrap_or("?"), program.unwrap_or_default());
    format!("first packets run through program {program} of {device}, not sent: {}", outcomes.join("; "))
}
