//! A ratio from 0 to 1, and its kind.

use super::{kind::ValueKind, raw::Raw};

/// A ratio from 0 to 1. It is stored in billionths, so that it can be compared for equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio {
    billionths: u32,
}

/// The ratio 1.
const WHOLE: u32 = 1_000_000_000;

impl Ratio {
    /// One hundredth.
    pub(super) const PERCENT: Self = Self { billionths: WHOLE / 100 };

    /// `whole` times this ratio, rounded down.
    #[must_use]
    pub fn apply_to(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.billionths) / u128::from(WHOLE);
        u64::try_from(part).unwrap_or(whole)
    }

    fn parse(text: &str) -> Option<Self> {
        let number: f64 = text.parse().ok().filter(|number| (0.0..=1.0).contains(number))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a billion")]
        Some(Self { billionths: (number * f64::from(WHOLE)).round() as u32 })
    }
}

/// The kind of [`Ratio`].
pub(super) struct Fraction;

impl ValueKind<Ratio> for Fraction {
    fn expects(&self) -> String {
        "a number from 0 to 1".to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<Ratio, String> {
        let text = match raw {
            Raw::Integer(number) => number.to_string(),
            Raw::Float(text) | Raw::Word(text) => text.clone(),
            _ => return Err(self.mismatch(raw)),
        };
        Ratio::parse(&text).ok_or_else(|| self.unfit(text))
    }

    fn write(&self, value: &Ratio) -> toml::Value {
        (f64::from(value.billionths) / f64::from(WHOLE)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_a_number_from_0_to_1() {
        for (text, of_2000) in
            [("0", 0), ("1", 2000), ("0.01", 20), ("0.5", 1000), ("1e-9", 0), ("1.0", 2000)]
        {
            let ratio = Fraction.read(&Raw::Word(text.to_owned())).expect(text);
            assert_eq!(ratio.apply_to(2000), of_2000, "{text}");
            let again = Fraction.write(&ratio).to_string();
            assert_eq!(Fraction.read(&Raw::Float(again)), Ok(ratio), "{text}");
        }
        for text in ["-0.1", "1.1", "NaN", "half", ""] {
            Fraction.read(&Raw::Word(text.to_owned())).expect_err(text);
        }
        assert_eq!(Fraction.read(&Raw::Integer(1)).expect("a number").apply_to(u64::MAX), u64::MAX);
        Fraction.read(&Raw::Text("0.5".to_owned())).expect_err("a string");
    }
}
