//! What an agent made, as it wrote it into a file of its own.

use std::{collections::HashSet, fs::File, io::BufReader, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{ledger::Ledger, records};

pub(super) struct Made {
    pub(super) uids: HashSet<String>,
    pub(super) accepts: Vec<Accept>,
    /// How many sockets were given an address.
    pub(super) binds: usize,
}

/// One that succeeded.
pub(super) struct Accept {
    pub(super) service: String,
    /// Empty without one.
    pub(super) trace: String,
    /// The root; likewise.
    pub(super) span: String,
}

impl Made {
    /// As many records as the ledger of the same run has, each with a uid of its own.
    pub(super) fn read(path: &Path, ledger: &Ledger) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
        let mut made = Self { uids: HashSet::new(), accepts: Vec::new(), binds: 0 };
        records::each(BufReader::new(file), |record| {
            made.binds += usize::from(record.event_name == "acceptd.socket.bind");
            made.uids.insert(record.attribute("log.record.uid").to_owned());
            if record.is_accept() && record.attribute("error.type").is_empty() {
                let service = record.resource("service.name").to_owned();
                made.accepts.push(Accept { service, trace: record.trace_id, span: record.span_id });
            }
        })?;
        let (uids, records) = (made.uids.len(), ledger.records()?);
        ensure!(uids as u64 == records, "{uids} uids in its file, {records} records by its ledger");
        Ok(made)
    }
}
