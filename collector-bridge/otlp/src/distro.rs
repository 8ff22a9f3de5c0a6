//! The name and version under which acceptd identifies itself: in the Resource, in the instrumentation scope
//! and in the User-Agent header.

/// `telemetry.distro.name`, and the name of the instrumentation scope.
pub const DISTRO_NAME: &str = "acceptd";

/// `telemetry.distro.version`, and the version of the instrumentation scope.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The User-Agent header of every request.
pub(crate) const USER_AGENT_VALUE: &str =
    concat!("acceptd/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust");
