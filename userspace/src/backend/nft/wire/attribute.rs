//! Netlink attributes: length, type, value, padded to four bytes. Lengths and types are in the machine's byte order, numbers
//! of this subsystem's attributes in network order.

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
const HEADER: usize = 4;
const ALIGN: usize = 4;

/// Writes attributes, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// Plain bytes.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = (HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A text; it is ended by a zero byte.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let length = (HEADER + value.len() + 1) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// A number of 32 bits.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A number of 64 bits.
    pub(crate) fn long(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Attributes in an attribute. What is in it must be shorter than 64 KiB.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + HEADER].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

/// Reads attributes: type without flags, and value. Ends where something does not fit.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Reader<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind) & !(NESTED | 0x4000), value))
    }
}

impl<'a> Reader<'a> {
    /// The first attribute of a type.
    pub(crate) fn find(&self, kind: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self.clone(), |(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes in an attribute; none if it is not there.
    pub(crate) fn within(&self, kind: u16) -> Self {
        Self(self.find(kind).unwrap_or_default())
    }

    /// A number of 32 bits.
    pub(crate) fn number(&self, kind: u16) -> Option<u32> {
        self.find(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A number of 64 bits.
    pub(crate) fn long(&self, kind: u16) -> Option<u64> {
        self.find(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// A text without its zero byte.
    pub(crate) fn text(&self, kind: u16) -> Option<&'a str> {
        let value = self.find(kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = Writer::default();
        writer.text(1, "sluice");
        writer.nest(4, |inner| inner.number(2, 7));
        writer.put(5, &[9]);
        let reader = Reader(&writer.bytes);
        assert_eq!(reader.text(1), Some("sluice"));
        assert_eq!(reader.within(4).number(2), Some(7));
        assert_eq!(reader.find(5), Some(&[9][..]));
        assert_eq!(reader.find(6), None);
    }

    #[test]
    fn values_are_padded_to_four_bytes() {
        let mut writer = Writer::default();
        writer.put(3, &[1]);
        assert_eq!(writer.bytes, [5, 0, 3, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn reading_ends_where_something_does_not_fit() {
        for bytes in [&[][..], &[4], &[3, 0, 1, 0], &[12, 0, 1, 0, 1], &[0, 0, 0, 0]] {
            assert_eq!(Reader(bytes).next(), None, "{bytes:?}");
        }
        assert_eq!(Reader(&[5, 0, 1, 0, 9]).collect::<Vec<_>>(), [(1, &[9][..])]);
    }
}
