//! The kinds of keys that hold names with values: request headers and attributes.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use percent_encoding::percent_decode_str;

use super::{kind::ValueKind, raw::Raw};

/// Printed instead of a secret.
pub(super) const REDACTED: &str = "***";

/// Headers sent with every request: names in lowercase, and values that may be secret.
///
/// `Debug` prints the names, with `***` for each value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// Name and value of each header. Names are lowercase ASCII tokens without the suffix `-bin`, values
    /// printable ASCII: both are valid gRPC metadata.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds the headers of a text that has one a line, as `name: value`. Empty lines and lines that begin
    /// with `#` are skipped.
    ///
    /// # Errors
    /// A line is not a header. The message names the number of the line, and no value.
    pub fn extend_from_lines(&mut self, text: &str) -> Result<(), String> {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| format!("line {number} has no colon"))?;
            let (name, value) = header(name.trim(), value.trim().to_owned())
                .map_err(|cause| format!("line {number}: {cause}"))?;
            self.0.insert(name, value);
        }
        Ok(())
    }

    /// Adds a header unless the user has set it. Returns whether it was added.
    pub(super) fn insert_missing(&mut self, name: &str, value: String) -> bool {
        let missing = !self.0.contains_key(name);
        if missing {
            self.0.insert(name.to_owned(), value);
        }
        missing
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, REDACTED))).finish()
    }
}

/// The kind of [`Headers`].
pub(super) struct HeaderMap;

impl ValueKind<Headers> for HeaderMap {
    fn expects(&self) -> String {
        "a table of headers such as { authorization = \"Bearer …\" }, in a variable or a flag name=value,…"
            .to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<Headers, String> {
        let pairs = pairs(raw, &self.expects())?;
        pairs.into_iter().map(|(name, value)| header(&name, value)).collect::<Result<_, _>>().map(Headers)
    }

    fn write(&self, value: &Headers) -> toml::Value {
        table(value.0.keys().map(|name| (name.as_str(), REDACTED)))
    }
}

/// Checks a header by the rules of gRPC metadata. Messages never quote the value.
fn header(name: &str, value: String) -> Result<(String, String), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let name = name.to_ascii_lowercase();
    if !name.bytes().all(token) {
        return Err(format!("{name:?} is not a header name; use letters, digits, '-', '_' and '.'"));
    }
    if name.ends_with("-bin") || name.starts_with("grpc-") {
        return Err(format!("the header {name:?} is reserved by gRPC; remove it"));
    }
    if !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(format!(
            "the value of header {name:?} holds a character that no header may; use printable ASCII"
        ));
    }
    Ok((name, value))
}

/// The kind of a table of attributes.
pub(super) struct AttributePairs;

impl ValueKind<BTreeMap<String, String>> for AttributePairs {
    fn expects(&self) -> String {
        "a table of names with text values, in a variable or a flag name=value,…".to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<BTreeMap<String, String>, String> {
        Ok(pairs(raw, &self.expects())?.into_iter().collect())
    }

    fn write(&self, value: &BTreeMap<String, String>) -> toml::Value {
        table(value.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
}

fn table<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> toml::Value {
    let entries: toml::Table = pairs.map(|(name, value)| (name.to_owned(), value.into())).collect();
    entries.into()
}

/// Reads names with values from a TOML table or from `name=value,name=value`. Messages quote names, never
/// values.
fn pairs(raw: &Raw, expects: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = match raw {
        Raw::Word(word) => from_list(word)?,
        Raw::Table(entries) => entries
            .iter()
            .map(|(name, value)| match value {
                Raw::Text(value) => Ok((name.clone(), value.clone())),
                _ => Err(format!("the value of {name:?} is {}; put it in quotes", value.describe())),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(format!("expected {expects}, not {}", raw.describe())),
    };
    if pairs.iter().any(|(name, _)| name.is_empty()) {
        return Err("one of the names is empty".to_owned());
    }
    Ok(pairs)
}

/// Reads the format of OpenTelemetry's variables (W3C Baggage without properties): pairs separated by commas,
/// with percent-encoded values.
pub(super) fn from_list(text: &str) -> Result<Vec<(String, String)>, String> {
    let entries = text.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty());
    entries
        .map(|(index, entry)| {
            let position = index + 1;
            let (name, value) = entry.split_once('=').ok_or_else(|| {
                format!("entry {position} is not name=value (write %2C for a comma within a value)")
            })?;
            let value = percent_decode(value.trim()).ok_or_else(|| {
                format!("the value of entry {position} is not percent-encoded UTF-8 (write %25 for a %)")
            })?;
            Ok((name.trim().to_owned(), value))
        })
        .collect()
}

/// Reads the `OTEL_RESOURCE_ATTRIBUTES` of an observed process; `None` if the list has a mistake. The error
/// is dropped, because it would show parts of another process's environment.
pub(crate) fn resource_attributes(text: &str) -> Option<Vec<(String, String)>> {
    from_list(text).ok()
}

/// Decodes percent-encoding; `None` if a `%` is not followed by two hex digits, or if the result is not
/// UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    // The crate passes a `%` without digits through, which would hide a typing mistake.
    let begins_with_digits =
        |text: &str| text.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(begins_with_digits) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Raw {
        Raw::Word(text.to_owned())
    }

    #[test]
    fn reads_the_form_of_the_variables() {
        let headers = HeaderMap.read(&word(" Authorization = Bearer%20a%2Cb , x-tenant=7,")).unwrap();
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("authorization", "Bearer a,b"), ("x-tenant", "7")]);
    }

    #[test]
    fn never_shows_a_value() {
        let headers = HeaderMap.read(&word("authorization=hunter2")).unwrap();
        assert_eq!(format!("{headers:?}"), r#"{"authorization": "***"}"#);
        assert_eq!(HeaderMap.write(&headers).to_string(), r#"{ authorization = "***" }"#);
        for bad in [
            "hunter2",
            "a b=hunter2",
            "a=hunter2%0a",
            "a=hunter2%",
            "a-bin=hunter2",
            "=hunter2",
            "a=hunter2%zz",
        ] {
            let cause = HeaderMap.read(&word(bad)).unwrap_err();
            assert!(!cause.contains("hunter2"), "{cause}");
        }
        let table = Raw::Table(vec![("a".to_owned(), Raw::Integer(42_4242))]);
        assert_eq!(HeaderMap.read(&table).unwrap_err(), "the value of \"a\" is an integer; put it in quotes");
    }

    #[test]
    fn a_header_of_the_user_is_kept() {
        let mut headers = HeaderMap.read(&word("authorization=mine")).unwrap();
        assert!(!headers.insert_missing("authorization", "other".to_owned()));
        assert!(headers.insert_missing("x", "y".to_owned()));
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("authorization", "mine"), ("x", "y")]);
    }
}
