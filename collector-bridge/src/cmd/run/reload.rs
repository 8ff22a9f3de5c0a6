//! SIGHUP: reads the configuration again and applies it to the running agent, as a whole or not at all. No
//! event is lost.

use std::{collections::BTreeMap, time::Duration};

use acceptd_otlp::{AttributeFilter, Exporter, PreparedRoute, Signal};

use super::{exporters::Exporters, settings};
use crate::{
    cmd::logging::LogLevelHandle,
    config::{
        Config, ConfigError, Loaded, Reloaded, Scope, View,
        destination::{Destination, record_destinations},
    },
    pipeline::{NamedExporter, handle::DrainHandle},
};

/// Reads the configuration from the file, the environment and the flags.
pub(super) type Load<'a> = &'a dyn Fn() -> Result<Loaded, ConfigError>;

/// Applies a new configuration to the parts of the agent that can change it.
pub(super) struct Reloader<'a> {
    load: Load<'a>,
    /// The configuration that is in effect.
    loaded: Loaded,
    log_level: LogLevelHandle,
    exporters: Exporters,
}

/// A new configuration that was checked and can be applied without an error.
struct Checked {
    loaded: Loaded,
    attributes: AttributeFilter,
    /// The new route of each exporter that can have one.
    routes: Vec<(Exporter, PreparedRoute)>,
    /// Keys that changed and take effect now.
    changed: Vec<String>,
    /// Keys and destinations that changed and take effect at the next start.
    pending: Vec<String>,
}

impl<'a> Reloader<'a> {
    /// A reloader of an agent that started with `loaded`.
    pub(super) fn new(
        load: Load<'a>,
        loaded: Loaded,
        log_level: LogLevelHandle,
        exporters: Exporters,
    ) -> Self {
        Self { load, loaded, log_level, exporters }
    }

    /// How long a stop may take, by the configuration that is in effect.
    pub(super) fn shutdown_timeout(&self) -> Duration {
        self.loaded.config.shutdown.timeout
    }

    /// Reads the configuration again and applies it. Logs the result.
    pub(super) fn reload(&mut self, drain: &DrainHandle) {
        let problems = match (self.load)() {
            Ok(new) => match self.check(new) {
                Ok(checked) => return self.apply(checked, drain),
                Err(problem) => vec![problem],
            },
            Err(error) => error.problems().iter().map(ToString::to_string).collect(),
        };
        for problem in problems {
            tracing::error!("{problem}");
        }
        tracing::error!("the reload failed; the previous configuration stays in effect");
    }

    /// Does everything that can fail, so that a configuration is never applied in part.
    fn check(&self, new: Loaded) -> Result<Checked, String> {
        settings::event_filter(&new.config)?;
        // Includes destinations that only the next start adds, so that their mistakes are reported now.
        let mut log_routes = BTreeMap::new();
        for (name, view) in record_destinations(&new) {
            log_routes.extend(prepare_route(&view, Signal::Logs)?.map(|route| (name, route)));
        }
        let Reloaded { loaded, changed, mut pending } = self.loaded.reload(new);
        let attributes = settings::attribute_filter(&loaded.config)?;
        let mut routes = Vec::new();
        for NamedExporter { name, exporter } in &self.exporters.logs {
            match log_routes.remove(name) {
                Some(route) => routes.push((exporter.clone(), route)),
                None => pending.push(format!("the removed destination {name}")),
            }
        }
        pending.extend(log_routes.keys().map(|name| format!("the new destination {name}")));
        for (exporter, signal, is_enabled, what) in self.other_signals(&loaded.config) {
            match (exporter, prepare_route(&loaded.view(&Scope::Signal(signal)), signal)?) {
                (Some(exporter), Some(route)) => routes.push((exporter.clone(), route)),
                (Some(_), None) => pending.push(format!("no export of {what}")),
                (None, Some(_)) if is_enabled => pending.push(format!("the export of {what}")),
                (None, _) => {}
            }
        }
        Ok(Checked { loaded, attributes, routes, changed, pending })
    }

    /// The exporter of each signal but logs, whether `config` enables the export, and what is exported.
    fn other_signals(&self, config: &Config) -> [(&Option<Exporter>, Signal, bool, &'static str); 2] {
        let Exporters { traces, metrics, .. } = &self.exporters;
        [
            (traces, Signal::Traces, config.traces.export, "traces"),
            (metrics, Signal::Metrics, config.metrics.export, "the agent's own metrics"),
        ]
    }

    fn apply(&mut self, checked: Checked, drain: &DrainHandle) {
        let Checked { loaded, attributes, routes, changed, pending } = checked;
        let config = &loaded.config;
        for (exporter, route) in routes {
            exporter.redirect(route);
        }
        drain.change_settings(settings::reloadable_settings(config, attributes), config.listener.interval);
        self.log_level.change(config);
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let changed = if changed.is_empty() { "no key".to_owned() } else { changed.join(", ") };
        tracing::info!("reloaded the configuration and the files that it names; changed: {changed}");
        if !pending.is_empty() {
            tracing::warn!("restart the agent to apply: {}", pending.join(", "));
        }
        self.loaded = loaded;
    }
}

/// The route to the destination of a view; `None` if the view sends the signal nowhere.
fn prepare_route(view: &View, signal: Signal) -> Result<Option<PreparedRoute>, String> {
    let Some(destination) = Destination::from_view(view, signal)? else { return Ok(None) };
    let route =
        destination.exporter_config(&view.config, None).prepare().map_err(|error| error.to_string())?;
    Ok(Some(route))
}
