//! One hash map in the kernel, read and written in batches.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;

use aya::Pod;
use aya::maps::MapData;

use super::sys;
use crate::backend::BackendError;

/// Entries a system call carries. 4,096 take about 2 ms in the kernel, during which nothing else waits.
const BATCH: usize = 4096;

/// Entries that a system call carries where nobody may be held up.
const PIECE: usize = 512;

/// A map with keys `K` and values `V`.
#[derive(Debug)]
pub(in crate::backend) struct Table<K, V> {
    name: &'static str,
    data: MapData,
    capacity: u32,
    kinds: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Takes a map whose shape has been checked.
    pub(in crate::backend) fn new(name: &'static str, data: MapData) -> Result<Self, BackendError> {
        let info = data.info().map_err(|error| failed(name, "inspect", io::Error::other(error)))?;
        Ok(Self { name, data, capacity: info.max_entries(), kinds: PhantomData })
    }

    /// How many entries fit.
    pub(in crate::backend) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Writes entries, new or known.
    pub(in crate::backend) fn put(&self, entries: &[(K, V)]) -> Result<(), BackendError> {
        for chunk in entries.chunks(BATCH) {
            let keys: Vec<u8> = chunk.iter().flat_map(|(key, _)| bytes(key)).copied().collect();
            let values: Vec<u8> = chunk.iter().flat_map(|(_, value)| bytes(value)).copied().collect();
            sys::update_batch(self.data.fd().as_fd(), &keys, &values, chunk.len() as u32)
                .map_err(|error| failed(self.name, "write", error))?;
        }
        Ok(())
    }

    /// Removes entries; one that is not there is as good as removed.
    pub(in crate::backend) fn remove(&self, keys: &[K]) -> Result<(), BackendError> {
        let mut rest = keys;
        while !rest.is_empty() {
            let chunk = rest.get(..BATCH).unwrap_or(rest);
            let flat: Vec<u8> = chunk.iter().flat_map(bytes).copied().collect();
            let (removed, missing) = sys::delete_batch(self.data.fd().as_fd(), &flat, chunk.len() as u32)
                .map_err(|error| failed(self.name, "remove from", error))?;
            let done = removed as usize + usize::from(missing);
            rest = rest.get(done.max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    /// One entry.
    pub(in crate::backend) fn get(&self, key: &K) -> Result<Option<V>, BackendError> {
        let mut room = vec![0_u8; size_of::<V>()];
        let found = sys::lookup(self.data.fd().as_fd(), bytes(key), &mut room);
        Ok(found.map_err(|error| failed(self.name, "read", error))?.then(|| value(&room)))
    }

    /// Writes an entry, unless there is one with its key. Whether it was written.
    pub(in crate::backend) fn add(&self, key: &K, value: &V) -> Result<bool, BackendError> {
        let added = sys::insert(self.data.fd().as_fd(), bytes(key), bytes(value));
        added.map_err(|error| failed(self.name, "write", error))
    }

    /// Every entry, sorted by key.
    pub(in crate::backend) fn dump(&self) -> Result<Vec<(K, V)>, BackendError>
    where
        K: Ord,
    {
        let mut entries = Vec::new();
        self.scan(|some| {
            entries.extend(some);
            Ok(())
        })?;
        entries.sort_unstable_by_key(|(key, _): &(K, V)| *key);
        entries.dedup_by_key(|(key, _)| *key);
        Ok(entries)
    }

    /// Every entry, some at a time. One that moves meanwhile may come twice.
    pub(in crate::backend) fn scan(
        &self,
        mut take: impl FnMut(Vec<(K, V)>) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let mut place = Place { room: BATCH, ..Place::default() };
        loop {
            let (some, end) = self.some(&mut place)?;
            take(some)?;
            if end {
                return Ok(());
            }
        }
    }

    /// Some entries from this place on, and whether they were the last.
    pub(in crate::backend) fn some(&self, place: &mut Place) -> Result<(Vec<(K, V)>, bool), BackendError> {
        loop {
            let room = place.room;
            let mut keys = vec![0_u8; room * size_of::<K>()];
            let mut values = vec![0_u8; room * size_of::<V>()];
            let fd = self.data.fd().as_fd();
            let read = sys::lookup_batch(fd, &mut place.cursor, &mut keys, &mut values, room as u32);
            let (count, end) = match read {
                Ok(read) => read,
                // A bucket holds more than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    place.room *= 2;
                    continue;
                }
                Err(error) => return Err(failed(self.name, "read", error)),
            };
            let keys = keys.chunks_exact(size_of::<K>()).map(value);
            let values = values.chunks_exact(size_of::<V>()).map(value);
            return Ok((keys.zip(values).take(count as usize).collect(), end));
        }
    }

    /// Which of these entries are not there, or say something else; and what they say.
    pub(in crate::backend) fn wrong(&self, entries: &[(K, V)]) -> Result<Wrong<K, V>, BackendError> {
        let mut wrong = Vec::new();
        for (key, want) in entries {
            let found = self.get(key)?;
            if found.as_ref().map(bytes) != Some(bytes(want)) {
                wrong.push((*key, *want, found));
            }
        }
        Ok(wrong)
    }
}

/// Entries that are not as they should be: key, what it should say, what it says.
pub(in crate::backend) type Wrong<K, V> = Vec<(K, V, Option<V>)>;

/// How far a table has been read.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Place {
    cursor: Option<u32>,
    room: usize,
}

impl Default for Place {
    /// The beginning, in pieces that hold nobody up.
    fn default() -> Self {
        Self { cursor: None, room: PIECE }
    }
}

fn failed(map: &'static str, deed: &'static str, source: io::Error) -> BackendError {
    BackendError::Map { deed, map, source }
}

fn bytes<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: a Pod type has no padding and no invalid bytes, and the slice borrows the value.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn value<T: Pod>(bytes: &[u8]) -> T {
    debug_assert_eq!(bytes.len(), size_of::<T>(), "callers cut the buffer into whole entries");
    // SAFETY: the slice has the size of T, any bytes are a valid Pod, and the read does not ask for alignment.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
