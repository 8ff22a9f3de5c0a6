//! From the configuration to the settings of the agent's parts: filters, programs, identities, records and
//! spans.

use std::time::Duration;

use acceptd_common::trace::NEVER;
use acceptd_otlp::{AttributeFilter, BatchLimits, Exporter};
use anyhow::Context as _;

use crate::{
    bpf::{LoadSettings, OptionalHooks, TraceSettings, filter::EventFilter},
    config::{
        Config, Loaded, Profile, Sampler,
        destination::{TRACES_DESTINATION, sends_traces},
    },
    identity::{Identities, ResourceSettings, host::HostFacts, process::Observer},
    mapping::ids::Ids,
    pipeline::{NamedExporter, Outputs, ReloadableSettings, SpanOutput, SpanStyle},
    preflight::gather,
};

/// Upper limit of `batch.timeout` if records are printed: an operator at a terminal should not wait for a
/// batch to fill.
const CONSOLE_BATCH_TIMEOUT: Duration = Duration::from_millis(100);

/// Which attributes records and spans have.
///
/// # Errors
/// `attributes.include` or `attributes.exclude` has an unknown name; with the remedy.
pub(super) fn attribute_filter(config: &Config) -> Result<AttributeFilter, String> {
    let attributes = &config.attributes;
    AttributeFilter::new(
        attributes.profile == Profile::Full,
        &attributes.include,
        &attributes.exclude,
        attributes.event_name,
        config.limits.value_length,
    )
    .map_err(|error| {
        format!("attributes.include, attributes.exclude: {error}; docs/attributes.md lists all names; for attributes of a Resource, use resource.include and resource.attributes")
    })
}

/// Which events are captured.
///
/// # Errors
/// A cgroup of the filter does not exist; with the remedy.
pub(super) fn event_filter(config: &Config) -> Result<EventFilter, String> {
    EventFilter::from_config(&config.filter, &config.filter_exclude, &gather::cgroups(&config.host.root))
}

/// How the programs are loaded.
pub(super) fn load_settings(
    config: &Config,
    filter: &EventFilter,
    traces: TraceSettings,
) -> anyhow::Result<LoadSettings> {
    let ring_bytes =
        u32::try_from(config.capture.ring_bytes).context("capture.ring_bytes is larger than 4 GiB")?;
    Ok(LoadSettings {
        tier: gather::chosen_tier(config),
        skip: config.capture.skip_hooks.clone(),
        ring_bytes,
        record_self: config.filter.own,
        failure_budget: config.capture.failure_budget as u64,
        service_names: config.resource.published,
        optional: OptionalHooks {
            bind: config.events.bind,
            create: config.events.create,
            attempts: config.events.accept_attempt,
            traces: traces != TraceSettings::DISABLED,
            connections: config.metrics.connections,
        },
        filter: filter.clone(),
        traces,
    })
}

/// Which connections have a trace. Only an agent that has claimed the state directory pins its data about
/// open connections for the next agent (`has_state`).
pub(super) fn trace_settings(loaded: &Loaded, ids: &Ids, has_state: bool) -> TraceSettings {
    let config = &loaded.config;
    if !sends_traces(loaded) {
        return TraceSettings::DISABLED;
    }
    TraceSettings {
        threshold: sampling_threshold(config),
        slow_ns: match config.traces.keep_slower_than {
            Duration::ZERO => u64::MAX,
            slow => u64::try_from(slow.as_nanos()).unwrap_or(u64::MAX),
        },
        key: ids.sampling_key(),
        pins: config.capture.pin_directory.clone().filter(|_| has_state),
    }
}

/// A connection is sampled if its randomness is at least this.
fn sampling_threshold(config: &Config) -> u64 {
    match config.traces.sampler {
        Sampler::AlwaysOn => 0,
        Sampler::AlwaysOff => NEVER,
        Sampler::Ratio => NEVER - config.traces.ratio.apply_to(NEVER),
    }
}

/// How processes become Resources.
pub(super) fn identities(loaded: &Loaded, facts: &HostFacts) -> Identities {
    let config = &loaded.config;
    let root = &config.host.root;
    let observer = Observer::new(root, &gather::cgroups(root));
    let additions = ResourceSettings {
        attributes: config.resource.attributes.clone().into_iter().collect(),
        agent_attributes: loaded.agent_resource.clone().into_iter().collect(),
        published: config.resource.published,
        details: config.resource.include.clone(),
        value_length: config.limits.value_length,
    };
    Identities::new(facts.clone(), observer, additions)
}

/// The settings that a reload can change.
pub(super) fn reloadable_settings(config: &Config, attributes: AttributeFilter) -> ReloadableSettings {
    ReloadableSettings {
        attributes,
        peers: config.privacy.peer_address,
        events: config.events.clone(),
        limits: batch_limits(config),
        timeout: batch_timeout(config),
        max_records_per_second: config.overload.max_records_per_second as u64,
        stalled_after: config.listener.stalled_after,
    }
}

/// Where spans go, and how they are written.
pub(super) fn span_output(config: &Config, exporter: Exporter) -> SpanOutput {
    let traces = NamedExporter { name: TRACES_DESTINATION.to_owned(), exporter };
    SpanOutput {
        style: SpanStyle { connection_kind: config.traces.connection_kind },
        outputs: Outputs::new(vec![traces]),
    }
}

fn batch_limits(config: &Config) -> BatchLimits {
    BatchLimits {
        max_records: u32::try_from(config.batch.max_records).unwrap_or(u32::MAX),
        max_bytes: config.batch.max_bytes,
    }
}

fn batch_timeout(config: &Config) -> Duration {
    let timeout = config.batch.timeout;
    if config.output.is_some() { timeout.min(CONSOLE_BATCH_TIMEOUT) } else { timeout }
}
