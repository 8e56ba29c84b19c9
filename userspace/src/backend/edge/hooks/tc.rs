//! Programs on devices as filters of the clsact qdisc (tc-bpf(8)), for kernels without TCX. Filters outlive a daemon by
//! themselves. Ours have a name and handles of their own, so the next daemon knows them again and puts its programs in their
//! places.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption, TcU32OptionFlags,
};

use super::super::super::ebpf::sys;
use super::Direction;
use super::found::{self, Found, attribute, order};
use super::order::Standing;

/// What a filter of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Callers from outside.
    Edge,
    /// What endpoints here answer.
    Back,
}

impl Role {
    const ALL: [Self; 2] = [Self::Edge, Self::Back];

    /// What the filter is called.
    const fn name(self) -> &'static str {
        match self {
            Self::Edge => "sluice-edge",
            Self::Back => "sluice-back",
        }
    }
}

/// Their handles. One is enough, but while a filter takes the place of another.
const HANDLES: RangeInclusive<u32> = 0x51ce_0001..=0x51ce_000f;
/// The qdisc whose filters see packets in both directions.
const CLSACT: &str = "clsact";
/// `ETH_P_ALL`.
const ALL: u16 = 3;

/// `TCA_KIND`, `TCA_OPTIONS`, `TCA_CHAIN`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const CHAIN: u16 = 11;
/// `TCA_BPF_NAME`, `TCA_BPF_ID`.
const BPF_NAME: u16 = 7;
const BPF_ID: u16 = 11;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) priority: u16,
    /// Zero: no filter, but the place of all of a priority.
    handle: u32,
    protocol: u16,
    pub(super) kind: String,
    name: String,
    pub(super) program: Option<u32>,
    chain: u32,
}

impl Filter {
    /// Whether it is this layer's, of whichever daemon.
    pub(super) fn is_ours(&self) -> bool {
        Role::ALL.into_iter().any(|role| self.plays(role))
    }

    fn plays(&self, role: Role) -> bool {
        self.kind == TcFilterBpf::KIND && self.name == role.name() && HANDLES.contains(&self.handle)
    }

    /// Whether others of our kind can have the same priority.
    fn can_be_joined(&self) -> bool {
        self.kind == TcFilterBpf::KIND && self.protocol == ALL
    }

    fn of(found: &Found) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
        let options = found.attribute(OPTIONS).unwrap_or_default();
        Self {
            priority: (found.header.info >> 16) as u16,
            handle: found.header.handle.into(),
            protocol: u16::from_be(found.header.info as u16),
            kind: found.attribute(KIND).map(text).unwrap_or_default(),
            name: attribute(&options, BPF_NAME).map(text).unwrap_or_default(),
            program: attribute(&options, BPF_ID).and_then(number),
            chain: found.attribute(CHAIN).and_then(number).unwrap_or(0),
        }
    }
}

fn number(bytes: Vec<u8>) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// Filters that packets meet on one side of a device, in that order, and places without any.
fn filters(device: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let message = message(device, parent(direction), 0, 0);
    let found = found::list(RouteNetlinkMessage::GetTrafficFilter(message))?;
    Ok(found.iter().map(Filter::of).collect())
}

/// Filters of the first chain: those of others are only reached from there.
pub(super) fn list(device: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let mut all = filters(device, direction)?;
    all.retain(|filter| filter.chain == 0 && filter.handle != 0);
    // Others have an entry for each of their tables and keys: it is enough to say that they are there.
    all.dedup_by(|next, last| {
        next.kind != TcFilterBpf::KIND && (next.priority, &next.kind) == (last.priority, &last.kind)
    });
    Ok(all)
}

/// Puts a program into the filter that is there, in one step, or makes one before all others, as far as that can be. Whether
/// the qdisc had to be made.
pub(super) fn put(device: u32, direction: Direction, role: Role, program: &OwnedFd) -> io::Result<bool> {
    let found = filters(device, direction)?;
    let Some(ours) = found.iter().find(|filter| filter.plays(role)) else {
        let made = make_qdisc(device)?;
        add(device, direction, role, program, place(&found), NLM_F_EXCL)?;
        return Ok(made);
    };
    let place = (ours.priority, ours.handle);
    if ours.program != Some(sys::program_id(program.as_fd())?) {
        add(device, direction, role, program, place, 0)?;
    }
    remove_others(device, direction, role, &found, place).map(|()| false)
}

/// Whether a filter of ours could come before all others.
pub(super) fn has_room_in_front(device: u32, direction: Direction) -> io::Result<bool> {
    let found = filters(device, direction)?;
    Ok(leads(&found, place(&found)))
}

/// Puts a program before all others, and then takes away the one that had been there. For that moment there are two of them:
/// what the first has dealt with is nobody's to the second.
pub(super) fn lead(device: u32, direction: Direction, program: &OwnedFd) -> io::Result<()> {
    let found = filters(device, direction)?;
    let place = place(&found);
    add(device, direction, Role::Edge, program, place, NLM_F_EXCL)?;
    remove_others(device, direction, Role::Edge, &found, place)
}

/// Whether our filter with this program is there, and comes first.
pub(super) fn standing(device: u32, direction: Direction, own: u32) -> io::Result<Standing> {
    let found = list(device, direction)?;
    Ok(match found.iter().position(|filter| filter.plays(Role::Edge) && filter.program == Some(own)) {
        Some(0) => Standing::First,
        Some(_) => Standing::Behind,
        None => Standing::Missing,
    })
}

/// The lowest priority that our kind can have here, and a handle that is free there. The kernel puts a new filter before
/// those of the same priority.
fn place(found: &[Filter]) -> (u16, u32) {
    let first = || found.iter().filter(|filter| filter.chain == 0);
    let fits =
        |priority: &u16| first().filter(|filter| filter.priority == *priority).all(Filter::can_be_joined);
    let priority = (1..=u16::MAX).find(fits).unwrap_or(u16::MAX);
    let is_free =
        |handle: &u32| first().all(|filter| (filter.priority, filter.handle) != (priority, *handle));
    (priority, HANDLES.into_iter().find(is_free).unwrap_or(*HANDLES.start()))
}

/// Whether nothing comes before a filter at this place.
fn leads(found: &[Filter], (priority, _): (u16, u32)) -> bool {
    found.iter().all(|filter| filter.chain != 0 || filter.priority >= priority)
}

fn remove_others(
    device: u32,
    direction: Direction,
    role: Role,
    found: &[Filter],
    place: (u16, u32),
) -> io::Result<()> {
    let others =
        found.iter().filter(|filter| filter.plays(role) && (filter.priority, filter.handle) != place);
    others.into_iter().try_for_each(|filter| remove_filter(device, direction, filter))
}

fn add(
    device: u32,
    direction: Direction,
    role: Role,
    program: &OwnedFd,
    (priority, handle): (u16, u32),
    flags: u16,
) -> io::Result<()> {
    let mut message = message(device, parent(direction), priority, handle);
    let option = |option| TcOption::Bpf(option);
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(vec![
            option(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
            option(TcFilterBpfOption::ProgName(role.name().to_owned())),
            option(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            // No device can carry these programs out.
            option(TcFilterBpfOption::FlagsGeneric(TcU32OptionFlags::SkipHw)),
        ]),
    ];
    order(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | flags)
}

fn remove_filter(device: u32, direction: Direction, filter: &Filter) -> io::Result<()> {
    let mut message = message(device, parent(direction), filter.priority, filter.handle);
    message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
    or_gone(order(RouteNetlinkMessage::DelTrafficFilter(message), 0))
}

/// What is not there any more need not be removed.
fn or_gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        outcome => outcome,
    }
}

/// Makes the qdisc, if there is none. The kernel stops what leaves by the device for some milliseconds meanwhile.
fn make_qdisc(device: u32) -> io::Result<bool> {
    match order(RouteNetlinkMessage::NewQueueDiscipline(qdisc(device)), NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) && has_clsact(device)? => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            Err(io::Error::other("a qdisc of another kind (ingress) is where clsact would be"))
        }
        Err(error) => Err(error),
    }
}

/// Takes our filters off a device, first what translates forth.
pub(super) fn remove(device: u32, role: Role) -> io::Result<()> {
    for direction in Direction::BOTH {
        let ours = filters(device, direction)?.into_iter().filter(|filter| filter.plays(role));
        ours.into_iter().try_for_each(|filter| remove_filter(device, direction, &filter))?;
    }
    Ok(())
}

/// Removes the qdisc, if nobody has filters there. Like making it, this stops what leaves by the device for some milliseconds.
pub(super) fn remove_qdisc(device: u32) -> io::Result<()> {
    let is_empty = |direction| filters(device, direction).is_ok_and(|found| found.is_empty());
    if Direction::BOTH.into_iter().all(is_empty) && has_clsact(device)? {
        or_gone(order(RouteNetlinkMessage::DelQueueDiscipline(qdisc(device)), 0))?;
    }
    Ok(())
}

/// Whether a device has the qdisc.
pub(super) fn has_clsact(device: u32) -> io::Result<bool> {
    Ok(qdiscs()?.into_iter().any(|(index, kind)| index == device && kind == CLSACT))
}

/// Devices of this network namespace with filters of ours.
pub(super) fn devices(role: Role) -> io::Result<Vec<u32>> {
    let has_ours = |device: u32| {
        let mut found = Direction::BOTH.into_iter().filter_map(|direction| filters(device, direction).ok());
        found.any(|found| found.iter().any(|filter| filter.plays(role)))
    };
    Ok(qdiscs()?.into_iter().map(|(device, _)| device).filter(|device| has_ours(*device)).collect())
}

/// Devices with the qdisc, or with the older one that stands in the same place; and which it is.
fn qdiscs() -> io::Result<Vec<(u32, String)>> {
    let found = match found::list(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())) {
        // A kernel without traffic control.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        found => found?,
    };
    let stands = |found: &&Found| found.header.parent == TcHandle::CLSACT;
    let kind = |found: &Found| {
        let bytes = found.attribute(KIND).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    };
    let all = found.iter().filter(stands);
    Ok(all.map(|found| (found.header.index.cast_unsigned(), kind(found))).collect())
}

fn qdisc(device: u32) -> TcMessage {
    let mut message = TcMessage::with_index(device.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes = vec![TcAttribute::Kind(CLSACT.to_owned())];
    message
}

fn message(device: u32, parent: TcHandle, priority: u16, handle: u32) -> TcMessage {
    let mut message = TcMessage::with_index(device.cast_signed());
    message.header.parent = parent;
    message.header.handle = handle.into();
    if priority != 0 {
        message.header.info = u32::from(priority) << 16 | u32::from(ALL.to_be());
    }
    message
}

const fn parent(direction: Direction) -> TcHandle {
    let minor = match direction {
        Direction::In => TcHandle::MIN_INGRESS,
        Direction::Out => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: TcHandle::CLSACT.major, minor }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(priority: u16, kind: &str, handle: u32) -> Filter {
        let name = if HANDLES.contains(&handle) { "sluice-edge" } else { "theirs" };
        Filter {
            priority,
            handle,
            protocol: ALL,
            kind: kind.to_owned(),
            name: name.to_owned(),
            program: Some(7),
            chain: 0,
        }
    }

    #[track_caller]
    fn check(found: &[Filter], expected: (u16, u32), is_first: bool) {
        let place = place(found);
        assert_eq!(place, expected);
        assert_eq!(leads(found, place), is_first);
    }

    #[test]
    fn ours_gets_the_first_priority_that_its_kind_can_have_and_a_free_handle() {
        let [one, two] = [*HANDLES.start(), *HANDLES.start() + 1];
        check(&[], (1, one), true);
        check(&[filter(5, "u32", 9), filter(49152, "bpf", 1)], (1, one), true);
        check(&[filter(1, "bpf", 1)], (1, one), true);
        check(&[filter(1, "bpf", 1), filter(1, "bpf", one)], (1, two), true);
        check(&[filter(1, "u32", 0), filter(1, "u32", 9)], (2, one), false);
        check(&[filter(1, "u32", 9), filter(2, "flower", 1), filter(3, "bpf", 1)], (3, one), false);
        let of_ip = Filter { protocol: 0x0800, ..filter(1, "bpf", 1) };
        check(&[of_ip], (2, one), false);
        let elsewhere = Filter { chain: 4, ..filter(1, "u32", 1) };
        check(&[elsewhere], (1, one), true);
    }

    #[test]
    fn ours_is_told_by_kind_name_and_handle() {
        assert!(filter(1, "bpf", *HANDLES.start()).is_ours());
        assert!(!filter(1, "u32", *HANDLES.start()).is_ours());
        assert!(!filter(1, "bpf", 1).is_ours());
        let renamed = Filter { name: "other".to_owned(), ..filter(1, "bpf", *HANDLES.start()) };
        assert!(!renamed.is_ours());
        let back = Filter { name: "sluice-back".to_owned(), ..filter(1, "bpf", *HANDLES.start()) };
        assert!(back.is_ours() && back.plays(Role::Back) && !back.plays(Role::Edge));
    }
}
