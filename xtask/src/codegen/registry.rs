//! Reads and resolves the registry, in the part of OpenTelemetry Weaver's format that acceptd uses.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::semconv::{self, Primitive};

const MANIFEST: &str = "manifest.yaml";
const SEMCONV: &str = "https://opentelemetry.io/schemas/";

/// A registry in which every reference is resolved.
pub(crate) struct Registry {
    /// The schema URL of the semantic conventions that it depends on.
    pub(crate) schema_url: String,
    /// All groups, in the order of files and of lines.
    pub(crate) groups: Vec<Group>,
    /// The metrics of the semantic conventions that acceptd emits.
    pub(crate) imported: Vec<&'static semconv::Metric>,
    /// Every key, defined here or by the semantic conventions.
    pub(crate) keys: BTreeMap<String, Key>,
}

/// An attribute key.
pub(crate) struct Key {
    pub(crate) brief: String,
    /// Whether this registry defines the key; otherwise the semantic conventions do.
    pub(crate) own: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "keys of Weaver's format; deny_unknown_fields needs them")]
struct Manifest {
    name: String,
    description: String,
    schema_url: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "keys of Weaver's format; deny_unknown_fields needs them")]
struct Dependency {
    schema_url: String,
    registry_path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    imports: Imports,
    groups: Vec<Group>,
}

/// Definitions of the semantic conventions that are used unchanged.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Imports {
    metrics: Vec<String>,
}

/// A group of attributes: a namespace, an event, a span, a metric, or a Resource.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: GroupKind,
    /// The name of an event.
    pub(crate) name: Option<String>,
    pub(crate) display_name: Option<String>,
    pub(crate) brief: String,
    pub(crate) note: Option<String>,
    pub(crate) stability: Option<Stability>,
    pub(crate) metric_name: Option<String>,
    pub(crate) instrument: Option<String>,
    pub(crate) unit: Option<String>,
    /// The kind of a span.
    #[expect(dead_code, reason = "Weaver requires it; a setting can change it")]
    pub(crate) span_kind: Option<SpanKind>,
    #[serde(default)]
    pub(crate) entity_associations: Vec<String>,
    pub(crate) attributes: Vec<Attribute>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GroupKind {
    AttributeGroup,
    Event,
    /// Its name is the `display_name`.
    Span,
    Metric,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SpanKind {
    Internal,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stability {
    Development,
    Stable,
}

/// The definition of an attribute (`id`), or a reference to one (`ref`).
#[derive(Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Attribute {
    Definition(Definition),
    Reference(Reference),
}

/// The key `ref` decides which of both is read. With serde's `untagged`, the error of a mistyped value would
/// name neither the attribute nor the allowed values.
impl TryFrom<Value> for Attribute {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let key = text("ref")
            .or_else(|| text("id"))
            .unwrap_or_else(|| "an attribute without id and ref".to_owned());
        let attribute = if value.get("ref").is_some() {
            serde_json::from_value(value).map(Self::Reference)
        } else {
            serde_json::from_value(value).map(Self::Definition)
        };
        attribute.map_err(|error| format!("{key}: {error}"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definition {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) stability: Stability,
    pub(crate) brief: String,
    pub(crate) note: Option<String>,
    #[serde(default)]
    pub(crate) examples: Vec<Example>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    #[serde(rename = "ref")]
    pub(crate) key: String,
    /// Replaces the brief of the definition; required for keys that are not defined here.
    pub(crate) brief: Option<String>,
    pub(crate) requirement_level: Level,
}

/// The type of a value: a primitive type, or an enumeration of strings.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Kind {
    Primitive(Primitive),
    Enumeration(Enumeration),
}

/// The values of an enumeration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enumeration {
    pub(crate) members: Vec<Member>,
}

/// A map is an enumeration, anything else must be the name of a primitive type.
impl TryFrom<Value> for Kind {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let kind = if value.is_object() {
            serde_json::from_value(value).map(Self::Enumeration)
        } else {
            serde_json::from_value(value).map(Self::Primitive)
        };
        kind.map_err(|error| format!("type: {error}; a type is one of these names, or a map with `members`"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "Weaver requires id and stability of a member; the reference shows value and brief"
)]
pub(crate) struct Member {
    id: String,
    pub(crate) value: String,
    stability: Stability,
    pub(crate) brief: String,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an example must be an int or a string; a boolean needs no examples")]
pub(crate) enum Example {
    Int(i64),
    Text(String),
}

/// When an attribute is present: `required`, `opt_in`, or a map with `conditionally_required`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Required,
    OptIn,
    /// With the condition, such as "when the listener is known".
    ConditionallyRequired(String),
}

impl Registry {
    /// Reads the manifest and every other `*.yaml` of the folder.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let manifest: Manifest = parse(&folder.join(MANIFEST))?;
        let semconv = manifest.dependencies.iter().find(|one| one.schema_url.starts_with(SEMCONV));
        let schema_url = semconv
            .with_context(|| {
                format!("{MANIFEST} names no dependency whose schema_url begins with {SEMCONV}")
            })?
            .schema_url
            .clone();
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("reading {}", folder.display()))?
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "yaml") && !path.ends_with(MANIFEST))
            .collect();
        files.sort();
        let (mut groups, mut imported) = (Vec::new(), Vec::new());
        for file in files {
            let file = parse::<File>(&file)?;
            groups.extend(file.groups);
            for name in file.imports.metrics {
                imported
                    .push(semconv::metric(&name).with_context(|| format!("{name} is not in semconv.rs"))?);
            }
        }
        let mut keys = resolve(&groups)?;
        for (key, _) in imported.iter().flat_map(|metric| metric.attributes) {
            let foreign = || Key { brief: "See the semantic conventions.".to_owned(), own: false };
            keys.entry((*key).to_owned()).or_insert_with(foreign);
        }
        Ok(Self { schema_url, groups, imported, keys })
    }

    /// The definition of an own key.
    pub(crate) fn definition(&self, key: &str) -> Option<&Definition> {
        self.groups.iter().flat_map(|group| &group.attributes).find_map(|attribute| match attribute {
            Attribute::Definition(definition) if definition.id == key => Some(definition),
            _ => None,
        })
    }

    /// The type of a key's values.
    pub(crate) fn kind_of(&self, key: &str) -> Primitive {
        match self.definition(key).map(|found| &found.kind) {
            None => semconv::type_of(key),
            Some(Kind::Primitive(primitive)) => *primitive,
            Some(Kind::Enumeration(_)) => Primitive::String,
        }
    }
}

impl fmt::Display for Example {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(formatter),
            Self::Text(text) => text.fmt(formatter),
        }
    }
}

/// Collects every key with its brief. Fails if a key is defined twice, or a reference has no definition.
pub(crate) fn resolve(groups: &[Group]) -> Result<BTreeMap<String, Key>> {
    let mut keys = BTreeMap::new();
    for attribute in groups.iter().flat_map(|group| &group.attributes) {
        if let Attribute::Definition(definition) = attribute {
            let key = Key { brief: definition.brief.clone(), own: true };
            if keys.insert(definition.id.clone(), key).is_some() {
                bail!("`{}` is defined twice", definition.id);
            }
        }
    }
    for attribute in groups.iter().flat_map(|group| &group.attributes) {
        let Attribute::Reference(reference) = attribute else { continue };
        if keys.contains_key(&reference.key) {
            continue;
        }
        match &reference.brief {
            _ if reference.key.starts_with("acceptd.") => {
                bail!("`{}` is used, but not defined", reference.key)
            }
            None => {
                bail!("`{}` belongs to the semantic conventions: its first use needs a brief", reference.key)
            }
            Some(brief) => keys.insert(reference.key.clone(), Key { brief: brief.clone(), own: false }),
        };
    }
    Ok(keys)
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_saphyr::from_str(&text)
        .with_context(|| format!("{} is not in the format that codegen reads", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Attribute, Level};

    fn refusal(text: &str) -> String {
        serde_saphyr::from_str::<Attribute>(text).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_mistyped_level_or_type_is_named_with_the_allowed_values() {
        let level = refusal("ref: acceptd.a\nrequirement_level: mandatory\n");
        assert!(
            level.contains("acceptd.a: unknown variant `mandatory`, expected one of `required`"),
            "{level}"
        );
        let definition = |kind: &str| {
            refusal(&format!("id: acceptd.a\ntype: {kind}\nstability: development\nbrief: It.\n"))
        };
        let kind = definition("integer");
        assert!(
            kind.contains("acceptd.a: type: unknown variant `integer`, expected one of `string`"),
            "{kind}"
        );
        assert_eq!(definition("int"), "");
        let neither = refusal("brief: It.\n");
        assert!(neither.contains("an attribute without id and ref: missing field `id`"), "{neither}");
    }

    #[test]
    fn a_conditional_level_is_a_nested_map() {
        let text = "ref: acceptd.a\nrequirement_level:\n  conditionally_required: when it is known\n";
        let Ok(Attribute::Reference(reference)) = serde_saphyr::from_str(text) else {
            panic!("{}", refusal(text))
        };
        assert!(
            matches!(reference.requirement_level, Level::ConditionallyRequired(when) if when == "when it is known")
        );
    }
}
