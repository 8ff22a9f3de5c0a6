//! A changed configuration of a running agent: which keys take effect at once, and which at the next start.
//! No I/O.

use super::{loaded::Loaded, schema::KEYS, scope::Scope, table::Key};

/// Prefixes of the keys that take effect at once. The other keys are constants of the loaded eBPF programs,
/// or own a resource that cannot be replaced during a run: a queue, a folder, a port.
const RELOADABLE: &[&str] = &[
    "attributes.",
    "batch.",
    "events.abandoned",
    "events.agent",
    "events.failures",
    "events.listen",
    "events.lost",
    "events.overflow",
    "events.stalled",
    "export.",
    "listener.",
    "log.level",
    "overload.",
    "privacy.",
    "shutdown.",
];

/// Keys that take effect at the next start although they have a prefix of [`RELOADABLE`].
const FIXED: &[&str] = &[
    // The queue and the spool are sized for it.
    "batch.max_bytes",
    "export.concurrency",
];

fn is_reloadable(key: &str) -> bool {
    RELOADABLE.iter().any(|prefix| key.starts_with(prefix)) && !FIXED.contains(&key)
}

/// The result of [`Loaded::reload`].
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// The configuration that is in effect now.
    pub(crate) loaded: Loaded,
    /// The changed keys whose new value is in effect.
    pub(crate) changed: Vec<String>,
    /// The changed keys whose new value takes effect at the next start.
    pub(crate) pending: Vec<String>,
}

impl Loaded {
    /// Takes over those values of `new` that can take effect at once.
    #[must_use]
    pub(crate) fn reload(&self, new: Self) -> Reloaded {
        let (mut changed, mut pending) = (Vec::new(), Vec::new());
        let mut config = self.config.clone();
        let differs_globally = |key: &Key| !(key.same)(&self.config, &new.config);
        for key in KEYS.iter().filter(|key| differs_globally(key)) {
            if is_reloadable(key.name) {
                (key.copy)(&mut config, &new.config);
                changed.push(key.name.to_owned());
            } else {
                pending.push(key.name.to_owned());
            }
        }
        // Changes for one signal or one destination, unless they follow from a global change above.
        let known: Vec<Scope> = self.scopes().collect();
        for scope in new.scopes().filter(|scope| known.contains(scope)) {
            let (before, after) = (self.view(&scope).config, new.view(&scope).config);
            for key in KEYS.iter().filter(|key| !(key.same)(&before, &after) && !differs_globally(key)) {
                let name = scope.name_of(key);
                if is_reloadable(key.name) { changed.push(name) } else { pending.push(name) }
            }
        }
        Reloaded { loaded: Self { config, ..new }, changed, pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_of_a_key() {
        for rule in RELOADABLE.iter().chain(FIXED) {
            assert!(KEYS.iter().any(|key| key.name.starts_with(rule)), "{rule}");
        }
    }
}
