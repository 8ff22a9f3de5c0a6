//! How events become records, by the configuration.

use std::time::Duration;

use acceptd_common::trace::NEVER;
use acceptd_otlp::{BatchBuilder, BatchLimits, Exporter, Profile, Signal};

use crate::{
    bpf::Traces,
    config::{Config, Loaded, Sampler},
    identity::{Additions, Identities, host::HostFacts, process::Observer},
    mapping::ids::Ids,
    pipeline::{
        destination::{
            TRACES, {self},
        },
        outputs::Outputs,
        recorder::Live,
        spans::{Look, Spans},
    },
    preflight::gather,
};

/// Somebody who looks at a terminal does not want to wait for a batch to fill.
const CONSOLE_BATCH_TIMEOUT: Duration = Duration::from_millis(100);

pub(super) fn profile(config: &Config) -> Result<Profile, String> {
    let attributes = &config.attributes;
    Profile::new(
        attributes.profile == crate::config::Profile::Full,
        &attributes.include,
        &attributes.exclude,
        attributes.event_name,
        config.limits.value_length,
    )
    .map_err(|error| {
        format!("attributes.include, attributes.exclude: {error}; docs/attributes.md lists them all; of a Resource's, resource.include and resource.attributes decide")
    })
}

pub(super) fn identities(loaded: &Loaded, facts: &HostFacts) -> Identities {
    let config = &loaded.config;
    let root = &config.host.root;
    let observer = Observer::new(root, &gather::cgroups(root));
    let additions = Additions {
        every: config.resource.attributes.clone().into_iter().collect(),
        own: loaded.agent_resource.clone().into_iter().collect(),
        published: config.resource.published,
        details: config.resource.include.clone(),
        value_length: config.limits.value_length,
    };
    Identities::new(facts.clone(), observer, additions)
}

/// What can be changed while the agent runs.
pub(super) fn live(config: &Config, profile: Profile) -> Live {
    Live {
        profile,
        peers: config.privacy.peer_address,
        events: config.events.clone(),
        limits: limits(config),
        timeout: timeout(config),
        max_records_per_second: config.overload.max_records_per_second as u64,
        stalled_after: config.listener.stalled_after,
    }
}

pub(super) fn builder(config: &Config) -> BatchBuilder {
    BatchBuilder::new(Signal::Logs, limits(config))
}

pub(super) fn spans(config: &Config, exporter: Exporter) -> Spans {
    let look = Look { connection_kind: config.traces.connection_kind };
    let outputs = Outputs::new(vec![(TRACES.to_owned(), exporter)], None);
    Spans::new(look, BatchBuilder::new(Signal::Traces, limits(config)), outputs)
}

/// Which connections have a trace, where traces are sent. Only the one agent that has `state.directory` keeps what it knows for
/// the next one.
pub(super) fn traces(loaded: &Loaded, ids: &Ids, outlives: bool) -> Traces {
    let config = &loaded.config;
    if !destination::has_traces(loaded) {
        return Traces::NONE;
    }
    Traces {
        threshold: threshold(config),
        slow_ns: match config.traces.keep_slower_than {
            Duration::ZERO => u64::MAX,
            slow => u64::try_from(slow.as_nanos()).unwrap_or(u64::MAX),
        },
        key: ids.key(),
        pins: config.capture.pin_directory.clone().filter(|_| outlives),
    }
}

/// The randomness below which a trace is left out.
fn threshold(config: &Config) -> u64 {
    match config.traces.sampler {
        Sampler::AlwaysOn => 0,
        Sampler::AlwaysOff => NEVER,
        Sampler::Ratio => NEVER - config.traces.ratio.of(NEVER),
    }
}

fn limits(config: &Config) -> BatchLimits {
    BatchLimits {
        max_records: u32::try_from(config.batch.max_records).unwrap_or(u32::MAX),
        max_bytes: config.batch.max_bytes,
    }
}

/// How long a record waits for others.
pub(super) fn timeout(config: &Config) -> Duration {
    let timeout = config.batch.timeout;
    if config.output.is_some() { timeout.min(CONSOLE_BATCH_TIMEOUT) } else { timeout }
}
