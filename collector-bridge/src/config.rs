//! The configuration: read from five layers, checked, and traceable: each value knows the layer that set it.
//!
//! The layers, in rising precedence: default, file, `OTEL_*` variables, `ACCEPTD_*` variables, flags. An
//! empty text means "not set" in all of them. A value replaces the value of a lower layer as a whole; lists
//! and tables are not merged.
//!
//! To follow one value: `schema` has its row, `file`, `otel`, `env` and `layer` find it in their sources, its
//! kind (`kind`, `choice`, …) reads it, `resolve` decides which layer wins, `loaded` answers questions about
//! the result, and `destination` turns `export.*` into the exporter's settings.

mod choice;
pub(crate) mod destination;
mod endpoint;
mod env;
mod error;
mod file;
mod hook_names;
mod kind;
mod layer;
mod loaded;
mod network;
mod origin;
mod otel;
mod pairs;
mod print;
mod quantity;
mod ratio;
mod raw;
mod reload;
mod resolve;
mod schema;
mod scope;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod values;

pub use choice::{CaptureTier, LogLevel, OutputFormat, PeerAddress, Profile, Protocol, Sampler, Temporality};
pub use endpoint::Endpoint;
pub use error::{ConfigError, Problem};
pub use file::DEFAULT_PATH;
#[cfg(test)]
pub(crate) use hook_names::HOOK_NAMES;
pub use layer::Flag;
pub use loaded::{Loaded, View};
pub use network::Network;
pub use origin::Origin;
pub use pairs::Headers;
pub(crate) use pairs::resource_attributes;
pub use print::{Setting, default_file};
pub use ratio::Ratio;
pub(crate) use reload::Reloaded;
pub use resolve::load;
pub use schema::{
    AdminSection, AttributesSection, BatchSection, CaptureSection, Config, EventsSection, ExportSection,
    ExportTlsSection, FilterExcludeSection, FilterSection, HostSection, LimitsSection, ListenerSection,
    LogSection, MetricsSection, OverloadSection, PrivacySection, QueueSection, ResourceSection,
    ShutdownSection, SpoolSection, StateSection, TracesSection,
};
pub(crate) use scope::DEFAULT_DESTINATION;
pub use scope::Scope;
pub use values::{Detail, Family};
