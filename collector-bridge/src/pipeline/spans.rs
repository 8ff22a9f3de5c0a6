//! The spans of connections, on their way to their destination: gathered like records, beside them.

use std::time::{Duration, Instant};

use acceptd_otlp::{BatchBuilder, BatchLimits, Profile, Push, Span, SpanKind, encode_span};

use crate::{identity::Identity, pipeline::outputs::Outputs};

/// How spans look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// The kind of the root.
    pub connection_kind: SpanKind,
}

/// Spans that wait for others.
pub struct Spans {
    /// How they look.
    pub look: Look,
    builder: BatchBuilder,
    outputs: Outputs,
    /// When the oldest span of the batch was added.
    oldest: Option<Instant>,
    added: u64,
    too_large: u64,
}

impl Spans {
    /// Spans that `builder` gathers for `outputs`.
    #[must_use]
    pub fn new(look: Look, builder: BatchBuilder, outputs: Outputs) -> Self {
        Self { look, builder, outputs, oldest: None, added: 0, too_large: 0 }
    }

    /// Other limits, from the next batch on.
    pub fn limit(&mut self, limits: BatchLimits) {
        self.builder.limit(limits);
    }

    /// Adds a span of a process.
    pub fn push(&mut self, identity: &Identity, span: &Span<'_>, profile: &Profile) {
        let encode = |out: &mut Vec<u8>| encode_span(out, span, profile);
        match self.builder.push(identity.key, &identity.resource, encode) {
            Push::Added => self.added += 1,
            Push::Sealed(batch) => {
                self.added += 1;
                self.oldest = None;
                self.outputs.push(&batch);
            }
            Push::TooLarge => self.too_large += 1,
        }
        self.oldest.get_or_insert_with(Instant::now);
    }

    /// Gives a process's spans in the batch under construction what is known of it by now.
    pub fn complete(&mut self, identity: &Identity) {
        self.builder.complete(identity.key, &identity.resource);
    }

    /// For how long the oldest waits.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.oldest.map(|oldest| oldest.elapsed())
    }

    /// Hands on what is gathered, however little.
    pub fn flush(&mut self) {
        self.oldest = None;
        if let Some(batch) = self.builder.seal() {
            self.outputs.push(&batch);
        }
    }

    /// How many were added, and how many were too large.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.added, self.too_large)
    }
}
