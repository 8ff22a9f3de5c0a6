//! Expectations that one row of an answer must meet, and the search for a row that meets all of them.

use std::fmt;

use anyhow::{Context, Result};

use super::answer::Row;

/// An expectation of one row.
#[derive(Clone)]
pub(super) enum Expectation {
    /// The column has this value.
    Is(&'static str, String),
    /// The column has one of these values.
    OneOf(&'static str, Vec<String>),
    /// The column is a number in this range, which includes both ends.
    Within(&'static str, f64, f64),
    /// Some column contains this text.
    Contains(String),
}

use Expectation::{Contains, Is, OneOf, Within};

/// Returns the first row that meets all expectations. If there is none, the error shows the row that meets
/// most.
pub(super) fn find<'a>(expectations: &[Expectation], rows: &'a [Row]) -> Result<&'a Row> {
    let answer = rows.iter().find(|row| expectations.iter().all(|expectation| expectation.holds_for(row)));
    answer.with_context(|| {
        let nearest = rows
            .iter()
            .max_by_key(|row| expectations.iter().filter(|expectation| expectation.holds_for(row)).count());
        let expectations: Vec<_> = expectations.iter().map(Expectation::to_string).collect();
        format!("no row of {} has {}; the nearest is {nearest:?}", rows.len(), expectations.join(", "))
    })
}

impl Expectation {
    /// Whether this expectation is about the column `name`, or about a text that `value` contains.
    pub(super) fn concerns(&self, name: &str, value: &str) -> bool {
        match self {
            Is(key, _) | OneOf(key, _) | Within(key, ..) => *key == name,
            Contains(part) => value.contains(part),
        }
    }

    fn holds_for(&self, row: &Row) -> bool {
        match self {
            Is(key, value) => row.get(key) == Some(value),
            OneOf(key, values) => row.get(key).is_some_and(|value| values.contains(value)),
            Within(key, least, most) => {
                let number = row.get(key).and_then(|value| value.parse::<f64>().ok());
                number.is_some_and(|number| (*least..=*most).contains(&number))
            }
            Contains(part) => row.values().any(|value| value.contains(part)),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Is(key, value) => write!(out, "{key}={value}"),
            OneOf(key, values) => write!(out, "{key} one of {}", values.join(" ")),
            Within(key, least, most) => write!(out, "{key} from {least} to {most}"),
            Contains(part) => write!(out, "{part:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_must_meet_all_expectations() {
        let expectations =
            vec![Is("process_pid", "7".to_owned()), Within("value", 1.0, 2.0), Contains("a -> b".to_owned())];
        let good = [("process_pid", "7"), ("value", "1.5"), ("line", "x a -> b")];
        assert!(find(&expectations, &[Row::from_columns(&good)]).is_ok());
        for (key, value) in [("process_pid", "8"), ("value", "3"), ("value", "none"), ("line", "b -> a")] {
            let bad = good.map(|(name, other)| (name, if name == key { value } else { other }));
            assert!(find(&expectations, &[Row::from_columns(&bad)]).is_err(), "{key}={value}");
        }
    }
}
