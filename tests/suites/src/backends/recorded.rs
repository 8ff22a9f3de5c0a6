//! Reads the records that an agent wrote into its file.

use std::{collections::HashSet, fs::File, io::BufReader, path::Path};

use acceptd_otlp::names;
use anyhow::{Context, Result, ensure};

use crate::{ledger::Ledger, records};

/// The records of one run of an agent.
pub(super) struct Recorded {
    /// `log.record.uid` of each record.
    pub(super) uids: HashSet<String>,
    pub(super) accepts: Vec<RecordedAccept>,
    /// How many records of the event `acceptd.socket.bind` there are.
    pub(super) binds: usize,
}

/// A successful accept.
pub(super) struct RecordedAccept {
    pub(super) service: String,
    /// The trace id; empty if the accept has no trace.
    pub(super) trace: String,
    /// The id of the root span; empty if the accept has no trace.
    pub(super) span: String,
}

impl Recorded {
    /// Reads the file. Fails unless the number of different uids equals the number of records in the ledger
    /// of the same run.
    pub(super) fn read(path: &Path, ledger: &Ledger) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
        let mut recorded = Self { uids: HashSet::new(), accepts: Vec::new(), binds: 0 };
        records::for_each(BufReader::new(file), |record| {
            recorded.binds += usize::from(record.event_name == names::EVENT_ACCEPTD_SOCKET_BIND);
            recorded.uids.insert(record.attribute(names::LOG_RECORD_UID).to_owned());
            if record.is_accept() && record.attribute(names::ERROR_TYPE).is_empty() {
                let service = record.resource(names::SERVICE_NAME).to_owned();
                recorded.accepts.push(RecordedAccept {
                    service,
                    trace: record.trace_id,
                    span: record.span_id,
                });
            }
        })?;
        let (uids, records) = (recorded.uids.len(), ledger.records()?);
        ensure!(uids as u64 == records, "{uids} uids in its file, {records} records by its ledger");
        Ok(recorded)
    }
}
