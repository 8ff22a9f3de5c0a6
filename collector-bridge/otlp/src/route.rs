//! How requests get to one destination: its configuration, and the route that the workers take from it.
//!
//! A [`Route`] can be replaced while the exporter runs ([`crate::Exporter::redirect`]); the queue, the spool
//! and the number of workers are fixed when the exporter is spawned.

use std::time::Duration;

use acceptd_spool::{SpoolConfig, SpoolError};

use crate::{
    retry::Backoff,
    transport::{Target, TransportClient, TransportError, TransportSettings},
};

/// The configuration of one exporter.
#[derive(Debug, Clone)]
pub struct ExporterConfig {
    /// The destination.
    pub target: Target,
    /// Headers, TLS, compression and connect timeout.
    pub settings: TransportSettings,
    /// Deadline of one attempt.
    pub timeout: Duration,
    /// How long a request that is not in a spool is retried before it is dropped.
    pub retry_window: Duration,
    /// Pause before the first retry, before jitter.
    pub backoff_initial: Duration,
    /// Upper bound of the pause before a retry.
    pub backoff_max: Duration,
    /// Upper bound of the queue in memory, in bytes of uncompressed requests.
    pub queue_max_bytes: usize,
    /// Number of workers: the upper bound of requests that are in flight at the same time. 0 means 1.
    pub concurrency: usize,
    /// The spool that keeps requests until the destination has accepted them; `None` keeps them in memory
    /// only.
    pub spool: Option<SpoolConfig>,
    /// How often the spool is synced to the disk.
    pub sync_interval: Duration,
}

impl ExporterConfig {
    /// Checks that the target and its settings are usable, without connecting, and returns a route for
    /// [`crate::Exporter::redirect`].
    ///
    /// # Errors
    /// The target, a header or a certificate is invalid.
    pub fn prepare(&self) -> Result<PreparedRoute, ExporterError> {
        Ok(PreparedRoute(Route::new(TransportClient::new(&self.target, &self.settings)?, self)))
    }
}

/// A route that was checked: target, transport settings, timeout, retry window and backoff.
#[derive(Debug)]
pub struct PreparedRoute(pub(crate) Route);

/// How the workers send a request, and how long they retry it.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) target: Target,
    pub(crate) transport: TransportClient,
    /// Deadline of one attempt.
    pub(crate) timeout: Duration,
    pub(crate) retry_window: Duration,
    pub(crate) backoff: Backoff,
}

impl Route {
    pub(crate) fn new(transport: TransportClient, config: &ExporterConfig) -> Self {
        Self {
            target: config.target.clone(),
            transport,
            timeout: config.timeout,
            retry_window: config.retry_window,
            backoff: Backoff { initial: config.backoff_initial, max: config.backoff_max },
        }
    }
}

/// Why an exporter cannot be started or redirected.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// The address, a header or a certificate is invalid.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Another process uses the spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}
