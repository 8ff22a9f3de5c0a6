//! The kinds of keys: how a value of each kind is read and printed, and the message for a value that cannot
//! be read.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    quantity::{self, DURATIONS, SIZES},
    raw::Raw,
};

/// A kind of key. `T` is the type of the key's field in `Config`.
pub(super) trait ValueKind<T> {
    /// A description of accepted values. It follows "expected" in a message and "Expects" in `config
    /// default`.
    fn expects(&self) -> String;

    /// Reads a value. The error is the cause and what is expected instead. It quotes no secret.
    fn read(&self, raw: &Raw) -> Result<T, String>;

    /// The value as TOML, with `***` for secrets. A value without secrets reads back as the same value.
    fn write(&self, value: &T) -> toml::Value;

    /// The message for a value of the wrong TOML type.
    fn mismatch(&self, raw: &Raw) -> String {
        format!("expected {}, not {}", self.expects(), raw.describe())
    }

    /// The message for a value of the right type but out of range or malformed. It quotes the value.
    fn unfit(&self, value: impl std::fmt::Debug) -> String {
        format!("{value:?} is not {}", self.expects())
    }
}

/// `true` or `false`.
pub(super) struct Toggle;

impl ValueKind<bool> for Toggle {
    fn expects(&self) -> String {
        "true or false".to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<bool, String> {
        match raw {
            Raw::Boolean(value) => Ok(*value),
            Raw::Word(word) => word.parse().map_err(|_| self.unfit(word)),
            _ => Err(self.mismatch(raw)),
        }
    }

    fn write(&self, value: &bool) -> toml::Value {
        (*value).into()
    }
}

/// A whole number from `.0` to `.1`.
pub(super) struct CountRange(pub(super) usize, pub(super) usize);

impl ValueKind<usize> for CountRange {
    fn expects(&self) -> String {
        format!("a whole number from {} to {}", self.0, self.1)
    }

    fn read(&self, raw: &Raw) -> Result<usize, String> {
        let in_range = |count: &usize| (self.0..=self.1).contains(count);
        match raw {
            Raw::Integer(number) => {
                usize::try_from(*number).ok().filter(in_range).ok_or_else(|| self.unfit(number))
            }
            Raw::Word(word) => word.parse().ok().filter(in_range).ok_or_else(|| self.unfit(word)),
            _ => Err(self.mismatch(raw)),
        }
    }

    fn write(&self, value: &usize) -> toml::Value {
        i64::try_from(*value).unwrap_or(i64::MAX).into()
    }
}

/// A number of bytes from `min` to `max`. A number without a unit means bytes.
pub(super) struct SizeRange {
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) power_of_two: bool,
}

impl SizeRange {
    fn fits(&self, bytes: usize) -> bool {
        (self.min..=self.max).contains(&bytes) && (!self.power_of_two || bytes.is_power_of_two())
    }
}

impl ValueKind<usize> for SizeRange {
    fn expects(&self) -> String {
        let form = if self.power_of_two { "a power of two" } else { "a size such as \"8MiB\"" };
        format!("{form} from {} to {}", self.write(&self.min), self.write(&self.max))
    }

    fn read(&self, raw: &Raw) -> Result<usize, String> {
        if let Raw::Integer(number) = raw {
            let bytes = usize::try_from(*number).ok().filter(|bytes| self.fits(*bytes));
            return bytes.ok_or_else(|| self.unfit(number));
        }
        let text = raw.text().ok_or_else(|| self.mismatch(raw))?;
        let bytes = text.parse().ok().or_else(|| quantity::parse(text, SIZES)?.try_into().ok());
        bytes.filter(|bytes| self.fits(*bytes)).ok_or_else(|| self.unfit(text))
    }

    fn write(&self, value: &usize) -> toml::Value {
        quantity::format(*value as u128, SIZES).into()
    }
}

/// A duration from `.0` to `.1`. A number without a unit is refused, because its unit would be a guess.
pub(super) struct DurationRange(pub(super) Duration, pub(super) Duration);

impl ValueKind<Duration> for DurationRange {
    fn expects(&self) -> String {
        format!(
            "a duration with its unit such as \"200ms\", from {} to {}",
            self.write(&self.0),
            self.write(&self.1)
        )
    }

    fn read(&self, raw: &Raw) -> Result<Duration, String> {
        let text = raw.text().ok_or_else(|| self.mismatch(raw))?;
        let nanos = quantity::parse(text, DURATIONS).and_then(|nanos| u64::try_from(nanos).ok());
        nanos
            .map(Duration::from_nanos)
            .filter(|duration| (self.0..=self.1).contains(duration))
            .ok_or_else(|| self.unfit(text))
    }

    fn write(&self, value: &Duration) -> toml::Value {
        // `quantity::format` would print zero in the smallest unit, as "0ns".
        if value.is_zero() { "0s".into() } else { quantity::format(value.as_nanos(), DURATIONS).into() }
    }
}

/// A text; empty means unset.
pub(super) struct OptionalText;

impl ValueKind<Option<String>> for OptionalText {
    fn expects(&self) -> String {
        "a text".to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<Option<String>, String> {
        raw.text().map(|text| Some(text.to_owned())).ok_or_else(|| self.mismatch(raw))
    }

    fn write(&self, value: &Option<String>) -> toml::Value {
        value.clone().unwrap_or_default().into()
    }
}

/// An absolute path, which does not depend on the working directory.
pub(super) struct AbsolutePath;

impl ValueKind<PathBuf> for AbsolutePath {
    fn expects(&self) -> String {
        "an absolute path".to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<PathBuf, String> {
        let text = raw.text().ok_or_else(|| self.mismatch(raw))?;
        let path = PathBuf::from(text);
        // The kernel accepts no NUL in a path.
        if path.is_absolute() && !text.contains('\0') { Ok(path) } else { Err(self.unfit(text)) }
    }

    fn write(&self, value: &PathBuf) -> toml::Value {
        value.to_string_lossy().into_owned().into()
    }
}

/// An absolute path; empty means unset.
pub(super) struct OptionalPath;

impl ValueKind<Option<PathBuf>> for OptionalPath {
    fn expects(&self) -> String {
        AbsolutePath.expects()
    }

    fn read(&self, raw: &Raw) -> Result<Option<PathBuf>, String> {
        AbsolutePath.read(raw).map(Some)
    }

    fn write(&self, value: &Option<PathBuf>) -> toml::Value {
        value.as_ref().map_or_else(|| "".into(), |path| AbsolutePath.write(path))
    }
}

/// The value that unsets a key whose default is set.
const NONE: &str = "none";

/// An absolute path, or [`NONE`].
pub(super) struct PathOrNone;

impl ValueKind<Option<PathBuf>> for PathOrNone {
    fn expects(&self) -> String {
        format!("{}, or {NONE}", AbsolutePath.expects())
    }

    fn read(&self, raw: &Raw) -> Result<Option<PathBuf>, String> {
        if raw.text() == Some(NONE) { Ok(None) } else { AbsolutePath.read(raw).map(Some) }
    }

    fn write(&self, value: &Option<PathBuf>) -> toml::Value {
        value.as_ref().map_or_else(|| NONE.into(), |path| AbsolutePath.write(path))
    }
}

/// An address to listen on, or [`NONE`].
pub(super) struct OptionalAddress;

impl ValueKind<Option<SocketAddr>> for OptionalAddress {
    fn expects(&self) -> String {
        format!("an address and port such as \"127.0.0.1:9464\", or {NONE}")
    }

    fn read(&self, raw: &Raw) -> Result<Option<SocketAddr>, String> {
        match raw.text().ok_or_else(|| self.mismatch(raw))? {
            NONE => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.unfit(text)),
        }
    }

    fn write(&self, value: &Option<SocketAddr>) -> toml::Value {
        value.map_or_else(|| NONE.to_owned(), |address| address.to_string()).into()
    }
}

/// A list of names; in a variable or a flag, separated by commas.
pub(super) struct Names;

impl ValueKind<Vec<String>> for Names {
    fn expects(&self) -> String {
        "a list of names".to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<Vec<String>, String> {
        if let Some(list) = raw.toml_list()? {
            return self.read(&list);
        }
        match raw {
            Raw::Word(word) => Ok(word
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()),
            Raw::List(items) => items
                .iter()
                .map(|item| match item {
                    Raw::Text(name) if !name.is_empty() => Ok(name.clone()),
                    _ => Err(format!(
                        "expected {}, but an item of the list is {}",
                        self.expects(),
                        item.describe()
                    )),
                })
                .collect(),
            _ => Err(self.mismatch(raw)),
        }
    }

    fn write(&self, value: &Vec<String>) -> toml::Value {
        value.clone().into()
    }
}
