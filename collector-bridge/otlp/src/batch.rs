//! Records gathered into requests: one `ResourceLogs` for each process. Spans likewise: `ResourceSpans` has the same shape.

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::{
    DISTRO_NAME, VERSION,
    names::SCHEMA_URL,
    recycle::Recycler,
    resource::EncodedResource,
    signal::Signal,
    split::halves,
    wire::{bytes, header, nested, varint_len},
};

/// A request that is ready to be sent: what is queued, retried and replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What it holds.
    pub signal: Signal,
    /// The request, uncompressed.
    pub request: Bytes,
    /// Records in it.
    pub records: u32,
}

impl Batch {
    /// Two requests of half the records each. `None` when there is nothing to halve.
    #[must_use]
    pub fn split(&self) -> Option<(Self, Self)> {
        let [first, second] = halves(self.request.clone())?;
        let batch = |(request, records)| Self { signal: self.signal, request, records };
        Some((batch(first), batch(second)))
    }
}

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Most records.
    pub max_records: u32,
    /// Most bytes before compression.
    pub max_bytes: usize,
}

/// What became of a record.
#[derive(Debug)]
#[must_use]
pub enum Push {
    /// It is in the batch under construction.
    Added,
    /// It is in a new batch, because this one is full.
    Sealed(Batch),
    /// It alone exceeds the limit, and is nowhere.
    TooLarge,
}

/// The batch under construction. Memory is reused from one batch to the next.
#[derive(Debug)]
pub struct BatchBuilder {
    signal: Signal,
    limits: BatchLimits,
    /// Resource number → index in `groups`
    known: HashMap<u64, usize, RandomState>,
    groups: Vec<Group>,
    /// `ScopeLogs.log_records` fields, or `ScopeSpans.spans`, in order of arrival, each encoded in its place.
    encoded: Vec<u8>,
    records: Vec<Record>,
    scope: Vec<u8>,
    bytes: usize,
    recycler: Recycler,
}

/// The records of one Resource: a list through [`BatchBuilder::records`].
#[derive(Debug)]
struct Group {
    resource: EncodedResource,
    first: usize,
    last: usize,
    bytes: usize,
}

/// Where one record is in [`BatchBuilder::encoded`].
#[derive(Debug)]
struct Record {
    at: Range<usize>,
    /// Of the same Resource.
    next: Option<usize>,
}

impl BatchBuilder {
    /// An empty builder of requests with logs, or with traces.
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
            known: HashMap::default(),
            groups: Vec::new(),
            encoded: Vec::new(),
            records: Vec::new(),
            scope,
            bytes: 0,
            recycler: Recycler::default(),
        }
    }

    /// Other limits, from the next batch on.
    pub fn limit(&mut self, limits: BatchLimits) {
        self.limits = limits;
    }

    /// Adds the record that `encode` appends, under `resource`. `key` is the process's number: the same for the same
    /// process, another for another.
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
        let new = if self.known.contains_key(&key) { 0 } else { envelope };
        let full = self.records.len() >= self.limits.max_records as usize
            || self.bytes + new + length > self.limits.max_bytes;
        let sealed = if full { self.seal_until(start) } else { None };
        self.add(key, resource, length, envelope);
        sealed.map_or(Push::Added, Push::Sealed)
    }

    /// Gives the records of a process another Resource, if it has records in the batch under construction, and there is room for it.
    pub fn complete(&mut self, key: u64, resource: &EncodedResource) {
        let Some(group) = self.known.get(&key).and_then(|index| self.groups.get_mut(*index)) else { return };
        let without = self.bytes - group.resource.as_bytes().len();
        let bytes = without + resource.as_bytes().len();
        if bytes <= self.limits.max_bytes {
            self.bytes = bytes;
            group.resource = resource.clone();
        }
    }

    /// Adds the last `length` bytes of `encoded`, which no record is of yet.
    fn add(&mut self, key: u64, resource: &EncodedResource, length: usize, envelope: usize) {
        let number = self.records.len();
        let index = *self.known.entry(key).or_insert_with(|| {
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

    /// An upper bound of what a Resource adds to a request beside its records.
    fn envelope_len(&self, resource: &EncodedResource) -> usize {
        resource.as_bytes().len() + self.scope.len() + OVERHEAD
    }

    /// The batch, if it has a record.
    pub fn seal(&mut self) -> Option<Batch> {
        self.seal_until(self.encoded.len())
    }

    /// The batch of the records before `end` in `encoded`; what is behind it moves to the start.
    fn seal_until(&mut self, end: usize) -> Option<Batch> {
        let records = u32::try_from(self.records.len()).ok().filter(|&records| records > 0)?;
        let mut request = self.recycler.buffer(self.bytes);
        for group in &self.groups {
            self.resource_logs(&mut request, group);
        }
        debug_assert!(request.len() <= self.bytes, "{} bytes, {} expected", request.len(), self.bytes);
        self.encoded.drain(..end);
        self.encoded.shrink_to(4 * end);
        self.records.clear();
        self.groups.clear();
        self.known.clear();
        self.bytes = 0;
        Some(Batch { signal: self.signal, request: self.recycler.lend(request), records })
    }

    /// `ExportLogsServiceRequest.resource_logs`, one
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

/// Bytes of tags and lengths around a Resource and its records, at most: five fields whose lengths take up to five
/// bytes each, and two schema URLs.
const OVERHEAD: usize = 5 * 6 + 2 * (2 + SCHEMA_URL.len());

const fn field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}
