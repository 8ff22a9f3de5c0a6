//! "Did you mean": the known name nearest to a mistyped one.

/// Mistakes in this many characters are still taken for the name that was meant.
const MAX_DISTANCE: usize = 3;

/// A name longer than this is no typing mistake of ours, and not worth comparing.
const MAX_LENGTH: usize = 64;

/// `; did you mean "…"?` for the one of `known` that `name` was most likely meant to be, else nothing.
///
/// A name without its group (`endpoint`) suggests the key that ends in it (`export.endpoint`).
pub(super) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    if name.len() > MAX_LENGTH {
        return String::new();
    }
    let last = |key: &str| key.rsplit('.').next() == Some(name);
    let near = |key: &'a str| {
        let distance = if last(key) { 1 } else { edit_distance(name, key) };
        // A third of a short name changed is another name.
        (distance <= MAX_DISTANCE && distance * 3 <= key.len()).then_some((distance, key))
    };
    match known.filter_map(near).min() {
        Some((_, key)) => format!("; did you mean {key:?}?"),
        None => String::new(),
    }
}

/// Levenshtein distance in characters.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = i;
        let mut left_cell = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&right) {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = *cell;
            *cell = substituted.min(diagonal + 1).min(left_cell + 1);
            left_cell = *cell;
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["export.endpoint", "export.timeout", "batch.timeout", "host.id"];

    #[test]
    fn distances() {
        for (left, right, distance) in [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3)] {
            assert_eq!(edit_distance(left, right), distance, "{left} {right}");
        }
    }

    #[test]
    fn suggests_the_nearest_and_only_a_near_one() {
        assert_eq!(hint("export.endpont", KNOWN.into_iter()), "; did you mean \"export.endpoint\"?");
        assert_eq!(hint("endpoint", KNOWN.into_iter()), "; did you mean \"export.endpoint\"?");
        assert_eq!(hint("colour", KNOWN.into_iter()), "");
        assert_eq!(hint(&"x".repeat(1 << 20), KNOWN.into_iter()), "");
    }
}
