//! A changed configuration under a running agent: what takes effect at once, and what has to wait for the next start. Pure.

use super::{Loaded, Scope, schema::KEYS, table::Key};

/// Keys that take effect at once, by how they begin. The others are frozen into the programs, or own something that they would
/// have to give up: a queue, a folder, a port.
const LIVE: &[&str] = &[
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

/// Keys that do not, although they begin so.
const FROZEN: &[&str] = &[
    // The queue and the spool are made for it.
    "batch.max_bytes",
    "export.concurrency",
];

fn is_live(key: &str) -> bool {
    LIVE.iter().any(|live| key.starts_with(live)) && !FROZEN.contains(&key)
}

/// What came of a reload.
#[derive(Debug)]
pub struct Reloaded {
    /// What is in effect now.
    pub loaded: Loaded,
    /// The keys whose new value is.
    pub changed: Vec<String>,
    /// The keys whose new value waits for the next start.
    pub waiting: Vec<String>,
}

impl Loaded {
    /// Takes of `new` what can take effect at once.
    #[must_use]
    pub fn reload(&self, new: Self) -> Reloaded {
        let (mut changed, mut waiting) = (Vec::new(), Vec::new());
        let mut config = self.config.clone();
        let of_all = |key: &Key| !(key.same)(&self.config, &new.config);
        for key in KEYS.iter().filter(|key| of_all(key)) {
            if is_live(key.name) {
                (key.copy)(&mut config, &new.config);
                changed.push(key.name.to_owned());
            } else {
                waiting.push(key.name.to_owned());
            }
        }
        // What is set for one only, where it is not the same change as above.
        let known: Vec<Scope> = self.scopes().collect();
        for scope in new.scopes().filter(|scope| known.contains(scope)) {
            let (before, after) = (self.view(&scope).config, new.view(&scope).config);
            for key in KEYS.iter().filter(|key| !(key.same)(&before, &after) && !of_all(key)) {
                let name = scope.name_of(key);
                if is_live(key.name) { changed.push(name) } else { waiting.push(name) }
            }
        }
        Reloaded { loaded: Self { config, ..new }, changed, waiting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_of_a_key() {
        for rule in LIVE.iter().chain(FROZEN) {
            assert!(KEYS.iter().any(|key| key.name.starts_with(rule)), "{rule}");
        }
    }
}
