//! A value as it was written, before the kind of its key interprets it.

use toml::de::{DeInteger, DeValue};

/// A value of the file, the environment or the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    /// Text from a variable or a flag: its key decides which type it is.
    Word(String),
    /// A TOML string: it is not converted to another type.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML float, as it was written.
    Float(String),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Raw>),
    /// A TOML table, keys in the order of the parser.
    Table(Vec<(String, Raw)>),
    /// A TOML value of a type that no key accepts; the name of the type.
    Other(&'static str),
}

impl Raw {
    /// Copies a parsed TOML value.
    pub(super) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => {
                integer(number).map_or(Self::Other("an integer out of range"), Self::Integer)
            }
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Float(number) => Self::Float(number.as_str().to_owned()),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Array(items) => {
                Self::List(items.iter().map(|item| Self::from_toml(item.get_ref())).collect())
            }
            DeValue::Table(entries) => Self::Table(
                entries
                    .iter()
                    .map(|(key, value)| (key.get_ref().to_string(), Self::from_toml(value.get_ref())))
                    .collect(),
            ),
        }
    }

    /// The text of a [`Word`](Self::Word) or [`Text`](Self::Text).
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Word(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The list that a variable or a flag has in TOML form, `[80, 443]`; `None` if this is anything else.
    ///
    /// # Errors
    /// The text begins like a list but is none; with the remedy.
    pub(super) fn toml_list(&self) -> Result<Option<Self>, String> {
        let Self::Word(word) = self else { return Ok(None) };
        if !word.trim_start().starts_with('[') {
            return Ok(None);
        }
        match DeValue::parse(word.trim()).map(|value| Self::from_toml(value.get_ref())) {
            Ok(list @ Self::List(_)) => Ok(Some(list)),
            _ => Err(format!(
                "{word:?} begins like a list of TOML but is none; write [80, 443] or [\"one\", \"two\"] with texts in quotes, or the items separated by commas without brackets"
            )),
        }
    }

    /// Whether it is an empty text, which means "not set" in every layer.
    pub(super) fn is_unset(&self) -> bool {
        self.text().is_some_and(str::is_empty)
    }

    /// The name of its type, for "expected …, not …". Never the value, which may be a secret.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Word(_) => "this text",
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}
