//! What one row of an answer has, and which row has it.

use std::fmt;

use anyhow::{Context, Result};

use super::answer::Row;

/// What one row of an answer has.
#[derive(Clone)]
pub(super) enum Fact {
    /// A value.
    Is(&'static str, String),
    /// One of these.
    OneOf(&'static str, Vec<String>),
    /// A number within a range.
    Within(&'static str, f64, f64),
    /// Some value that has this within it: a display line.
    Says(String),
}

use Fact::{Is, OneOf, Says, Within};

/// The row that has all of these.
pub(super) fn find<'a>(facts: &[Fact], rows: &'a [Row]) -> Result<&'a Row> {
    let answer = rows.iter().find(|row| facts.iter().all(|fact| fact.is_in(row)));
    answer.with_context(|| {
        let nearest = rows.iter().max_by_key(|row| facts.iter().filter(|fact| fact.is_in(row)).count());
        let facts: Vec<_> = facts.iter().map(Fact::to_string).collect();
        format!("no row of {} has {}; the nearest is {nearest:?}", rows.len(), facts.join(", "))
    })
}

impl Fact {
    /// Whether it speaks of this value.
    pub(super) fn is_of(&self, name: &str, value: &str) -> bool {
        match self {
            Is(key, _) | OneOf(key, _) | Within(key, ..) => *key == name,
            Says(part) => value.contains(part),
        }
    }

    fn is_in(&self, row: &Row) -> bool {
        match self {
            Is(key, value) => row.get(key) == Some(value),
            OneOf(key, values) => row.get(key).is_some_and(|value| values.contains(value)),
            Within(key, least, most) => {
                let number = row.get(key).and_then(|value| value.parse::<f64>().ok());
                number.is_some_and(|number| (*least..=*most).contains(&number))
            }
            Says(part) => row.values().any(|value| value.contains(part)),
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Is(key, value) => write!(out, "{key}={value}"),
            OneOf(key, values) => write!(out, "{key} one of {}", values.join(" ")),
            Within(key, least, most) => write!(out, "{key} from {least} to {most}"),
            Says(part) => write!(out, "{part:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_has_all_facts() {
        let facts =
            vec![Is("process_pid", "7".to_owned()), Within("value", 1.0, 2.0), Says("a -> b".to_owned())];
        let good = [("process_pid", "7"), ("value", "1.5"), ("line", "x a -> b")];
        assert!(find(&facts, &[Row::of(&good)]).is_ok());
        for (key, value) in [("process_pid", "8"), ("value", "3"), ("value", "none"), ("line", "b -> a")] {
            let bad = good.map(|(name, other)| (name, if name == key { value } else { other }));
            assert!(find(&facts, &[Row::of(&bad)]).is_err(), "{key}={value}");
        }
    }
}
