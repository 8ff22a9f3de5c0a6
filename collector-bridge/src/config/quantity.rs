//! Numbers with a unit: `"3.5MB"`, `"200ms"`. Integer arithmetic is exact, so a printed number reads back as
//! the same number.

/// The name of a unit, and its size in the smallest unit.
pub(super) type Unit = (&'static str, u128);

/// Units of sizes, in bytes. Printing prefers earlier entries; the last entry fits every number.
pub(super) const SIZES: &[Unit] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of durations, in nanoseconds, in the same order.
pub(super) const DURATIONS: &[Unit] = &[
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The number of digits of the largest `u64`. The limit keeps the arithmetic within 128 bits.
const MAX_DIGITS: usize = 20;

/// Reads `text` as a decimal number with one of `units`, rounded down to the smallest unit. `None` for any
/// other text, including a number without a unit.
pub(super) fn parse(text: &str, units: &[Unit]) -> Option<u128> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let (whole, fraction_value) = (digits(whole)?, digits(fraction)?);
    let fraction_scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(whole * scale + fraction_value * scale / fraction_scale)
}

/// Reads a decimal number of at most [`MAX_DIGITS`] digits.
fn digits(text: &str) -> Option<u128> {
    let plain =
        !text.is_empty() && text.len() <= MAX_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Prints `amount` in the first of `units` that represents it exactly with at most one decimal.
pub(super) fn format(amount: u128, units: &[Unit]) -> String {
    let exact = |scale: u128| amount >= scale && (amount * 10).is_multiple_of(scale);
    match units.iter().find(|(_, scale)| exact(*scale)) {
        Some((unit, scale)) => {
            let tenths = amount * 10 / scale;
            match tenths % 10 {
                0 => format!("{}{unit}", tenths / 10),
                tenth => format!("{}.{tenth}{unit}", tenths / 10),
            }
        }
        // Only zero is less than one of the smallest unit.
        None => format!("{amount}{}", units.last().map_or("", |(unit, _)| unit)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_and_durations_of_the_manual() {
        assert_eq!(parse("4MiB", SIZES), Some(4 << 20));
        assert_eq!(parse("3.5MB", SIZES), Some(3_500_000));
        assert_eq!(parse("8 KiB", SIZES), Some(8192));
        assert_eq!(parse("200ms", DURATIONS), Some(200_000_000));
        assert_eq!(parse("1.5s", DURATIONS), Some(1_500_000_000));
        assert_eq!(format(3_500_000, SIZES), "3.5MB");
        assert_eq!(format(4 << 20, SIZES), "4MiB");
        assert_eq!(format(0, DURATIONS), "0ns");
    }

    #[test]
    fn a_number_without_a_known_unit_is_refused() {
        for text in
            ["", "5", "5x", "MiB", ".5s", "5.s", "1.2.3s", "-1s", "1e3s", "999999999999999999999s", "٣s"]
        {
            assert_eq!(parse(text, DURATIONS), None, "{text:?}");
            assert_eq!(parse(text, SIZES), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn printed_durations_read_back(amount in any::<u64>()) {
            prop_assert_eq!(parse(&format(u128::from(amount), DURATIONS), DURATIONS), Some(u128::from(amount)));
        }

        #[test]
        fn printed_sizes_read_back(amount in 0_u64..1 << 50) {
            prop_assert_eq!(parse(&format(u128::from(amount), SIZES), SIZES), Some(u128::from(amount)));
        }

        #[test]
        fn no_text_panics(text in "[0-9.]{0,40}\\PC{0,4}") {
            let _ = parse(&text, DURATIONS);
        }
    }
}
