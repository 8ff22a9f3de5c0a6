//! Records gathered into requests: one `ResourceLogs` for each process.

use std::collections::HashMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    logs::v1::{ResourceLogs, ScopeLogs},
};
use prost::Message as _;

use crate::{
    DISTRO_NAME, VERSION,
    names::SCHEMA_URL,
    resource::EncodedResource,
    wire::{bytes, header, nested, varint_len},
};

/// Groups kept from one batch to the next, with the memory of their records: together at most one batch's.
const SPARE_GROUPS: usize = 256;

/// What a request holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `ExportLogsServiceRequest`
    Logs,
}

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
        if self.records < 2 {
            return None;
        }
        let message = ExportLogsServiceRequest::decode(self.request.clone()).ok()?;
        let (first, second) = halves(message, self.records / 2);
        let batch = |message: &ExportLogsServiceRequest| Self {
            signal: self.signal,
            records: count(message),
            request: message.encode_to_vec().into(),
        };
        Some((batch(&first), batch(&second)))
    }
}

fn count(message: &ExportLogsServiceRequest) -> u32 {
    let scopes = message.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    u32::try_from(scopes.map(|scope| scope.log_records.len()).sum::<usize>()).unwrap_or(u32::MAX)
}

/// Moves the first `wanted` records into a request of their own, envelopes copied, none left empty.
fn halves(
    message: ExportLogsServiceRequest,
    wanted: u32,
) -> (ExportLogsServiceRequest, ExportLogsServiceRequest) {
    let mut wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let (mut first, mut second) = (ExportLogsServiceRequest::default(), ExportLogsServiceRequest::default());
    for resource_logs in message.resource_logs {
        for mut scope_logs in resource_logs.scope_logs {
            let rest = scope_logs.log_records.split_off(wanted.min(scope_logs.log_records.len()));
            wanted -= scope_logs.log_records.len();
            for (half, log_records) in [(&mut first, scope_logs.log_records), (&mut second, rest)] {
                if !log_records.is_empty() {
                    half.resource_logs.push(ResourceLogs {
                        resource: resource_logs.resource.clone(),
                        schema_url: resource_logs.schema_url.clone(),
                        scope_logs: vec![ScopeLogs {
                            scope: scope_logs.scope.clone(),
                            schema_url: scope_logs.schema_url.clone(),
                            log_records,
                        }],
                    });
                }
            }
        }
    }
    (first, second)
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
    limits: BatchLimits,
    groups: HashMap<u64, usize>,
    used: Vec<Group>,
    spare: Vec<Vec<u8>>,
    scratch: Vec<u8>,
    scope: Vec<u8>,
    records: u32,
    bytes: usize,
}

/// The records of one Resource: `log_records` fields, one after the other.
#[derive(Debug)]
struct Group {
    resource: EncodedResource,
    records: Vec<u8>,
}

impl BatchBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new(limits: BatchLimits) -> Self {
        let mut scope = Vec::new();
        // ScopeLogs.scope, an InstrumentationScope
        nested::<1>(&mut scope, |out| {
            bytes::<1>(out, DISTRO_NAME.as_bytes());
            bytes::<2>(out, VERSION.as_bytes());
        });
        Self {
            limits,
            groups: HashMap::new(),
            used: Vec::new(),
            spare: Vec::new(),
            scratch: Vec::new(),
            scope,
            records: 0,
            bytes: 0,
        }
    }

    /// Adds the record that `encode` appends, under `resource`. `key` is the Resource's number: the same for the same
    /// Resource, another for another.
    pub fn push(&mut self, key: u64, resource: &EncodedResource, encode: impl FnOnce(&mut Vec<u8>)) -> Push {
        self.scratch.clear();
        encode(&mut self.scratch);
        let record = field_len(self.scratch.len());
        let envelope = self.envelope_len(resource);
        if record + envelope > self.limits.max_bytes {
            return Push::TooLarge;
        }
        let new = if self.groups.contains_key(&key) { 0 } else { envelope };
        let full =
            self.records >= self.limits.max_records || self.bytes + new + record > self.limits.max_bytes;
        let sealed = if full { self.seal() } else { None };
        self.add(key, resource, record, envelope);
        sealed.map_or(Push::Added, Push::Sealed)
    }

    fn add(&mut self, key: u64, resource: &EncodedResource, record: usize, envelope: usize) {
        let index = *self.groups.entry(key).or_insert_with(|| {
            let records = self.spare.pop().unwrap_or_default();
            self.used.push(Group { resource: resource.clone(), records });
            self.used.len() - 1
        });
        let group = &mut self.used[index].records;
        if group.is_empty() {
            self.bytes += envelope;
        }
        // ScopeLogs.log_records
        bytes::<2>(group, &self.scratch);
        self.records += 1;
        self.bytes += record;
    }

    /// An upper bound of what a Resource adds to a request beside its records.
    fn envelope_len(&self, resource: &EncodedResource) -> usize {
        resource.as_bytes().len() + self.scope.len() + OVERHEAD
    }

    /// The batch, if it has a record.
    pub fn seal(&mut self) -> Option<Batch> {
        if self.records == 0 {
            return None;
        }
        let mut request = Vec::with_capacity(self.bytes);
        for group in &self.used {
            resource_logs(&mut request, group, &self.scope);
        }
        debug_assert!(request.len() <= self.bytes, "{} bytes, {} expected", request.len(), self.bytes);
        let batch = Batch { signal: Signal::Logs, request: request.into(), records: self.records };
        let mut kept: usize = self.spare.iter().map(Vec::capacity).sum();
        for Group { mut records, .. } in self.used.drain(..) {
            kept += records.capacity();
            if kept > self.limits.max_bytes || self.spare.len() >= SPARE_GROUPS {
                break;
            }
            records.clear();
            self.spare.push(records);
        }
        self.groups.clear();
        self.records = 0;
        self.bytes = 0;
        Some(batch)
    }
}

/// Bytes of tags and lengths around a Resource and its records, at most: five fields whose lengths take up to five
/// bytes each, and two schema URLs.
const OVERHEAD: usize = 5 * 6 + 2 * (2 + SCHEMA_URL.len());

const fn field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

/// `ExportLogsServiceRequest.resource_logs`, one
fn resource_logs(out: &mut Vec<u8>, group: &Group, scope: &[u8]) {
    let schema = field_len(SCHEMA_URL.len());
    let scope_logs = scope.len() + group.records.len() + schema;
    header::<1>(out, field_len(group.resource.as_bytes().len()) + field_len(scope_logs) + schema);
    bytes::<1>(out, group.resource.as_bytes());
    header::<2>(out, scope_logs);
    out.extend_from_slice(scope);
    out.extend_from_slice(&group.records);
    bytes::<3>(out, SCHEMA_URL.as_bytes());
    bytes::<3>(out, SCHEMA_URL.as_bytes());
}
