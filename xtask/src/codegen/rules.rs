//! Rules for names, so that every backend can store them, and for definitions, so that each is used.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::registry::{Attribute, Group, GroupKind, Registry};

/// Fails with the first name that a backend could not store, or the first definition without a use.
pub(crate) fn check(registry: &Registry) -> Result<()> {
    check_uses(&registry.groups)?;
    keys(registry.keys.iter().map(|(key, known)| (key.as_str(), known.own)))?;
    for group in registry.groups.iter().filter(|group| group.kind == GroupKind::Event) {
        let Some(name) = &group.name else { bail!("the event `{}` has no name", group.id) };
        if group.id != format!("event.{name}") {
            bail!("the event `{name}` must have the id `event.{name}`, not `{}`", group.id);
        }
        if group.stability.is_none() {
            bail!("the event `{name}` states no stability");
        }
    }
    for group in registry.groups.iter().filter(|group| group.kind == GroupKind::Span) {
        if group.display_name.is_none() || group.stability.is_none() || !group.id.starts_with("span.acceptd.")
        {
            bail!(
                "the span `{}` needs a display_name, a stability and an id that begins with span.acceptd.",
                group.id
            );
        }
    }
    for group in registry.groups.iter().filter(|group| group.kind == GroupKind::Metric) {
        let Some(name) = &group.metric_name else { bail!("the metric `{}` has no metric_name", group.id) };
        if group.id != format!("metric.{name}") || !name.starts_with("acceptd.") {
            bail!("the metric `{name}` must be in the namespace `acceptd.` and have the id `metric.{name}`");
        }
        if group.instrument.is_none() || group.unit.is_none() || group.stability.is_none() {
            bail!("the metric `{name}` needs an instrument, a unit and a stability");
        }
    }
    Ok(())
}

/// Fails with the first attribute that is defined, but that no event, span, metric or Resource refers to.
fn check_uses(groups: &[Group]) -> Result<()> {
    let attributes = || groups.iter().flat_map(|group| &group.attributes);
    let used: BTreeSet<&str> = attributes()
        .filter_map(|attribute| match attribute {
            Attribute::Reference(reference) => Some(reference.key.as_str()),
            Attribute::Definition(_) => None,
        })
        .collect();
    for attribute in attributes() {
        if let Attribute::Definition(definition) = attribute
            && !used.contains(definition.id.as_str())
        {
            bail!(
                "`{}` is defined, but no event, span, metric or Resource uses it: refer to it (`ref`) in its group, such as event.acceptd.socket.accept in events.yaml",
                definition.id
            );
        }
    }
    Ok(())
}

/// Checks keys, each with whether acceptd defines it.
fn keys<'a>(keys: impl Iterator<Item = (&'a str, bool)>) -> Result<()> {
    let mut flat = BTreeMap::new();
    for (key, own) in keys {
        let word = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_lowercase())
                && part.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '_')
        };
        if !key.split('.').all(word) {
            bail!("`{key}` must be lowercase words, divided by dots");
        }
        if own && !key.starts_with("acceptd.") {
            bail!("`{key}` is not in the namespace `acceptd.`");
        }
        // Loki and Prometheus store the dots as underscores.
        if let Some(other) = flat.insert(key.replace('.', "_"), key) {
            bail!("`{key}` and `{other}` are the same once dots are underscores");
        }
    }
    // OpenSearch turns a prefix into an object, which cannot have a value of its own. Every pair is compared,
    // because other keys may sort between a key and a key with that prefix (`a.b`, `a.b_c`, `a.b.d`).
    let all: Vec<&str> = flat.into_values().collect();
    for key in &all {
        let prefix = format!("{key}.");
        if let Some(longer) = all.iter().find(|other| other.starts_with(&prefix)) {
            bail!("`{key}` is a key and also a prefix of `{longer}`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    fn verdict(names: &[&str]) -> String {
        super::keys(names.iter().map(|name| (*name, true)))
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn refuses_a_definition_without_a_use() {
        let group = |attribute: &str| {
            let text =
                format!("{{id: a, type: attribute_group, brief: A group., attributes: [{attribute}]}}");
            serde_saphyr::from_str::<super::Group>(&text).expect("a group")
        };
        let definition = "{id: acceptd.a, type: int, stability: development, brief: A number.}";
        let reference = "{ref: acceptd.a, requirement_level: required}";
        assert!(super::check_uses(&[group(definition), group(reference)]).is_ok());
        let error = super::check_uses(&[group(definition)]).expect_err("a definition without a use");
        assert!(error.to_string().starts_with("`acceptd.a` is defined, but"), "{error}");
    }

    #[test]
    fn accepts_siblings() {
        assert_eq!(verdict(&["acceptd.listener.fd", "acceptd.listener.fd_x", "acceptd.self"]), "");
    }

    #[test]
    fn refuses_a_leaf_that_is_a_prefix_even_with_another_between() {
        let verdict = verdict(&["acceptd.a", "acceptd.a_b", "acceptd.a.c"]);
        assert_eq!(verdict, "`acceptd.a` is a key and also a prefix of `acceptd.a.c`");
    }

    #[test]
    fn refuses_names_that_are_equal_without_dots() {
        assert!(verdict(&["acceptd.a.b", "acceptd.a_b"]).contains("the same once dots are underscores"));
    }

    #[test]
    fn refuses_foreign_namespaces_and_odd_words() {
        assert!(verdict(&["network.accept"]).contains("namespace"));
        assert!(verdict(&["acceptd.Fd"]).contains("lowercase"));
        assert!(verdict(&["acceptd..fd"]).contains("lowercase"));
    }
}
