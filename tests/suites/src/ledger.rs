//! The ledger that the agent prints when it stops. Its equations are checked here independently of the
//! agent's own code.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A part of the ledger, and the terms of both sides of an equation.
type Equation = (&'static str, &'static [&'static str], &'static [&'static str]);

const EQUATIONS: [Equation; 4] = [
    ("capture", &["seen", "other"], &["filtered", "self", "aggregated", "lost", "submitted"]),
    ("capture", &["submitted"], &["in_ring", "malformed", "decoded"]),
    ("capture", &["decoded", "made"], &["records", "thinned", "too_large", "bookkeeping"]),
    (
        "export",
        &["records", "recovered"],
        &["acknowledged", "rejected", "dropped", "spooled", "queued", "in_flight"],
    ),
];

/// The terms that must be zero if nothing was lost and everything was flushed.
const ZERO: [(&str, &str); 8] = [
    ("capture", "lost"),
    ("capture", "in_ring"),
    ("capture", "malformed"),
    ("capture", "too_large"),
    ("export", "rejected"),
    ("export", "dropped"),
    ("export", "queued"),
    ("export", "in_flight"),
];

/// The ledger of one run of the agent.
pub(crate) struct Ledger(Value);

impl Ledger {
    /// Finds the line `ledger: {json}` in the agent's log.
    pub(crate) fn from_log(log: &str) -> Result<Self> {
        let json = log
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("ledger: "))
            .with_context(|| format!("the agent's log ends without a ledger:\n{}", log.trim_end()))?;
        Ok(Self(serde_json::from_str(json).context("the ledger is not JSON")?))
    }

    /// Fails with the first equation that does not hold.
    pub(crate) fn balance(&self) -> Result<()> {
        for (part, left, right) in EQUATIONS {
            let sum = |terms: &[&str]| terms.iter().map(|term| self.term(part, term)).sum::<Result<u64>>();
            let (left_sum, right_sum) = (sum(left)?, sum(right)?);
            if left_sum != right_sum {
                bail!(
                    "{part}: {} = {left_sum}, but {} = {right_sum}\n{}",
                    left.join(" + "),
                    right.join(" + "),
                    self.0
                );
            }
        }
        Ok(())
    }

    /// [`Ledger::balance`], and fails if anything was lost.
    pub(crate) fn check(&self) -> Result<()> {
        self.balance()?;
        for (part, term) in ZERO {
            let value = self.term(part, term)?;
            if value != 0 {
                bail!("{part}: {term} = {value} instead of 0\n{}", self.0);
            }
        }
        let (made, exported) = (self.term("capture", "records")?, self.records()?);
        if made != exported {
            bail!("{made} records were made, but {exported} reached the exporter\n{}", self.0);
        }
        Ok(())
    }

    /// Records that were passed to the exporter.
    pub(crate) fn records(&self) -> Result<u64> {
        self.term("export", "records")
    }

    /// A count, or the sum of the counts by reason.
    pub(crate) fn term(&self, part: &str, term: &str) -> Result<u64> {
        let value = self.0.get(part).and_then(|part| part.get(term));
        value.and_then(sum).with_context(|| format!("the ledger has no count {part}.{term}\n{}", self.0))
    }
}

fn sum(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::Object(reasons) => reasons.values().map(sum).sum(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    const GOOD: &str = r#"ledger: {"capture":{"seen":10,"other":1,"filtered":{"family":1},"self":2,"aggregated":{"again":3,"x":0},
        "lost":{"ring":0},"submitted":5,"in_ring":0,"malformed":0,"decoded":5,"made":1,"bookkeeping":1,"thinned":1,"records":4,"too_large":0},
        "export":{"records":4,"recovered":0,"acknowledged":4,"rejected":0,"dropped":{"full":0},"spooled":0,"queued":0,
        "in_flight":0}}"#;

    fn verdict(log: &str) -> String {
        let checked = Ledger::from_log(log).and_then(|ledger| ledger.check());
        checked.map_or_else(|error| format!("{error:#}"), |()| String::new())
    }

    fn good() -> String {
        GOOD.replace('\n', " ")
    }

    #[test]
    fn balances() {
        assert_eq!(verdict(&format!("starting\n{}\n", good())), "");
    }

    #[test]
    fn every_term_counts() {
        for (from, to) in [
            (r#""family":1"#, r#""family":2"#),
            (r#""self":2"#, r#""self":1"#),
            (r#""decoded":5"#, r#""decoded":3"#),
            (r#""thinned":1"#, r#""thinned":0"#),
            (r#""other":1"#, r#""other":2"#),
            (r#""made":1"#, r#""made":0"#),
            (r#""bookkeeping":1"#, r#""bookkeeping":2"#),
            (r#""acknowledged":4"#, r#""acknowledged":3"#),
            (r#""spooled":0"#, r#""spooled":1"#),
            (r#""recovered":0"#, r#""recovered":1"#),
        ] {
            assert!(verdict(&good().replace(from, to)).contains("but"), "{to}");
        }
    }

    #[test]
    fn a_loss_is_an_error_even_when_it_adds_up() {
        let lossy = good().replace(r#""ring":0"#, r#""ring":1"#).replace(r#""seen":10"#, r#""seen":11"#);
        assert!(verdict(&lossy).contains("lost = 1 instead of 0"));
    }

    #[test]
    fn an_absent_ledger_or_term_is_an_error() {
        assert!(verdict("stopped\n").contains("without a ledger"));
        assert!(verdict(&good().replace("too_large", "else")).contains("no count capture.too_large"));
    }
}
