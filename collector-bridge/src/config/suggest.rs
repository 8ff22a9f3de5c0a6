//! "Did you mean": the known name closest to a mistyped one.

/// Longest edit distance, in characters, at which a name is suggested.
const MAX_DISTANCE: usize = 3;

/// Longer names are not compared: no key is that long, and the cost grows with the product of both lengths.
const MAX_LENGTH: usize = 64;

/// `; did you mean "…"?` with the name of `known` that is closest to `name`; empty if no name is close.
///
/// A name without its group (`endpoint`) suggests the key that ends in it (`export.endpoint`).
pub(super) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    if name.len() > MAX_LENGTH {
        return String::new();
    }
    let is_last_segment = |key: &str| key.rsplit('.').next() == Some(name);
    let near = |key: &'a str| {
        let distance = if is_last_segment(key) { 1 } else { strsim::levenshtein(name, key) };
        // In a short name, a change of more than a third makes another name.
        (distance <= MAX_DISTANCE && distance * 3 <= key.len()).then_some((distance, key))
    };
    match known.filter_map(near).min() {
        Some((_, key)) => format!("; did you mean {key:?}?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["export.endpoint", "export.timeout", "batch.timeout", "host.id"];

    #[test]
    fn suggests_the_nearest_and_only_a_near_one() {
        assert_eq!(hint("export.endpont", KNOWN.into_iter()), "; did you mean \"export.endpoint\"?");
        assert_eq!(hint("endpoint", KNOWN.into_iter()), "; did you mean \"export.endpoint\"?");
        assert_eq!(hint("colour", KNOWN.into_iter()), "");
        assert_eq!(hint(&"x".repeat(1 << 20), KNOWN.into_iter()), "");
    }
}
