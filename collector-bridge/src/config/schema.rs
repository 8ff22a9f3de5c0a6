//! The table of configuration keys. The fields of [`Config`], their defaults, `config default`, the names of
//! the environment variables and the check for unknown keys all come from it: to add a key, add a row.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use acceptd_otlp::{Compression, Order, SpanKind, SyncPolicy};

use super::{
    choice::{
        CaptureTier, Choice, LogLevel, OptionalOutput, OutputFormat, PeerAddress, Profile, Protocol,
        ProtocolChoice, Sampler, Temporality,
    },
    endpoint::{Endpoint, OptionalEndpoint},
    kind::{
        AbsolutePath, CountRange, DurationRange, Names, OptionalAddress, OptionalPath, OptionalText,
        PathOrNone, SizeRange, Toggle, ValueKind,
    },
    network::{Network, Networks},
    pairs::{AttributePairs, HeaderMap, Headers},
    ratio::{Fraction, Ratio},
    table::{Key, settings},
    values::{Detail, Family, HookNames, Numbers, SomeOf, Texts},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const WEEK: Duration = Duration::from_hours(168);

settings! {
    /// The configuration of the agent: every value checked, and every default filled in.
    Config {
        /// The format in which records are printed. Default: columns if records are not sent anywhere, else
        /// none.
        "output" => output: Option<OutputFormat> = Some(OutputFormat::Columns), OptionalOutput;
    }

    /// Capture in the kernel.
    capture: CaptureSection {
        /// Size in bytes of the ring buffer between kernel and user space.
        /// A larger buffer bridges a longer stall of the agent before events are lost.
        // 64 KiB is the largest page size of Linux, so every power of two from there on is a multiple of the
        // page size.
        "capture.ring_bytes" => ring_bytes: usize = 4 * MIB, SizeRange { min: 64 * KIB, max: GIB, power_of_two: true };
        /// Maximum number of records of failed accepts for each listener and second. Further failures are
        /// only counted.
        "capture.failure_budget" => failure_budget: usize = 10, CountRange(0, 1_000_000);
        /// 1: fentry and fexit programs; only accepts pay for them. 2: tracepoints; every system call of the
        /// host pays a little, and some attributes are missing. auto: 1 if the kernel supports it, else 2.
        "capture.tier" => tier: CaptureTier = CaptureTier::Auto, Choice;
        /// eBPF programs that are not attached, as if the kernel had refused them; `acceptd check` lists
        /// their names.
        "capture.skip_hooks" => skip_hooks: Vec<String> = Vec::new(), HookNames;
        /// A folder of the BPF file system in which the agent keeps its data about open connections, so that
        /// the next agent reports their end. none: the data is not kept.
        "capture.pin_directory" => pin_directory: Option<PathBuf> = Some(PathBuf::from("/sys/fs/bpf/acceptd")), PathOrNone;
    }

    /// Which events are sent besides accepts.
    events: EventsSection {
        /// A process listens on a socket.
        "events.listen" => listen: bool = true, Toggle;
        /// A process binds a socket.
        "events.bind" => bind: bool = true, Toggle;
        /// A process creates a socket.
        "events.create" => create: bool = false, Toggle;
        /// A process calls accept; the result is not known yet. In tier 2 this key also adds the blocked time
        /// to accepts, and a small cost to every system call of the host.
        "events.accept_attempt" => accept_attempt: bool = false, Toggle;
        /// Counts of failed accepts for each listener, process and errno.
        "events.failures" => failures: bool = false, Toggle;
        /// Connections that the kernel dropped because an accept queue was full.
        "events.overflow" => overflow: bool = true, Toggle;
        /// Connections that were closed before they were accepted.
        "events.abandoned" => abandoned: bool = true, Toggle;
        /// Listeners that accept nothing although connections wait in their queue.
        "events.stalled" => stalled: bool = true, Toggle;
        /// The agent started or stopped.
        "events.agent" => agent: bool = true, Toggle;
        /// Events are missing: they were lost or dropped, or the agent did not run.
        "events.lost" => lost: bool = true, Toggle;
    }

    /// How listeners are surveyed, independent of accepts.
    listener: ListenerSection {
        /// Time between two surveys of the accept queues of all listeners.
        "listener.interval" => interval: Duration = 10 * SECOND, DurationRange(100 * MILLISECOND, HOUR);
        /// How long the oldest connection must wait in the queue before the listener counts as stalled.
        "listener.stalled_after" => stalled_after: Duration = 5 * SECOND, DurationRange(MILLISECOND, HOUR);
    }

    /// How records are gathered into requests.
    batch: BatchSection {
        /// Maximum number of records in one request.
        "batch.max_records" => max_records: usize = 8192, CountRange(1, 1_000_000);
        /// Maximum size of one request in bytes, before compression.
        /// A Collector refuses more than 4 MiB by default.
        "batch.max_bytes" => max_bytes: usize = 3_500_000, SizeRange { min: 16 * KIB, max: 64 * MIB, power_of_two: false };
        /// How long a record waits for others before its batch is sent.
        "batch.timeout" => timeout: Duration = SECOND, DurationRange(MILLISECOND, HOUR);
    }

    /// Requests that wait in memory to be sent.
    queue: QueueSection {
        /// Maximum size of the queue in bytes. When the queue is full, the oldest request is dropped and
        /// counted.
        "queue.max_bytes" => max_bytes: usize = 16 * MIB, SizeRange { min: 16 * KIB, max: GIB, power_of_two: false };
    }

    /// Requests kept on disk until they are delivered, so that neither a long outage of the Collector nor a
    /// crash of the agent loses them.
    spool: SpoolSection {
        /// A directory for the spool; no other agent may use it. Without it, requests wait in memory only.
        "spool.directory" => directory: Option<PathBuf> = None, OptionalPath;
        /// Maximum size of the spool in bytes. When the spool is full, the oldest requests are dropped and
        /// counted.
        "spool.max_bytes" => max_bytes: usize = GIB, SizeRange { min: 16 * MIB, max: 1024 * GIB, power_of_two: false };
        /// Maximum age of a request. Older requests are dropped and counted.
        "spool.max_age" => max_age: Duration = 24 * HOUR, DurationRange(SECOND, 52 * WEEK);
        /// When requests are synced to disk: always (before they are sent), at every interval, or never.
        /// Requests that are not synced are lost only if the machine loses power or its kernel crashes.
        "spool.fsync" => fsync: SyncPolicy = SyncPolicy::Interval, Choice;
        /// Time between two syncs; also how often the spool saves which requests were delivered.
        "spool.fsync_interval" => fsync_interval: Duration = SECOND, DurationRange(10 * MILLISECOND, HOUR);
        /// The order of requests after an outage: oldest first, or interleaved, which alternates between the
        /// newest and the oldest. Loki refuses records that are much older than others of their stream.
        "spool.replay_order" => replay_order: Order = Order::OldestFirst, Choice;
    }

    /// Sampling under load, so that the agent is no bottleneck of this host or of the Collector.
    overload: OverloadSection {
        /// Maximum number of records of successful accepts a second. Above it, accepts of busy listeners are
        /// sampled: one record stands for several accepts, and says for how many.
        "overload.max_records_per_second" => max_records_per_second: usize = 20_000, CountRange(1, 100_000_000);
    }

    /// Where requests are sent, and how they are retried.
    export: ExportSection {
        /// The OpenTelemetry Collector: host:port, http://host:port or https://host:port. none: requests are
        /// not sent. With http/protobuf, /v1/logs is added to its path.
        "export.endpoint" => endpoint: Option<Endpoint> = None, OptionalEndpoint;
        /// A file for requests as OTLP JSON lines, instead of a Collector. It grows without limit; logrotate
        /// may move it at any time.
        "export.file" => file: Option<PathBuf> = None, OptionalPath;
        /// The protocol. Collectors receive grpc on port 4317 and http/protobuf on port 4318.
        "export.protocol" => protocol: Protocol = Protocol::Grpc, ProtocolChoice;
        /// The compression of requests. On the loopback none costs least, elsewhere zstd; every server
        /// supports gzip.
        "export.compression" => compression: Compression = Compression::None, Choice;
        /// Headers of every request, for instance for authentication. Their values are never printed.
        "export.headers" => headers: Headers = Headers::default(), HeaderMap;
        /// A file with more headers, one `name: value` a line, for secrets that must not be in the
        /// configuration.
        "export.headers_file" => headers_file: Option<PathBuf> = None, OptionalPath;
        /// Deadline of one attempt.
        "export.timeout" => timeout: Duration = 10 * SECOND, DurationRange(MILLISECOND, HOUR);
        /// How long a request is retried before it is dropped and counted. 0s: no retries. Requests in a
        /// spool are retried as long as they are in it.
        "export.retry_window" => retry_window: Duration = 300 * SECOND, DurationRange(Duration::ZERO, WEEK);
        /// Backoff before the first retry; it doubles with each retry, with jitter.
        "export.backoff_initial" => backoff_initial: Duration = SECOND, DurationRange(MILLISECOND, HOUR);
        /// Longest backoff.
        "export.backoff_max" => backoff_max: Duration = 30 * SECOND, DurationRange(MILLISECOND, HOUR);
        /// Maximum number of requests in flight.
        "export.concurrency" => concurrency: usize = 2, CountRange(1, 64);
    }

    /// TLS, used by endpoints with https://.
    export_tls: ExportTlsSection {
        /// PEM file of the certificate authorities to trust, instead of the system's.
        "export.tls.ca_file" => ca_file: Option<PathBuf> = None, OptionalPath;
        /// PEM file of the agent's own certificate, for servers that require one.
        "export.tls.cert_file" => cert_file: Option<PathBuf> = None, OptionalPath;
        /// PEM file of the private key of that certificate.
        "export.tls.key_file" => key_file: Option<PathBuf> = None, OptionalPath;
        /// The name that the server's certificate must have, if it is not the endpoint's host.
        "export.tls.server_name" => server_name: Option<String> = None, OptionalText;
    }

    /// Which attributes records have.
    attributes: AttributesSection {
        /// standard omits attributes that repeat on every accept or only serve debugging; full includes all.
        "attributes.profile" => profile: Profile = Profile::Standard, Choice;
        /// Names of attributes to include although the profile omits them.
        "attributes.include" => include: Vec<String> = Vec::new(), Names;
        /// Names of attributes to omit; overrides include.
        "attributes.exclude" => exclude: Vec<String> = Vec::new(), Names;
        /// Also sends the event name as the attribute otel.event.name, for backends that drop the event name
        /// field.
        "attributes.event_name" => event_name: bool = false, Toggle;
    }

    /// Data that is hidden from readers of the records.
    privacy: PrivacySection {
        /// How much of a peer's address is sent, in attributes and bodies alike: full, prefix (the first 24
        /// bits of IPv4, 48 of IPv6), or off (neither address nor port).
        "privacy.peer_address" => peer_address: PeerAddress = PeerAddress::Full, Choice;
    }

    /// Limits on what a process can make the agent send.
    limits: LimitsSection {
        /// Maximum length of the text of an attribute in bytes; longer texts are truncated.
        "limits.value_length" => value_length: usize = KIB, SizeRange { min: 16, max: 64 * KIB, power_of_two: false };
    }

    /// The Resource of records, spans and metrics.
    resource: ResourceSection {
        /// Attributes added to the Resource of every process.
        "resource.attributes" => attributes: BTreeMap<String, String> = BTreeMap::new(), AttributePairs;
        /// Also reads the attributes that each process publishes about itself: service.* and
        /// deployment.environment.name, from the process context of its OpenTelemetry SDK, or from the OTEL_*
        /// variables in its environment.
        "resource.published" => published: bool = true, Toggle;
        /// Further attributes of each process: `process.command`, `process.command_args`,
        /// `process.args_count`, `process.parent_pid`. Arguments may contain secrets.
        "resource.include" => include: Vec<Detail> = Vec::new(), SomeOf;
    }

    /// The observed host.
    host: HostSection {
        /// Where the host's root file system is mounted, for an agent in a container.
        "host.root" => root: PathBuf = PathBuf::from("/"), AbsolutePath;
        /// The value of host.id. Default: the host's machine id.
        "host.id" => id: Option<String> = None, OptionalText;
        /// The value of host.name. Default: the host's own name.
        "host.name" => name: Option<String> = None, OptionalText;
    }

    /// Which events are captured.
    filter: FilterSection {
        /// Also sends the agent's own accepts, and accepts of connections that the agent opened itself.
        /// They are counted either way.
        "filter.self" => own: bool = false, Toggle;
        /// Only these local ports: those of connections, or of the listeners that accept them, which a
        /// transparent proxy makes differ. Events without a port (UNIX sockets) do not match.
        "filter.ports" => ports: Vec<u64> = Vec::new(), Numbers(1, 65_535);
        /// Only these address families.
        "filter.families" => families: Vec<Family> = Vec::new(), SomeOf;
        /// Only these processes, by their ids in the host's pid namespace.
        "filter.pids" => pids: Vec<u64> = Vec::new(), Numbers(1, 4_194_304);
        /// Only processes with these names (the comm of the process, not of its threads).
        "filter.comms" => comms: Vec<String> = Vec::new(), Texts { what: "names", longest: 15 };
        /// Only these cgroups (version 2) and all cgroups in them, by path: /system.slice/nginx.service. A
        /// cgroup may be missing, come or go while the agent runs.
        "filter.cgroups" => cgroups: Vec<String> = Vec::new(), Texts { what: "paths", longest: 4096 };
        /// Only these network namespaces, by number: the N of `net:[N]` in /proc/PID/ns/net.
        "filter.netns" => netns: Vec<u64> = Vec::new(), Numbers(1, 4_294_967_295);
        /// Only connections of these peers: networks such as 10.0.0.0/8, or addresses. Connections without an
        /// IP address (UNIX sockets, VSOCK) do not match. Events that are not about a connection, such as
        /// listen, always do.
        "filter.peers" => peers: Vec<Network> = Vec::new(), Networks;
    }

    /// Which events are never captured; overrides `filter`.
    filter_exclude: FilterExcludeSection {
        /// Excludes accepts on these local ports, those of connections or of listeners.
        "filter.exclude.ports" => ports: Vec<u64> = Vec::new(), Numbers(1, 65_535);
        /// Excludes accepts on sockets of these address families.
        "filter.exclude.families" => families: Vec<Family> = Vec::new(), SomeOf;
        /// Excludes accepts of these processes, by their ids in the host's pid namespace.
        "filter.exclude.pids" => pids: Vec<u64> = Vec::new(), Numbers(1, 4_194_304);
        /// Excludes accepts of processes with these names.
        "filter.exclude.comms" => comms: Vec<String> = Vec::new(), Texts { what: "names", longest: 15 };
        /// Excludes accepts of processes in these cgroups, or in any cgroup in them.
        "filter.exclude.cgroups" => cgroups: Vec<String> = Vec::new(), Texts { what: "paths", longest: 4096 };
        /// Excludes accepts on sockets of these network namespaces.
        "filter.exclude.netns" => netns: Vec<u64> = Vec::new(), Numbers(1, 4_294_967_295);
        /// Excludes connections of these peers, such as load balancers with their health probes.
        "filter.exclude.peers" => peers: Vec<Network> = Vec::new(), Networks;
    }

    /// The agent's HTTP server: /livez, /readyz and /status for probes and operators, /metrics for
    /// Prometheus.
    admin: AdminSection {
        /// The address to listen on. There is no authentication, so keep it on the loopback. none: no server.
        "admin.listen" => listen: Option<SocketAddr> = Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464)), OptionalAddress;
    }

    /// Metrics of the agent itself and of listeners, over OTLP.
    metrics: MetricsSection {
        /// Whether metrics are sent to the endpoint.
        "metrics.export" => export: bool = true, Toggle;
        /// Time between two exports.
        "metrics.interval" => interval: Duration = 60 * SECOND, DurationRange(100 * MILLISECOND, HOUR);
        /// Also measures the open connections of each listener and their durations.
        "metrics.connections" => connections: bool = true, Toggle;
        /// Whether counts start at the start of the agent (cumulative) or at the last export (delta,
        /// lowmemory).
        "metrics.temporality" => temporality: Temporality = Temporality::Cumulative, Choice;
    }

    /// The traces of connections.
    traces: TracesSection {
        /// Whether traces are sent to the endpoint.
        "traces.export" => export: bool = true, Toggle;
        /// Which connections have a trace: all, none, or a fraction of them.
        "traces.sampler" => sampler: Sampler = Sampler::Ratio, Choice;
        /// The fraction.
        "traces.ratio" => ratio: Ratio = Ratio::PERCENT, Fraction;
        /// Connections that wait at least this long to be accepted have a trace in any case, up to 100 a
        /// second for each listener. 0s: the wait makes no difference.
        "traces.keep_slower_than" => keep_slower_than: Duration = 100 * MILLISECOND, DurationRange(Duration::ZERO, HOUR);
        /// The kind of the span of a whole connection. Backends include server spans in the latency
        /// statistics of a service.
        "traces.connection_kind" => connection_kind: SpanKind = SpanKind::Internal, Choice;
    }

    /// The end of a run.
    shutdown: ShutdownSection {
        /// How long a stopping agent tries to deliver the records that it still has.
        "shutdown.timeout" => timeout: Duration = 5 * SECOND, DurationRange(Duration::ZERO, HOUR);
    }

    /// State that survives a restart.
    state: StateSection {
        /// Directory of small files that keep identities stable across restarts.
        "state.directory" => directory: PathBuf = PathBuf::from("/var/lib/acceptd"), AbsolutePath;
    }

    /// The agent's own messages, on standard error.
    log: LogSection {
        /// The least severe level that is logged.
        "log.level" => level: LogLevel = LogLevel::Info, Choice;
    }
}

/// The key called `name`, without regard to scopes.
pub(super) fn find_key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Config {
    /// Whether requests are sent, to a Collector or to a file.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.export.endpoint.is_some() || self.export.file.is_some()
    }

    /// Values that are valid by themselves but contradict each other: the key to change, and the cause with
    /// its remedy.
    pub(super) fn conflicts(&self) -> Vec<(&'static str, String)> {
        let mut found = self.conflicts_of_export();
        if self.queue.max_bytes < self.batch.max_bytes {
            found.push((
                "queue.max_bytes",
                format!(
                    "{} bytes cannot hold one request of batch.max_bytes = {} bytes; raise it or lower batch.max_bytes",
                    self.queue.max_bytes, self.batch.max_bytes
                ),
            ));
        }
        if self.spool.directory.is_some() && self.spool.max_bytes < 2 * self.batch.max_bytes {
            found.push((
                "spool.max_bytes",
                format!(
                    "{} bytes cannot hold two requests of batch.max_bytes = {} bytes; raise it or lower batch.max_bytes",
                    self.spool.max_bytes, self.batch.max_bytes
                ),
            ));
        }
        found
    }

    /// The conflicts among `export.*`, which each signal and each destination can set for itself.
    pub(super) fn conflicts_of_export(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.export.protocol == Protocol::Grpc
            && self.export.endpoint.as_ref().is_some_and(Endpoint::has_path)
        {
            found.push(("export.endpoint", "gRPC endpoints have no path; remove what follows the port, or set export.protocol = \"http/protobuf\"".to_owned()));
        }
        if self.export.endpoint.is_some() && self.export.file.is_some() {
            found.push(("export.file", "export.endpoint and export.file exclude each other; remove one, or make it an additional destination: [destinations.NAME]".to_owned()));
        }
        if self.export_tls.cert_file.is_some() != self.export_tls.key_file.is_some() {
            found.push((
                "export.tls.cert_file",
                "a certificate and its key are needed together: set both export.tls.cert_file and export.tls.key_file, or neither".to_owned(),
            ));
        }
        if self.export.backoff_max < self.export.backoff_initial {
            found.push((
                "export.backoff_max",
                format!(
                    "{:?} is shorter than export.backoff_initial = {:?}; raise it or lower export.backoff_initial",
                    self.export.backoff_max, self.export.backoff_initial
                ),
            ));
        }
        found
    }
}
