//! The one table of keys. The fields of [`Config`], their defaults, `config default`, the names of the variables
//! and the check for unknown keys all come from it; to add a key is to add a row.

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
    endpoint::{Destination, Endpoint},
    kind::{
        AbsolutePath, Count, Kind, Names, OptionalAddress, OptionalPath, OptionalText, PathOrNone, Size,
        Span, Toggle,
    },
    pairs::{Attributes, HeaderMap, Headers},
    ratio::{Part, Ratio},
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
    /// The configuration of the agent: every value in its type, checked, the defaults filled in.
    Config {
        /// Records are printed in this format. Without it: columns when there is no endpoint, else none.
        "output" => output: Option<OutputFormat> = Some(OutputFormat::Columns), OptionalOutput;
    }

    /// Capture in the kernel.
    capture: Capture {
        /// Size in bytes of the ring buffer between kernel and user space.
        /// A larger one bridges a longer stall of the agent before events are lost.
        // 64 KiB is the largest page size of Linux: each power of two from there on is a multiple of the page.
        "capture.ring_bytes" => ring_bytes: usize = 4 * MIB, Size { min: 64 * KIB, max: GIB, power_of_two: true };
        /// Most records of failed accepts for each listener and second. The others are only counted.
        "capture.failure_budget" => failure_budget: usize = 10, Count(0, 1_000_000);
        /// 1: with fentry and fexit, which cost nothing but accepts anything. 2: with tracepoints, which cost every system
        /// call a little and see less. auto: 1 where the kernel allows it.
        "capture.tier" => tier: CaptureTier = CaptureTier::Auto, Choice;
        /// Programs to do without, as though the kernel refused them; `acceptd check` names them.
        "capture.skip_hooks" => skip_hooks: Vec<String> = Vec::new(), HookNames;
        /// A folder of the BPF file system, in which the agent keeps what it knows of open connections: the next agent sees them
        /// end. none: it does not.
        "capture.pin_directory" => pin_directory: Option<PathBuf> = Some(PathBuf::from("/sys/fs/bpf/acceptd")), PathOrNone;
    }

    /// Which events are sent besides accepts.
    events: Events {
        /// A process listens.
        "events.listen" => listen: bool = true, Toggle;
        /// A process binds a socket.
        "events.bind" => bind: bool = true, Toggle;
        /// A process makes a socket.
        "events.create" => create: bool = false, Toggle;
        /// A process begins to accept; what comes of it is not known yet. In tier 2 it also gives accepts their blocked
        /// time, and costs every system call of the host a little more.
        "events.accept_attempt" => accept_attempt: bool = false, Toggle;
        /// Counts of failed accepts for each listener, process and errno.
        "events.failures" => failures: bool = false, Toggle;
        /// Connections that were dropped because an accept queue was full.
        "events.overflow" => overflow: bool = true, Toggle;
        /// Connections that were closed without being accepted.
        "events.abandoned" => abandoned: bool = true, Toggle;
        /// Listeners that accept nothing although connections wait.
        "events.stalled" => stalled: bool = true, Toggle;
        /// The agent was started, or was stopped.
        "events.agent" => agent: bool = true, Toggle;
        /// Events are missing: lost, dropped, or not seen because the agent did not run.
        "events.lost" => lost: bool = true, Toggle;
    }

    /// How listeners are watched, independent of accepts.
    listener: ListenerWatch {
        /// How often the queue of every listener is looked at.
        "listener.interval" => interval: Duration = 10 * SECOND, Span(100 * MILLISECOND, HOUR);
        /// How long the oldest connection must wait for its listener to be called stalled.
        "listener.stalled_after" => stalled_after: Duration = 5 * SECOND, Span(MILLISECOND, HOUR);
    }

    /// How records are gathered into requests.
    batch: Batch {
        /// Most records of one request.
        "batch.max_records" => max_records: usize = 8192, Count(1, 1_000_000);
        /// Most bytes of one request before compression.
        /// A Collector refuses more than 4 MiB by default.
        "batch.max_bytes" => max_bytes: usize = 3_500_000, Size { min: 16 * KIB, max: 64 * MIB, power_of_two: false };
        /// Longest time a record waits for others.
        "batch.timeout" => timeout: Duration = SECOND, Span(MILLISECOND, HOUR);
    }

    /// Requests that wait for the network.
    queue: Queue {
        /// Most bytes of memory for them. When it is full the oldest request is dropped, and counted.
        "queue.max_bytes" => max_bytes: usize = 16 * MIB, Size { min: 16 * KIB, max: GIB, power_of_two: false };
    }

    /// Requests on disk until they are delivered: neither a Collector that is down for long nor a crash of the agent loses them.
    spool: Spool {
        /// A directory for them, which no other agent uses. Without it requests wait in memory only.
        "spool.directory" => directory: Option<PathBuf> = None, OptionalPath;
        /// Most bytes of it. When it is full the oldest requests are dropped, and counted.
        "spool.max_bytes" => max_bytes: usize = GIB, Size { min: 16 * MIB, max: 1024 * GIB, power_of_two: false };
        /// Requests that waited longer are dropped, and counted.
        "spool.max_age" => max_age: Duration = 24 * HOUR, Span(SECOND, 52 * WEEK);
        /// When requests are written through to the disk: always before they are sent, at every interval, or never. Only a
        /// machine that loses its power loses what is not.
        "spool.fsync" => fsync: SyncPolicy = SyncPolicy::Interval, Choice;
        /// The interval. It is also how often the spool remembers what was delivered.
        "spool.fsync_interval" => fsync_interval: Duration = SECOND, Span(10 * MILLISECOND, HOUR);
        /// What is sent first after a failure: the oldest, or, interleaved, the newest and the oldest in turns. Loki refuses
        /// records that are much older than others of their stream.
        "spool.replay_order" => replay_order: Order = Order::OldestFirst, Choice;
    }

    /// What is not sent under load, so that neither this host nor the Collector is the bottleneck of what it observes.
    overload: Overload {
        /// Most records of successful accepts a second. Beyond it, busy listeners have one record for several accepts, which says
        /// for how many it stands.
        "overload.max_records_per_second" => max_records_per_second: usize = 20_000, Count(1, 100_000_000);
    }

    /// Where requests go and how persistently.
    export: Export {
        /// The OpenTelemetry Collector: host:port, http://host:port or https://host:port. none: nothing is sent.
        /// With http/protobuf, /v1/logs is added to its path.
        "export.endpoint" => endpoint: Option<Endpoint> = None, Destination;
        /// A file for requests as OTLP JSON lines, in place of a Collector. It grows: logrotate may move it away at any time.
        "export.file" => file: Option<PathBuf> = None, OptionalPath;
        /// How requests travel. A Collector receives gRPC on port 4317, http/protobuf on 4318.
        "export.protocol" => protocol: Protocol = Protocol::Grpc, ProtocolChoice;
        /// What requests are compressed with. On the loopback none costs least, elsewhere zstd; every server knows gzip.
        "export.compression" => compression: Compression = Compression::None, Choice;
        /// Headers of every request, for instance for authentication. Their values are never printed.
        "export.headers" => headers: Headers = Headers::default(), HeaderMap;
        /// A file with more of them, one `name: value` a line, for secrets that belong into no configuration.
        "export.headers_file" => headers_file: Option<PathBuf> = None, OptionalPath;
        /// Deadline of one attempt.
        "export.timeout" => timeout: Duration = 10 * SECOND, Span(MILLISECOND, HOUR);
        /// How long a request is retried before it is dropped, and counted. 0s: never retried. What is in a spool is retried
        /// as long as it is there.
        "export.retry_window" => retry_window: Duration = 300 * SECOND, Span(Duration::ZERO, WEEK);
        /// First pause before a retry; doubles with each one, with jitter.
        "export.backoff_initial" => backoff_initial: Duration = SECOND, Span(MILLISECOND, HOUR);
        /// Longest pause before a retry.
        "export.backoff_max" => backoff_max: Duration = 30 * SECOND, Span(MILLISECOND, HOUR);
        /// Requests under way at the same time.
        "export.concurrency" => concurrency: usize = 2, Count(1, 64);
    }

    /// TLS, which an endpoint with https:// asks for.
    export_tls: ExportTls {
        /// PEM file of the certificate authorities to trust with https, instead of the system's.
        "export.tls.ca_file" => ca_file: Option<PathBuf> = None, OptionalPath;
        /// PEM file of the agent's own certificate, for servers that ask for one.
        "export.tls.cert_file" => cert_file: Option<PathBuf> = None, OptionalPath;
        /// PEM file of its key.
        "export.tls.key_file" => key_file: Option<PathBuf> = None, OptionalPath;
        /// The name that the server's certificate must have, if not the endpoint's.
        "export.tls.server_name" => server_name: Option<String> = None, OptionalText;
    }

    /// Which attributes a record carries.
    attributes: AttributeSelection {
        /// standard leaves out what repeats on every accept or serves debugging; full sends all.
        "attributes.profile" => profile: Profile = Profile::Standard, Choice;
        /// Names of attributes to send although the profile leaves them out.
        "attributes.include" => include: Vec<String> = Vec::new(), Names;
        /// Names of attributes to leave out; wins over include.
        "attributes.exclude" => exclude: Vec<String> = Vec::new(), Names;
        /// Also sends the event name as the attribute otel.event.name, for backends that drop the field.
        "attributes.event_name" => event_name: bool = false, Toggle;
    }

    /// What is kept from whoever reads the records.
    privacy: Privacy {
        /// The addresses of peers, in attributes and bodies alike: full, prefix (the first 24 bits of IPv4, 48 of IPv6), or off:
        /// neither address nor port.
        "privacy.peer_address" => peer_address: PeerAddress = PeerAddress::Full, Choice;
    }

    /// Bounds on what a process can make the agent send.
    limits: Limits {
        /// Longest text of an attribute, in bytes; longer ones are cut.
        "limits.value_length" => value_length: usize = KIB, Size { min: 16, max: 64 * KIB, power_of_two: false };
    }

    /// The Resource of what is sent.
    resource: ResourceAdditions {
        /// Attributes added to the Resource of every process.
        "resource.attributes" => attributes: BTreeMap<String, String> = BTreeMap::new(), Attributes;
        /// Also takes from each process what it publishes of itself: service.* and deployment.environment.name, from the process
        /// context of its OpenTelemetry SDK, or from the variables of OpenTelemetry in its environment.
        "resource.published" => published: bool = true, Toggle;
        /// What else is told of each process: `process.command`, `process.command_args`, `process.args_count`, `process.parent_pid`.
        /// Arguments may hold secrets.
        "resource.include" => include: Vec<Detail> = Vec::new(), SomeOf;
    }

    /// The host that is observed.
    host: Host {
        /// Where the host's root file system is mounted, for an agent in a container.
        "host.root" => root: PathBuf = PathBuf::from("/"), AbsolutePath;
        /// The value of host.id. Without it, the host's machine id.
        "host.id" => id: Option<String> = None, OptionalText;
        /// The value of host.name. Without it, the host's own name.
        "host.name" => name: Option<String> = None, OptionalText;
    }

    /// What is captured at all.
    filter: Filter {
        /// Also sends the agent's own accepts, and those of connections that it opened itself.
        /// They are counted either way.
        "filter.self" => own: bool = false, Toggle;
        /// Only these local ports. Events without a port (UNIX sockets) do not pass then.
        "filter.ports" => ports: Vec<u64> = Vec::new(), Numbers(1, 65_535);
        /// Only these address families.
        "filter.families" => families: Vec<Family> = Vec::new(), SomeOf;
        /// Only these processes, by their ids in the host's pid namespace.
        "filter.pids" => pids: Vec<u64> = Vec::new(), Numbers(1, 4_194_304);
        /// Only processes with these names (comm; not those of their threads).
        "filter.comms" => comms: Vec<String> = Vec::new(), Texts { what: "names", longest: 15 };
        /// Only these cgroups (version 2), by path: /system.slice/nginx.service.
        "filter.cgroups" => cgroups: Vec<String> = Vec::new(), Texts { what: "paths", longest: 4096 };
        /// Only these network namespaces, by number: the N of net:[N] in /proc/PID/ns/net.
        "filter.netns" => netns: Vec<u64> = Vec::new(), Numbers(1, 4_294_967_295);
    }

    /// What is never captured; wins over what `filter` lets pass.
    filter_exclude: FilterExclude {
        /// Not these local ports.
        "filter.exclude.ports" => ports: Vec<u64> = Vec::new(), Numbers(1, 65_535);
        /// Not these address families.
        "filter.exclude.families" => families: Vec<Family> = Vec::new(), SomeOf;
        /// Not these processes.
        "filter.exclude.pids" => pids: Vec<u64> = Vec::new(), Numbers(1, 4_194_304);
        /// Not processes with these names.
        "filter.exclude.comms" => comms: Vec<String> = Vec::new(), Texts { what: "names", longest: 15 };
        /// Not these cgroups.
        "filter.exclude.cgroups" => cgroups: Vec<String> = Vec::new(), Texts { what: "paths", longest: 4096 };
        /// Not these network namespaces.
        "filter.exclude.netns" => netns: Vec<u64> = Vec::new(), Numbers(1, 4_294_967_295);
    }

    /// How the agent shows itself: /livez, /readyz and /status for probes and people, /metrics for Prometheus.
    admin: Admin {
        /// Where. Everybody who reaches it can read it, so it should stay on the loopback.
        "admin.listen" => listen: Option<SocketAddr> = Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464)), OptionalAddress;
    }

    /// Metrics of the agent itself and of listeners, over OTLP.
    metrics: Metrics {
        /// Whether they are sent to the endpoint.
        "metrics.export" => export: bool = true, Toggle;
        /// How often.
        "metrics.interval" => interval: Duration = 60 * SECOND, Span(100 * MILLISECOND, HOUR);
        /// Also counts the open connections of each listener, and how long they were.
        "metrics.connections" => connections: bool = true, Toggle;
        /// Whether counts grow from the start of the agent or from one export to the next.
        "metrics.temporality" => temporality: Temporality = Temporality::Cumulative, Choice;
    }

    /// The traces of connections.
    traces: Traces {
        /// Whether they are sent to the endpoint.
        "traces.export" => export: bool = true, Toggle;
        /// Which connections have one: all, none, or a part of them.
        "traces.sampler" => sampler: Sampler = Sampler::Ratio, Choice;
        /// The part.
        "traces.ratio" => ratio: Ratio = Ratio::PERCENT, Part;
        /// Connections that waited so long to be accepted have a trace in any case, up to 100 a second for each listener. 0s: none
        /// has one for that.
        "traces.keep_slower_than" => keep_slower_than: Duration = 100 * MILLISECOND, Span(Duration::ZERO, HOUR);
        /// The kind of the span of a whole connection. A server span counts in the statistics of a service's latency.
        "traces.connection_kind" => connection_kind: SpanKind = SpanKind::Internal, Choice;
    }

    /// The end of a run.
    shutdown: Shutdown {
        /// How long a stopping agent tries to deliver what it still holds.
        "shutdown.timeout" => timeout: Duration = 5 * SECOND, Span(Duration::ZERO, HOUR);
    }

    /// What survives a restart.
    state: State {
        /// Directory of small files that keep identities stable over restarts.
        "state.directory" => directory: PathBuf = PathBuf::from("/var/lib/acceptd"), AbsolutePath;
    }

    /// The agent's own messages, on standard error.
    log: Log {
        /// How much is said, each level with those before it.
        "log.level" => level: LogLevel = LogLevel::Info, Choice;
    }
}

impl Config {
    /// Whether requests have somewhere to go.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.export.endpoint.is_some() || self.export.file.is_some()
    }

    /// Checks that values which are good by themselves are good together: each finding is the key to change and
    /// the reason with its remedy.
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

    /// The part that each signal and each destination has of its own.
    pub(super) fn conflicts_of_export(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.export.protocol == Protocol::Grpc
            && self.export.endpoint.as_ref().is_some_and(Endpoint::has_path)
        {
            found.push(("export.endpoint", "gRPC endpoints have no path; end it after the port, or set export.protocol = \"http/protobuf\"".to_owned()));
        }
        if self.export.endpoint.is_some() && self.export.file.is_some() {
            found.push(("export.file", "requests go to a Collector or to a file; remove one, or make it another destination: [destinations.NAME]".to_owned()));
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
