//! The macro that turns the table of keys in `schema` into structs and rows, and the type of a row.

use super::{raw::Raw, schema::Config};

/// One key: everything about it but its field in [`Config`].
pub(super) struct Key {
    /// `group.name`, as in the configuration file.
    pub(super) name: &'static str,
    /// Its documentation, line by line.
    pub(super) doc: &'static [&'static str],
    /// A description of accepted values.
    pub(super) expects: fn() -> String,
    /// Reads a value into the field. On an error, which is the cause, the field is unchanged.
    pub(super) set: fn(&mut Config, &Raw) -> Result<(), String>,
    /// The value of the field as TOML, secrets as `***`.
    pub(super) get: fn(&Config) -> toml::Value,
    /// Whether both configurations have the same value.
    pub(super) same: fn(&Config, &Config) -> bool,
    /// Copies the value of the second configuration into the first.
    pub(super) copy: fn(&mut Config, &Config),
}

impl Key {
    /// The name of the key's environment variable.
    pub(super) fn variable(&self) -> String {
        variable(self.name)
    }
}

/// The environment variable of the key `a.b`: `ACCEPTD_A_B`.
pub(super) fn variable(name: &str) -> String {
    format!("ACCEPTD_{}", name.replace('.', "_").to_ascii_uppercase())
}

/// Turns a table of keys into the struct of the whole configuration, a struct for each group, their defaults,
/// and `KEYS`.
///
/// A row is `"name" => field: type = default, kind;` below its documentation, which becomes the field's
/// documentation and the comment in `config default`.
macro_rules! settings {
    (
        $(#[doc = $config_doc:literal])*
        $Config:ident
        { $( $(#[doc = $top_doc:literal])* $top_name:literal => $top:ident: $Top:ty = $top_default:expr, $top_kind:expr; )* }
        $(
            $(#[doc = $group_doc:literal])*
            $group:ident: $Group:ident
            { $( $(#[doc = $doc:literal])* $name:literal => $field:ident: $Type:ty = $default:expr, $kind:expr; )* }
        )*
    ) => {
        $(#[doc = $config_doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $Config {
            $( $(#[doc = $top_doc])* pub $top: $Top, )*
            $( $(#[doc = $group_doc])* pub $group: $Group, )*
        }

        $(
            $(#[doc = $group_doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $Group { $( $(#[doc = $doc])* pub $field: $Type, )* }
        )*

        impl Default for $Config {
            fn default() -> Self {
                Self {
                    $( $top: $top_default, )*
                    $( $group: $Group { $( $field: $default, )* }, )*
                }
            }
        }

        /// Every key, in the order of `config default`: keys without a group come first.
        pub(super) const KEYS: &[Key] = &[
            $( settings!(@row $Top, $top_name, $top_kind, [$($top_doc),*], $top), )*
            $( $( settings!(@row $Type, $name, $kind, [$($doc),*], $group.$field), )* )*
        ];
    };
    (@row $Type:ty, $name:literal, $kind:expr, [$($doc:literal),*], $($path:ident).+) => {
        Key {
            name: $name,
            doc: &[$($doc),*],
            expects: || ValueKind::<$Type>::expects(&$kind),
            set: |config, raw| {
                config.$($path).+ = $kind.read(raw)?;
                Ok(())
            },
            get: |config| $kind.write(&config.$($path).+),
            same: |one, other| one.$($path).+ == other.$($path).+,
            copy: |to, from| to.$($path).+.clone_from(&from.$($path).+),
        }
    };
}
pub(super) use settings;
