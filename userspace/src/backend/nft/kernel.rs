//! What stands in the kernel: reading tables, chains, elements and counters of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::image::{Slot, Value};
use super::sets::Set;
use super::wire::uapi::{chain, elem, generation, msg, object, rule, table, verdict};
use super::wire::{Data, Element, Place, Reader, Socket, Tables, read_comment, request};
use crate::model::Family;

/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;

/// `NLM_F_ACK`: one answer, and then the outcome.
const ACKNOWLEDGE: u16 = 4;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundChain {
    pub(super) table: String,
    pub(super) name: String,
    /// Whether it hangs on a hook.
    pub(super) hooked: bool,
}

/// The number of the ruleset in force: another one after every transaction, whoever made it.
pub(super) fn read_generation(socket: &mut Socket) -> io::Result<u32> {
    let question = request(msg::GETGEN, ACKNOWLEDGE, Tables::Ip, |_| ());
    let mut number = None;
    socket.dump(&question, |answer| number = answer.number(generation::ID).or(number))?;
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether a chain is there and hangs on a hook.
pub(super) fn is_hooked(socket: &mut Socket, place: Place<'_>, name: &str) -> io::Result<bool> {
    let question = request(msg::GETCHAIN, ACKNOWLEDGE, place.family, |w| {
        w.text(chain::TABLE, place.table);
        w.text(chain::NAME, name);
    });
    let mut hooked = false;
    match socket.dump(&question, |answer| hooked |= answer.find(chain::HOOK).is_some()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        outcome => outcome.map(|()| hooked),
    }
}

/// Tables of a family by name, with their comments.
pub(super) fn read_tables(
    socket: &mut Socket,
    family: Tables,
) -> io::Result<BTreeMap<String, Option<String>>> {
    let question = request(msg::GETTABLE, DUMP, family, |_| ());
    socket.collect(&question, |tables: &mut BTreeMap<_, _>, answer| {
        if let Some(name) = answer.text(table::NAME) {
            let about = answer.find(table::USERDATA).and_then(read_comment);
            tables.insert(name.to_owned(), about.map(str::to_owned));
        }
    })
}

/// All chains of a family.
pub(super) fn read_chains(socket: &mut Socket, family: Tables) -> io::Result<Vec<FoundChain>> {
    let question = request(msg::GETCHAIN, DUMP, family, |_| ());
    socket.collect(&question, |chains: &mut Vec<_>, answer| {
        if let (Some(table), Some(name)) = (answer.text(chain::TABLE), answer.text(chain::NAME)) {
            let hooked = answer.find(chain::HOOK).is_some();
            chains.push(FoundChain { table: table.to_owned(), name: name.to_owned(), hooked });
        }
    })
}

/// Tables with a chain on this hook.
pub(super) fn tables_on(
    socket: &mut Socket,
    family: Tables,
    hook: u32,
    kind: Option<&str>,
) -> io::Result<BTreeSet<String>> {
    let question = request(msg::GETCHAIN, DUMP, family, |_| ());
    socket.collect(&question, |tables: &mut BTreeSet<String>, answer| {
        let is_there = answer.within(chain::HOOK).number(chain::HOOK_NUMBER) == Some(hook);
        if is_there && kind.is_none_or(|kind| answer.text(chain::TYPE) == Some(kind)) {
            tables.extend(answer.text(chain::TABLE).map(str::to_owned));
        }
    })
}

/// Whether a chain has rules: whoever flushes a table leaves chains without any.
pub(super) fn has_rules(socket: &mut Socket, place: Place<'_>, name: &str) -> io::Result<bool> {
    let question = request(msg::GETRULE, DUMP, place.family, |w| {
        w.text(rule::TABLE, place.table);
        w.text(rule::CHAIN, name);
    });
    let rules = socket.collect(&question, |count: &mut usize, answer| {
        *count += usize::from(answer.text(rule::CHAIN) == Some(name));
    })?;
    Ok(rules > 0)
}

/// The elements that Services have, of all sets of a table.
pub(super) fn read_elements(
    socket: &mut Socket,
    family: Family,
    place: Place<'_>,
) -> io::Result<BTreeMap<Slot, Value>> {
    let mut all = BTreeMap::new();
    for set in Set::ALL.into_iter().filter(|set| !set.is_apart()) {
        for element in read_set(socket, place, set.name())? {
            all.insert((family, set, element.key.clone()), element.into());
        }
    }
    Ok(all)
}

/// The elements of a set.
pub(super) fn read_set(socket: &mut Socket, place: Place<'_>, set: &str) -> io::Result<Vec<Element>> {
    let question = request(msg::GETSETELEM, DUMP, place.family, |w| {
        w.text(elem::LIST_TABLE, place.table);
        w.text(elem::LIST_SET, set);
    });
    socket.collect(&question, |elements: &mut Vec<_>, answer| {
        let list = answer.within(elem::LIST_ELEMENTS).filter(|(kind, _)| *kind == rule::LIST_ELEM);
        elements.extend(list.filter_map(|(_, element)| read_element(&Reader(element))));
    })
}

/// The elements of a set, one by one and only once: whoever needs all of them begins anew where it is interrupted.
pub(super) fn scan_set(
    socket: &mut Socket,
    place: Place<'_>,
    set: &str,
    mut take: impl FnMut(Element),
) -> io::Result<()> {
    let question = request(msg::GETSETELEM, DUMP, place.family, |w| {
        w.text(elem::LIST_TABLE, place.table);
        w.text(elem::LIST_SET, set);
    });
    socket.dump(&question, |answer| {
        let list = answer.within(elem::LIST_ELEMENTS).filter(|(kind, _)| *kind == rule::LIST_ELEM);
        list.filter_map(|(_, element)| read_element(&Reader(element))).for_each(&mut take);
    })
}

/// The rules of a table, chain by chain: of each the kinds of its expressions. A chain without rules is not named.
pub(super) fn scan_rules(
    socket: &mut Socket,
    place: Place<'_>,
    mut take: impl FnMut(&str, String),
) -> io::Result<()> {
    let question = request(msg::GETRULE, DUMP, place.family, |w| w.text(rule::TABLE, place.table));
    socket.dump(&question, |answer| {
        let ours = answer.text(rule::TABLE) == Some(place.table);
        if let Some(chain) = answer.text(rule::CHAIN).filter(|_| ours) {
            let list = answer.within(rule::EXPRESSIONS).filter(|(kind, _)| *kind == rule::LIST_ELEM);
            let kinds = list.filter_map(|(_, one)| Some(Reader(one).text(rule::EXPR_NAME)?.to_owned()));
            take(chain, kinds.collect::<Vec<_>>().join(" "));
        }
    })
}

fn read_element(element: &Reader<'_>) -> Option<Element> {
    let value = |kind| element.within(kind).find(elem::DATA_VALUE).map(Box::from);
    let about = element.find(elem::USERDATA).and_then(read_comment);
    Some(Element {
        key: value(elem::KEY)?,
        end: value(elem::KEY_END),
        data: read_data(&element.within(elem::DATA)),
        comment: about.map(Box::from),
        closes: element.number(elem::FLAGS).is_some_and(|flags| flags & elem::INTERVAL_END != 0),
    })
}

fn read_data(data: &Reader<'_>) -> Data {
    if let Some(bytes) = data.find(elem::DATA_VALUE) {
        return Data::Bytes(bytes.into());
    }
    let inner = data.within(elem::DATA_VERDICT);
    match (inner.number(elem::VERDICT_CODE).map(|code| code as i32), inner.text(elem::VERDICT_CHAIN)) {
        (Some(verdict::GOTO), Some(chain)) => Data::Goto(chain.into()),
        (Some(verdict::DROP), _) => Data::Drop,
        _ => Data::None,
    }
}

/// The named counters of a table: packets.
pub(super) fn read_counters(socket: &mut Socket, place: Place<'_>) -> io::Result<BTreeMap<String, u64>> {
    let question = request(msg::GETOBJ, DUMP, place.family, |w| {
        w.text(object::TABLE, place.table);
        w.number(object::TYPE, object::COUNTER);
    });
    socket.collect(&question, |counters: &mut BTreeMap<_, _>, answer| {
        let packets = answer.within(object::DATA).long(object::COUNTER_PACKETS);
        if let (Some(name), Some(packets)) = (answer.text(object::NAME), packets) {
            counters.insert(name.to_owned(), packets);
        }
    })
}

/// The chains of one table that hang on hooks, and the others.
pub(super) fn chains_of(chains: &[FoundChain], table: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let own = chains.iter().filter(|chain| chain.table == table);
    let (hooked, plain): (Vec<_>, Vec<_>) = own.partition(|chain| chain.hooked);
    let names = |chains: Vec<&FoundChain>| chains.into_iter().map(|chain| chain.name.clone()).collect();
    (names(hooked), names(plain))
}
