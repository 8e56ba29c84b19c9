//! A transaction: messages that take effect together or not at all.

use std::borrow::Cow;

use super::attribute::Writer;
use super::expression::{ANONYMOUS_MAP, Expression, write_verdict};
use super::uapi::{BATCH_BEGIN, BATCH_END, SUBSYSTEM, chain, elem, msg, object, rule, set, table, verdict};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x1;
/// `NLM_F_CREATE`.
const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: a rule goes to the end of its chain.
const APPEND: u16 = 0x800;
/// A list of elements in one message is shorter than this: its length has sixteen bits.
const LIST_BYTES: usize = 0xf000;
/// nft's mark of a comment in user data (`NFTNL_UDATA_*_COMMENT`).
const COMMENT: u8 = 0;

/// Which tables (`NFPROTO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tables {
    /// Tables of both families.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// Where something is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The family.
    pub(crate) family: Tables,
    /// The table.
    pub(crate) table: &'a str,
}

/// What a base chain hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `nat` or `filter`.
    pub(crate) kind: &'static str,
    /// `NF_INET_*`.
    pub(crate) number: u32,
    /// Order among chains on the same hook.
    pub(crate) priority: i32,
}

/// A named set or map.
#[derive(Clone, Debug)]
pub(crate) struct SetShape {
    /// Its name.
    pub(crate) name: &'static str,
    /// `NFT_SET_*`.
    pub(crate) flags: u32,
    /// What nft takes the key for; the kernel does not look.
    pub(crate) key_type: u32,
    /// Lengths of the fields of the key, in bytes, unpadded.
    pub(crate) fields: Vec<u32>,
    /// What nft takes the data for, and its length in bytes.
    pub(crate) data: Option<(u32, u32)>,
    /// Most elements.
    pub(crate) size: Option<u32>,
    /// For nft: how to print types.
    pub(crate) userdata: Vec<u8>,
}

/// What an element of a map says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// Nothing: it is a set's.
    None,
    /// Drop.
    Drop,
    /// Go to this chain.
    Goto(Box<str>),
    /// These bytes.
    Bytes(Box<[u8]>),
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// Its key, each field padded to four bytes.
    pub(crate) key: Box<[u8]>,
    /// The last key it stands for, if it stands for several.
    pub(crate) end: Option<Box<[u8]>>,
    /// What it says.
    pub(crate) data: Data,
    /// A comment.
    pub(crate) comment: Option<Box<str>>,
    /// Of a set of intervals: the first key that does not belong to the interval before.
    pub(crate) closes: bool,
}

impl Element {
    /// One that is just in a set.
    pub(crate) fn plain(key: Box<[u8]>) -> Self {
        Self { key, end: None, data: Data::None, comment: None, closes: false }
    }
}

/// A transaction that is being written.
#[derive(Debug)]
pub(crate) struct Batch {
    writer: Writer,
    /// What each message does, for people; the number of a message is its place here plus one.
    deeds: Vec<Cow<'static, str>>,
    sets: u32,
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self { writer: Writer::default(), deeds: Vec::new(), sets: 0 };
        batch.header(BATCH_BEGIN, REQUEST, 0, |_| ());
        batch
    }
}

impl Batch {
    /// Whether it does nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.deeds.is_empty()
    }

    /// The bytes to send, and what each message does.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Vec<Cow<'static, str>>) {
        self.header(BATCH_END, REQUEST, 0, |_| ());
        self.unfinished()
    }

    /// The same without the end: the kernel checks every message and then takes all of them back.
    pub(crate) fn unfinished(self) -> (Vec<u8>, Vec<Cow<'static, str>>) {
        (self.writer.bytes, self.deeds)
    }

    /// Makes a table, or finds it there.
    pub(crate) fn add_table(&mut self, place: Place<'_>, about: &str) {
        self.message(msg::NEWTABLE, CREATE, place, format!("add table {}", place.table), |w| {
            w.text(table::NAME, place.table);
            w.number(table::FLAGS, 0);
            w.put(table::USERDATA, &comment(about));
        });
    }

    /// Removes a table and all that is in it.
    pub(crate) fn delete_table(&mut self, place: Place<'_>) {
        self.message(msg::DELTABLE, 0, place, format!("delete table {}", place.table), |w| {
            w.text(table::NAME, place.table);
        });
    }

    /// Makes a named counter.
    pub(crate) fn add_counter(&mut self, place: Place<'_>, name: &str) {
        self.message(msg::NEWOBJ, CREATE, place, format!("add counter {name}"), |w| {
            w.text(object::TABLE, place.table);
            w.text(object::NAME, name);
            w.number(object::TYPE, object::COUNTER);
            w.nest(object::DATA, |data| {
                data.long(object::COUNTER_BYTES, 0);
                data.long(object::COUNTER_PACKETS, 0);
            });
        });
    }

    /// Makes a chain, on a hook or not.
    pub(crate) fn add_chain(&mut self, place: Place<'_>, name: &str, hook: Option<Hook>) {
        self.message(msg::NEWCHAIN, CREATE, place, format!("add chain {name}"), |w| {
            w.text(chain::TABLE, place.table);
            w.text(chain::NAME, name);
            if let Some(hook) = hook {
                w.nest(chain::HOOK, |inner| {
                    inner.number(chain::HOOK_NUMBER, hook.number);
                    inner.number(chain::HOOK_PRIORITY, hook.priority as u32);
                });
                w.text(chain::TYPE, hook.kind);
            }
        });
    }

    /// Removes a chain with its rules; nothing may lead there.
    pub(crate) fn delete_chain(&mut self, place: Place<'_>, name: &str) {
        self.message(msg::DELCHAIN, 0, place, format!("delete chain {name}"), |w| {
            w.text(chain::TABLE, place.table);
            w.text(chain::NAME, name);
        });
    }

    /// Adds a rule at the end of a chain.
    pub(crate) fn add_rule(&mut self, place: Place<'_>, to: &str, steps: &[Expression<'_>]) {
        self.message(msg::NEWRULE, CREATE | APPEND, place, format!("add a rule to chain {to}"), |w| {
            w.text(rule::TABLE, place.table);
            w.text(rule::CHAIN, to);
            w.nest(rule::EXPRESSIONS, |list| steps.iter().for_each(|step| step.write(list)));
        });
    }

    /// Removes all rules of a chain.
    pub(crate) fn flush_chain(&mut self, place: Place<'_>, name: &str) {
        self.message(msg::DELRULE, 0, place, format!("flush chain {name}"), |w| {
            w.text(rule::TABLE, place.table);
            w.text(rule::CHAIN, name);
        });
    }

    /// Makes a set or map.
    pub(crate) fn add_set(&mut self, place: Place<'_>, shape: &SetShape) {
        let id = self.next_set();
        self.message(msg::NEWSET, CREATE, place, format!("add set {}", shape.name), |w| {
            write_set(w, place.table, shape, id)
        });
    }

    /// Makes a map without a name for the rule that comes next, from numbers to chains; returns what the rule calls it.
    pub(crate) fn add_anonymous_map(&mut self, place: Place<'_>, chains: &[&str]) -> u32 {
        let id = self.next_set();
        self.message(msg::NEWSET, CREATE, place, "add a map without a name", |w| {
            w.text(set::TABLE, place.table);
            w.text(set::NAME, ANONYMOUS_MAP);
            w.number(set::FLAGS, set::ANONYMOUS | set::CONSTANT | set::MAP);
            w.number(set::KEY_TYPE, INTEGER);
            w.number(set::KEY_LEN, 4);
            w.number(set::DATA_TYPE, set::VERDICT);
            w.number(set::DATA_LEN, 0);
            w.number(set::ID, id);
            w.nest(set::DESC, |desc| desc.number(set::DESC_SIZE, chains.len() as u32));
            w.put(set::USERDATA, &HOST_ORDER);
        });
        let elements = (0_u32..).zip(chains).map(|(index, chain)| Element {
            data: Data::Goto((*chain).into()),
            ..Element::plain(index.to_ne_bytes().into())
        });
        let elements: Vec<Element> = elements.collect();
        self.elements(msg::NEWSETELEM, CREATE, place, (ANONYMOUS_MAP, Some(id)), elements.iter());
        id
    }

    /// Adds elements.
    pub(crate) fn add_elements<'e>(
        &mut self,
        place: Place<'_>,
        set: &str,
        elements: impl Iterator<Item = &'e Element>,
    ) {
        self.elements(msg::NEWSETELEM, CREATE, place, (set, None), elements);
    }

    /// Removes elements, by their keys.
    pub(crate) fn delete_elements<'e>(
        &mut self,
        place: Place<'_>,
        set: &str,
        elements: impl Iterator<Item = &'e Element>,
    ) {
        self.elements(msg::DELSETELEM, 0, place, (set, None), elements);
    }

    /// Removes all elements of a set.
    pub(crate) fn flush_set(&mut self, place: Place<'_>, name: &str) {
        self.message(msg::DELSETELEM, 0, place, format!("flush set {name}"), |w| {
            w.text(elem::LIST_TABLE, place.table);
            w.text(elem::LIST_SET, name);
        });
    }

    fn next_set(&mut self) -> u32 {
        self.sets += 1;
        self.sets
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: u16,
        place: Place<'_>,
        (name, id): (&str, Option<u32>),
        elements: impl Iterator<Item = &'e Element>,
    ) {
        let mut elements = elements.peekable();
        let verb = if kind == msg::NEWSETELEM { "add" } else { "delete" };
        while elements.peek().is_some() {
            self.message(kind, flags, place, format!("{verb} elements of {name}"), |w| {
                w.text(elem::LIST_TABLE, place.table);
                w.text(elem::LIST_SET, name);
                if let Some(id) = id {
                    w.number(elem::LIST_SET_ID, id);
                }
                w.nest(elem::LIST_ELEMENTS, |list| {
                    let start = list.bytes.len();
                    while list.bytes.len() - start < LIST_BYTES
                        && let Some(element) = elements.next()
                    {
                        let is_new = kind == msg::NEWSETELEM;
                        list.nest(rule::LIST_ELEM, |inner| write_element(inner, element, is_new));
                    }
                });
            });
        }
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        place: Place<'_>,
        deed: impl Into<Cow<'static, str>>,
        fill: impl FnOnce(&mut Writer),
    ) {
        self.deeds.push(deed.into());
        self.header((SUBSYSTEM << 8) | kind, REQUEST | flags, place.family as u8, fill);
    }

    /// A message: netlink's header, netfilter's header, attributes.
    fn header(&mut self, kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Writer)) {
        let start = self.writer.bytes.len();
        let resource = if kind < SUBSYSTEM << 8 { SUBSYSTEM } else { 0 };
        let number = self.deeds.len() as u32;
        write_header(&mut self.writer, (kind, flags, number), (family, resource));
        fill(&mut self.writer);
        let length = (self.writer.bytes.len() - start) as u32;
        self.writer.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// A question to the kernel: one message.
pub(crate) fn request(kind: u16, flags: u16, family: Tables, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    write_header(&mut writer, ((SUBSYSTEM << 8) | kind, REQUEST | flags, 1), (family as u8, 0));
    fill(&mut writer);
    let length = writer.bytes.len() as u32;
    writer.bytes[..4].copy_from_slice(&length.to_ne_bytes());
    writer.bytes
}

/// The length is filled in afterwards.
fn write_header(writer: &mut Writer, (kind, flags, number): (u16, u16, u32), (family, resource): (u8, u16)) {
    let bytes = &mut writer.bytes;
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&number.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[family, 0]);
    bytes.extend_from_slice(&resource.to_be_bytes());
}

/// nft's number of a plain integer.
const INTEGER: u32 = 4;
/// What nft writes beside such a map: the key is in the machine's byte order, the data a verdict.
const HOST_ORDER: [u8; 28] =
    [0, 4, 1, 0, 0, 0, 1, 4, 0, 0, 0, 0, 4, 8, 0, 4, 1, 0, 0, 0, 1, 0, 6, 4, 0, 0, 0, 0];

fn write_set(w: &mut Writer, table: &str, shape: &SetShape, id: u32) {
    w.text(set::TABLE, table);
    w.text(set::NAME, shape.name);
    w.number(set::FLAGS, shape.flags);
    w.number(set::KEY_TYPE, shape.key_type);
    w.number(set::KEY_LEN, shape.fields.iter().map(|length| length.next_multiple_of(4)).sum());
    if let Some((kind, length)) = shape.data {
        w.number(set::DATA_TYPE, kind);
        w.number(set::DATA_LEN, length);
    }
    w.number(set::ID, id);
    if shape.size.is_some() || shape.flags & set::CONCAT != 0 {
        w.nest(set::DESC, |desc| write_description(desc, shape));
    }
    w.put(set::USERDATA, &shape.userdata);
}

fn write_description(desc: &mut Writer, shape: &SetShape) {
    if let Some(size) = shape.size {
        desc.number(set::DESC_SIZE, size);
    }
    if shape.flags & set::CONCAT != 0 {
        desc.nest(set::DESC_CONCAT, |concat| {
            for length in &shape.fields {
                concat.nest(rule::LIST_ELEM, |field| field.number(set::FIELD_LEN, *length));
            }
        });
    }
}

/// For removal the key is enough.
fn write_element(w: &mut Writer, element: &Element, is_new: bool) {
    let Element { key, end, data, comment: about, closes } = element;
    if *closes {
        w.number(elem::FLAGS, elem::INTERVAL_END);
    }
    w.nest(elem::KEY, |value| value.put(elem::DATA_VALUE, key));
    if let Some(end) = end {
        w.nest(elem::KEY_END, |value| value.put(elem::DATA_VALUE, end));
    }
    if !is_new {
        return;
    }
    match data {
        Data::None => {}
        Data::Drop => w.nest(elem::DATA, |value| write_verdict(value, verdict::DROP, None)),
        Data::Goto(chain) => w.nest(elem::DATA, |value| write_verdict(value, verdict::GOTO, Some(chain))),
        Data::Bytes(bytes) => w.nest(elem::DATA, |value| value.put(elem::DATA_VALUE, bytes)),
    }
    if let Some(about) = about {
        w.put(elem::USERDATA, &comment(about));
    }
}

/// A comment as nft writes it into user data: type, length with the zero byte, text, zero byte. What is too long is cut.
fn comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(usize::from(u8::MAX) - 3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text.as_bytes()[..end];
    [&[COMMENT, text.len() as u8 + 1], text, &[0]].concat()
}

/// The comment in user data.
pub(crate) fn read_comment(userdata: &[u8]) -> Option<&str> {
    let [COMMENT, length, rest @ ..] = userdata else { return None };
    std::str::from_utf8(rest.get(..usize::from(*length).checked_sub(1)?)?).ok()
}
