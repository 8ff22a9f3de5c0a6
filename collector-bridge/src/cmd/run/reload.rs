//! SIGHUP: the configuration is read again. It is taken as a whole or not at all, and no event is lost by it.

use std::{collections::BTreeMap, sync::Arc};

use acceptd_otlp::{Exporter, Prepared, Signal};

use super::record;
use crate::{
    cmd::logging::Level,
    config::{ConfigError, Loaded, Reloaded, Scope, View},
    health::snapshot::Outlet,
    pipeline::{destination, drain::Shared},
};

/// Reads the configuration: the file, the environment and the flags.
pub(super) type Load<'a> = &'a dyn Fn() -> Result<Loaded, ConfigError>;

/// What a new configuration is given to.
pub(super) struct Reloader<'a> {
    pub(super) load: Load<'a>,
    pub(super) loaded: Loaded,
    pub(super) level: Level,
    pub(super) shared: Arc<Shared>,
    pub(super) outlets: Vec<Outlet>,
    pub(super) traces: Option<Exporter>,
    pub(super) metrics: Option<Exporter>,
}

impl Reloader<'_> {
    /// Reads the configuration again, and says what came of it.
    pub(super) fn reload(&mut self) {
        let problems = match (self.load)() {
            Ok(new) => match self.take(new) {
                Ok(()) => return,
                Err(problem) => vec![problem],
            },
            Err(error) => error.problems().iter().map(ToString::to_string).collect(),
        };
        for problem in problems {
            tracing::error!("{problem}");
        }
        tracing::error!("the configuration is kept as it was");
    }

    /// Everything that can fail comes before the first change.
    fn take(&mut self, new: Loaded) -> Result<(), String> {
        super::filter(&new.config)?;
        // Those of new destinations, too: the next start is to find them good.
        let mut ways = BTreeMap::new();
        for (name, view) in destination::of_records(&new) {
            ways.extend(way(&view, Signal::Logs)?.map(|way| (name, way)));
        }
        let Reloaded { loaded, changed, mut waiting } = self.loaded.reload(new);
        let config = &loaded.config;
        let profile = record::profile(config)?;
        let mut redirects = Vec::new();
        for Outlet { name, exporter } in &self.outlets {
            match ways.remove(name) {
                Some(way) => redirects.push((exporter, way)),
                None => waiting.push(format!("the end of the destination {name}")),
            }
        }
        waiting.extend(ways.keys().map(|name| format!("the new destination {name}")));
        for (exporter, signal, is_wanted, what) in [
            (&self.traces, Signal::Traces, config.traces.export, "traces"),
            (&self.metrics, Signal::Metrics, config.metrics.export, "the agent's own metrics"),
        ] {
            match (exporter, way(&loaded.view(&Scope::Signal(signal)), signal)?) {
                (Some(exporter), Some(way)) => redirects.push((exporter, way)),
                (Some(_), None) => waiting.push(format!("the end of {what}")),
                (None, Some(_)) if is_wanted => waiting.push(what.to_owned()),
                (None, _) => {}
            }
        }
        for (exporter, way) in redirects {
            exporter.redirect(way);
        }
        self.shared.change(record::live(config, profile), config.listener.interval);
        self.level.change(config);
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") };
        tracing::info!("the configuration was read again, with the files that it names; changed: {changed}");
        if !waiting.is_empty() {
            tracing::warn!("at the next start only: {}", waiting.join(", "));
        }
        self.loaded = loaded;
        Ok(())
    }
}

/// The way to the destination of a view, which can be used.
fn way(view: &View, signal: Signal) -> Result<Option<Prepared>, String> {
    let Some(destination) = destination::of(view, signal)? else { return Ok(None) };
    let way = destination.exporter(&view.config, None).prepare().map_err(|error| error.to_string())?;
    Ok(Some(way))
}
