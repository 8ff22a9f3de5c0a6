//! From samples to batches: whose it is, what it is called, and whether it is a record at all.

mod looks;
mod own;

use std::{
    collections::HashSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use acceptd_common::{
    Abandoned, Call, Closed, FailureKey, Header, InetAccept, Listener, SocketCall, Task, UnixAccept,
};
use acceptd_otlp::{
    Accept, BatchBuilder, BatchLimits, Event, Profile, Push, Span, encode_accept, encode_event,
};
use foldhash::{HashMap, HashMapExt as _};

use crate::{
    accounting::{gaps::Gaps, ledger::DrainCounts},
    bpf::{decode, filter::Filter},
    clock::{
        Clock, {self},
    },
    config::{Events, PeerAddress},
    identity::{Identities, Identity, PATIENCE},
    listener::{series::AllSeries, table::Listeners},
    mapping::{
        Context,
        ids::Ids,
        listener::Owner,
        {self},
    },
    pipeline::{
        outputs::{ConsoleCounts, Outputs},
        overload::Overload,
        spans::{Look, Spans},
    },
};

/// How a recorder is made.
pub struct Parts {
    /// Resources.
    pub identities: Identities,
    /// Ids.
    pub ids: Ids,
    /// Which attributes.
    pub profile: Profile,
    /// What is told of peers.
    pub peers: PeerAddress,
    /// Which events.
    pub events: Events,
    /// What is recorded at all.
    pub filter: Filter,
    /// Gathers records.
    pub builder: BatchBuilder,
    /// How long a record waits for others.
    pub timeout: Duration,
    /// Where batches go.
    pub outputs: Outputs,
    /// The listeners that are known.
    pub listeners: Listeners,
    /// What is sent of accepts under load.
    pub overload: Overload,
    /// The traces of connections, if they are sent.
    pub spans: Option<Spans>,
    /// What is counted of listeners.
    pub series: AllSeries,
}

/// What can be changed while it runs.
#[derive(Debug)]
pub struct Live {
    /// Which attributes.
    pub profile: Profile,
    /// What is told of peers.
    pub peers: PeerAddress,
    /// Which events.
    pub events: Events,
    /// When a batch is full.
    pub limits: BatchLimits,
    /// How long a record waits for others.
    pub timeout: Duration,
    /// Most records of accepts a second.
    pub max_records_per_second: u64,
    /// How long the oldest connection waits where a listener is stalled.
    pub stalled_after: Duration,
}

/// Turns samples into batches.
pub struct Recorder {
    parts: Parts,
    clock: Clock,
    observed_unix_ns: u64,
    /// When the burst began.
    now: Instant,
    /// When the oldest record of the batch was added.
    oldest: Option<Instant>,
    /// Failures that were told, and for how many looks there was no new one.
    failures: HashMap<FailureKey, (u64, u32)>,
    looked_boot_ns: u64,
    /// Number of the next record that is made here and not in the kernel.
    next_own: u64,
    gaps: Gaps,
    /// Listeners that have counts in the kernel, and were not known at the last look.
    unknown: HashSet<u64>,
    started: Instant,
    counts: DrainCounts,
}

impl Recorder {
    /// A recorder that hands on a batch when its builder is full or its oldest record has waited long enough.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            clock: Clock::new(),
            observed_unix_ns: clock::now_unix_nanos(),
            now: Instant::now(),
            oldest: None,
            failures: HashMap::new(),
            looked_boot_ns: clock::now_boot_nanos(),
            next_own: 0,
            gaps: Gaps::default(),
            unknown: HashSet::new(),
            started: Instant::now(),
            counts: DrainCounts::default(),
        }
    }

    /// Changes what can be changed, from the next record on.
    pub fn change(&mut self, live: Live) {
        let Live { profile, peers, events, limits, timeout, max_records_per_second, stalled_after } = live;
        // By the old limits.
        self.flush();
        self.parts.builder.limit(limits);
        if let Some(spans) = &mut self.parts.spans {
            spans.limit(limits);
        }
        (self.parts.profile, self.parts.events, self.parts.timeout) = (profile, events, timeout);
        self.parts.peers = peers;
        self.parts.overload.limit(max_records_per_second);
        self.parts.listeners.stalled_after(stalled_after);
    }

    /// Nanoseconds since the Unix epoch at which `CLOCK_BOOTTIME` was 0, as it is known now.
    #[must_use]
    pub fn anchor(&self) -> u64 {
        self.clock.boot_time_unix_nanos()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> DrainCounts {
        let (spans, spans_too_large) = self.parts.spans.as_ref().map(Spans::counts).unwrap_or_default();
        DrainCounts { listeners_beyond: self.parts.listeners.beyond(), spans, spans_too_large, ..self.counts }
    }

    /// What the console printed, if there is one.
    #[must_use]
    pub fn console_counts(&self) -> Option<ConsoleCounts> {
        self.parts.outputs.console_counts()
    }

    /// Looks at the clocks: once for many samples, so that their time of observation is that of the burst.
    pub fn begin_burst(&mut self) {
        self.clock.refresh();
        self.observed_unix_ns = clock::now_unix_nanos();
        self.now = Instant::now();
        self.complete();
    }

    /// Gives the batch under construction what is known of its processes by now.
    fn complete(&mut self) {
        while let Some(identity) = self.parts.identities.completed() {
            self.parts.builder.complete(identity.key, &identity.resource);
            if let Some(spans) = &mut self.parts.spans {
                spans.complete(&identity);
            }
        }
    }

    /// Records one sample, or counts why not.
    pub fn record(&mut self, sample: &[u8]) {
        self.counts.read += 1;
        let event = match decode::decode(sample) {
            Ok(event) => event,
            Err(malformed) => {
                self.counts.malformed += 1;
                tracing::warn!(%malformed, "a ring-buffer sample could not be decoded; it is counted and skipped");
                return;
            }
        };
        self.counts.decoded += 1;
        match event {
            decode::Event::InetAccept(sample) => self.inet(sample),
            decode::Event::UnixAccept(sample) => self.unix(sample),
            decode::Event::SocketCall(sample) => self.related(sample),
            decode::Event::ListenerClosed(sample) => {
                self.counts.bookkeeping += 1;
                self.parts.listeners.closed(sample);
                self.tell_findings();
            }
            decode::Event::Abandoned(sample) => self.abandoned(sample),
            decode::Event::Closed(sample) => self.closed(sample),
        }
    }

    fn inet(&mut self, sample: &InetAccept) {
        self.parts.listeners.accepted(&sample.listener, None, &sample.task);
        self.count_accept(&sample.call, &sample.listener);
        self.trace(&sample.task, |look, context| {
            mapping::span::parts_of_inet(sample, look, context).into_iter().flatten()
        });
        let Some(stands_for) = self.admit(&sample.header, &sample.call, &sample.listener) else { return };
        let identity = self.parts.identities.of(&sample.task, self.now);
        let mut accept = mapping::accept::inet(sample, &identity, self.context());
        accept.adjusted_count = Some(stands_for).filter(|accepts| *accepts > 1);
        let pushed = push_accept(&mut self.parts, &identity, &accept);
        self.pushed(pushed);
    }

    fn unix(&mut self, sample: &UnixAccept) {
        self.parts.listeners.accepted(&sample.listener, Some(&sample.local), &sample.task);
        self.count_accept(&sample.call, &sample.listener);
        self.trace(&sample.task, |look, context| mapping::span::part_of_unix(sample, look, context));
        let Some(stands_for) = self.admit(&sample.header, &sample.call, &sample.listener) else { return };
        let identity = self.parts.identities.of(&sample.task, self.now);
        let mut accept = mapping::accept::unix(sample, &identity, self.context());
        accept.adjusted_count = Some(stands_for).filter(|accepts| *accepts > 1);
        let pushed = push_accept(&mut self.parts, &identity, &accept);
        self.pushed(pushed);
    }

    fn closed(&mut self, sample: &Closed) {
        self.counts.bookkeeping += 1;
        self.trace(&sample.open.task, |look, context| Some(mapping::span::connection(sample, look, context)));
    }

    /// Adds what there is to be told of a connection's trace, under the Resource of the process that accepted it.
    fn trace<'a, S: IntoIterator<Item = Span<'a>>>(
        &mut self,
        task: &Task,
        spans_of: impl FnOnce(Look, Context<'_>) -> S,
    ) {
        let Some(look) = self.parts.spans.as_ref().map(|spans| spans.look) else { return };
        for span in spans_of(look, self.context()) {
            let identity = self.parts.identities.of(task, self.now);
            let Parts { spans, profile, .. } = &mut self.parts;
            if let Some(spans) = spans {
                spans.push(&identity, &span, profile);
            }
        }
    }

    /// Whether an accept is a record (if not, it is counted), and for how many accepts it stands, itself among them. Failures have
    /// a budget of their own, in the kernel.
    fn admit(&mut self, header: &Header, call: &Call, listener: &Listener) -> Option<u64> {
        if call.result < 0 {
            return Some(1);
        }
        let stands_for = self.parts.overload.admit(listener.inode, header.boot_ns);
        self.counts.thinned += u64::from(stands_for.is_none());
        stands_for
    }

    /// Failures are counted in the kernel.
    fn count_accept(&mut self, call: &Call, listener: &Listener) {
        let inode = listener.inode;
        if call.result < 0 || inode == 0 {
            return;
        }
        let queue_ns = (call.flags & Call::HAS_QUEUE_TIME != 0).then_some(call.queue_ns);
        if !self.parts.series.accepted(inode, queue_ns) {
            self.name_series(inode);
            // One that is one too many to be known is not counted.
            let _ = self.parts.series.accepted(inode, queue_ns);
        }
    }

    fn related(&mut self, sample: &SocketCall) {
        self.parts.listeners.listening(sample);
        if sample.operation == SocketCall::LISTEN && !self.parts.events.listen {
            self.counts.bookkeeping += 1;
            return;
        }
        let identity = self.parts.identities.of(&sample.task, self.now);
        let event = mapping::related::event(sample, &identity, self.context());
        let pushed = push_event(&mut self.parts, &identity, &event);
        self.pushed(pushed);
    }

    fn abandoned(&mut self, sample: &Abandoned) {
        let known = self.parts.listeners.of(&sample.socket).cloned();
        let owner = known.as_ref().and_then(|known| known.owner.as_ref());
        // The kernel compared the connection, but does not know whose listener it was on.
        let passes = known.as_ref().is_none_or(|known| self.parts.filter.passes(&known.listener, owner));
        if let Some(known) = &known
            && passes
        {
            self.parts.series.abandoned(known.listener.inode);
        }
        if !self.parts.events.abandoned || !passes {
            self.counts.bookkeeping += 1;
            return;
        }
        let identity = self.identity_of(owner);
        let whose = Owner { identity: &identity, pid: owner.map(|task| task.tgid) };
        let event = mapping::listener::abandoned(sample, known.as_ref(), whose, self.context());
        let pushed = push_event(&mut self.parts, &identity, &event);
        self.pushed(pushed);
    }

    /// Of the process, or else of the agent.
    fn identity_of(&mut self, owner: Option<&Task>) -> Arc<Identity> {
        match owner {
            Some(task) => self.parts.identities.of(task, self.now),
            None => self.parts.identities.agent(),
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            ids: &self.parts.ids,
            clock: &self.clock,
            observed: self.observed_unix_ns,
            peers: self.parts.peers,
        }
    }

    fn pushed(&mut self, pushed: Push) {
        match pushed {
            Push::Added => self.counts.records += 1,
            Push::Sealed(batch) => {
                self.counts.records += 1;
                self.parts.outputs.push(&batch);
                self.oldest = None;
            }
            Push::TooLarge => self.counts.too_large += 1,
        }
        if self.oldest.is_none() {
            self.oldest = Some(Instant::now());
        }
    }

    /// Hands on what has waited long enough: a little longer while a process is asked who it is.
    pub fn flush_if_due(&mut self) {
        let Parts { timeout, identities, spans, .. } = &mut self.parts;
        let is_due = |waited: Duration| {
            waited >= *timeout && (waited >= *timeout + PATIENCE || !identities.is_asking())
        };
        if let Some(spans) = spans
            && spans.waited().is_some_and(is_due)
        {
            spans.flush();
        }
        if self.oldest.is_some_and(|oldest| is_due(oldest.elapsed())) {
            self.flush_records();
        }
    }

    /// Waits a little for what is asked.
    fn be_patient(&mut self) {
        while self.parts.identities.is_asking() {
            thread::sleep(Duration::from_millis(1));
            self.complete();
        }
    }

    /// Hands on what is gathered, however little.
    pub fn flush(&mut self) {
        self.flush_records();
        if let Some(spans) = &mut self.parts.spans {
            spans.flush();
        }
    }

    fn flush_records(&mut self) {
        self.oldest = None;
        if let Some(batch) = self.parts.builder.seal() {
            self.parts.outputs.push(&batch);
        }
    }
}

fn push_accept(parts: &mut Parts, identity: &Identity, accept: &Accept<'_>) -> Push {
    let Parts { builder, profile, .. } = parts;
    builder.push(identity.key, &identity.resource, |out| encode_accept(out, accept, profile))
}

fn push_event(parts: &mut Parts, identity: &Identity, event: &Event<'_>) -> Push {
    let Parts { builder, profile, .. } = parts;
    builder.push(identity.key, &identity.resource, |out| encode_event(out, event, profile))
}
