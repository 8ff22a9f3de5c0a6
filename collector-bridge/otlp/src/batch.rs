//! Gathers encoded records into requests with one `ResourceLogs` per process. Spans work the same way,
//! because `ResourceSpans` has the same shape.

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::{
    buffer_pool::BufferPool,
    distro::{DISTRO_NAME, VERSION},
    names::SCHEMA_URL,
    resource::EncodedResource,
    signal::Signal,
    split::halves,
    wire::{bytes, header, nested, varint_len},
};

/// An encoded request: the unit that is queued, spooled, sent, retried and replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The signal of the request.
    pub signal: Signal,
    /// The encoded request, uncompressed.
    pub request: Bytes,
    /// The number of records, spans or metrics in the request.
    pub records: u32,
}

impl Batch {
    /// Splits the request into two with half of the records each. `None` if there are fewer than two records,
    /// or the request cannot be decoded.
    #[must_use]
    pub fn split(&self) -> Option<(Self, Self)> {
        let [first, second] = halves(self.request.clone())?;
        let batch = |(request, records)| Self { signal: self.signal, request, records };
        Some((batch(first), batch(second)))
    }
}

/// The limits at which a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Upper bound of the records.
    pub max_records: u32,
    /// Upper bound of the bytes before compression.
    pub max_bytes: usize,
}

/// The result of [`BatchBuilder::push`].
#[derive(Debug)]
#[must_use]
pub enum Push {
    /// The record was added to the batch under construction.
    Added,
    /// The batch was full: here it is, and the record was added to a new one.
    Sealed(Batch),
    /// The record alone exceeds `max_bytes`. It was not added; the caller counts it as dropped.
    TooLarge,
}

/// Builds one batch after the other, and reuses its memory.
#[derive(Debug)]
pub struct BatchBuilder {
    signal: Signal,
    limits: BatchLimits,
    /// Process key → index in `groups`.
    group_of_key: HashMap<u64, usize, RandomState>,
    groups: Vec<Group>,
    /// The encoded `ScopeLogs.log_records` or `ScopeSpans.spans` fields, in order of arrival.
    encoded: Vec<u8>,
    records: Vec<Record>,
    /// The encoded `ScopeLogs.scope` field, the same for every group.
    scope: Vec<u8>,
    /// Upper bound of the length of the request.
    bytes: usize,
    pool: BufferPool,
}

/// The records of one Resource: a linked list through [`BatchBuilder::records`].
#[derive(Debug)]
struct Group {
    resource: EncodedResource,
    /// Index of the first record.
    first: usize,
    /// Index of the last record.
    last: usize,
    /// Length of the encoded records.
    bytes: usize,
}

/// One record.
#[derive(Debug)]
struct Record {
    /// Its bytes in [`BatchBuilder::encoded`].
    at: Range<usize>,
    /// Index of the next record of the same Resource.
    next: Option<usize>,
}

impl BatchBuilder {
    /// An empty builder of requests with logs or with traces.
    #[must_use]
    pub fn new(signal: Signal, limits: BatchLimits) -> Self {
        let mut scope = Vec::new();
        // ScopeLogs.scope, an InstrumentationScope
        nested::<1>(&mut scope, |out| {
            bytes::<1>(out, DISTRO_NAME.as_bytes());
            bytes::<2>(out, VERSION.as_bytes());
        });
        Self {
            signal,
            limits,
            group_of_key: HashMap::default(),
            groups: Vec::new(),
            encoded: Vec::new(),
            records: Vec::new(),
            scope,
            bytes: 0,
            pool: BufferPool::default(),
        }
    }

    /// Replaces the limits. They apply to the batch under construction, too, from the next record on.
    pub fn set_limits(&mut self, limits: BatchLimits) {
        self.limits = limits;
    }

    /// Adds the record that `encode` appends, under `resource`. `key` identifies the process: all records
    /// with the same key share the Resource of the first one.
    pub fn push(&mut self, key: u64, resource: &EncodedResource, encode: impl FnOnce(&mut Vec<u8>)) -> Push {
        let start = self.encoded.len();
        // ScopeLogs.log_records
        nested::<2>(&mut self.encoded, encode);
        let length = self.encoded.len() - start;
        let envelope = self.envelope_len(resource);
        if length + envelope > self.limits.max_bytes {
            self.encoded.truncate(start);
            return Push::TooLarge;
        }
        let new = if self.group_of_key.contains_key(&key) { 0 } else { envelope };
        let full = self.records.len() >= self.limits.max_records as usize
            || self.bytes + new + length > self.limits.max_bytes;
        let sealed = if full { self.seal_until(start) } else { None };
        self.add(key, resource, length, envelope);
        sealed.map_or(Push::Added, Push::Sealed)
    }

    /// Replaces the Resource of the process `key` in the batch under construction, for facts about the
    /// process that became known later. Does nothing if the process has no records there, or if the new
    /// Resource would exceed `max_bytes`.
    pub fn update_resource(&mut self, key: u64, resource: &EncodedResource) {
        let Some(group) = self.group_of_key.get(&key).and_then(|index| self.groups.get_mut(*index)) else {
            return;
        };
        let without = self.bytes - group.resource.as_bytes().len();
        let bytes = without + resource.as_bytes().len();
        if bytes <= self.limits.max_bytes {
            self.bytes = bytes;
            group.resource = resource.clone();
        }
    }

    /// Adds the record whose bytes are the last `length` bytes of `encoded`.
    fn add(&mut self, key: u64, resource: &EncodedResource, length: usize, envelope: usize) {
        let number = self.records.len();
        let index = *self.group_of_key.entry(key).or_insert_with(|| {
            self.bytes += envelope;
            self.groups.push(Group { resource: resource.clone(), first: number, last: number, bytes: 0 });
            self.groups.len() - 1
        });
        let group = &mut self.groups[index];
        if group.last != number {
            self.records[group.last].next = Some(number);
            group.last = number;
        }
        group.bytes += length;
        let end = self.encoded.len();
        self.records.push(Record { at: end - length..end, next: None });
        self.bytes += length;
    }

    /// An upper bound of the bytes that a Resource adds to a request, without its records.
    fn envelope_len(&self, resource: &EncodedResource) -> usize {
        resource.as_bytes().len() + self.scope.len() + OVERHEAD
    }

    /// Ends the batch under construction. `None` if it has no records.
    pub fn seal(&mut self) -> Option<Batch> {
        self.seal_until(self.encoded.len())
    }

    /// Ends the batch of the records before `end` in `encoded`, and moves the bytes from `end` on to the
    /// start.
    fn seal_until(&mut self, end: usize) -> Option<Batch> {
        let records = u32::try_from(self.records.len()).ok().filter(|&records| records > 0)?;
        let mut request = self.pool.take(self.bytes);
        for group in &self.groups {
            self.resource_logs(&mut request, group);
        }
        debug_assert!(request.len() <= self.bytes, "{} bytes, {} expected", request.len(), self.bytes);
        self.encoded.drain(..end);
        self.encoded.shrink_to(4 * end);
        self.records.clear();
        self.groups.clear();
        self.group_of_key.clear();
        self.bytes = 0;
        Some(Batch { signal: self.signal, request: self.pool.share(request), records })
    }

    /// Appends one `ExportLogsServiceRequest.resource_logs` field.
    fn resource_logs(&self, out: &mut Vec<u8>, group: &Group) {
        let schema = field_len(SCHEMA_URL.len());
        let scope_logs = self.scope.len() + group.bytes + schema;
        header::<1>(out, field_len(group.resource.as_bytes().len()) + field_len(scope_logs) + schema);
        bytes::<1>(out, group.resource.as_bytes());
        header::<2>(out, scope_logs);
        out.extend_from_slice(&self.scope);
        let mut next = Some(group.first);
        while let Some(record) = next.map(|number| &self.records[number]) {
            out.extend_from_slice(&self.encoded[record.at.clone()]);
            next = record.next;
        }
        bytes::<3>(out, SCHEMA_URL.as_bytes());
        bytes::<3>(out, SCHEMA_URL.as_bytes());
    }
}

/// Upper bound of the tags and lengths around a Resource and its records: five fields with a tag of one byte
/// and a length of up to five bytes each, and two schema URLs.
const OVERHEAD: usize = 5 * 6 + 2 * (2 + SCHEMA_URL.len());

const fn field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}
