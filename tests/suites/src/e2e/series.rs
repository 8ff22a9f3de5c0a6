//! The series of listeners at the agent's `/metrics`: by whose name a listener is counted.

use std::collections::BTreeMap;

/// One line of a listener's metric.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    metric: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Series {
    /// Reads `OpenMetrics` text.
    pub(super) fn parse(text: &str) -> Vec<Self> {
        text.lines().filter_map(line).collect()
    }

    /// Whether the line counts the open listeners of a name, and there are some: a series may outlive its
    /// listeners.
    pub(super) fn has_listeners(&self) -> bool {
        self.metric == "acceptd_listener_count" && self.value > 0.0
    }

    /// A label; empty if it is absent.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// `name{label="value",…} value`
fn line(line: &str) -> Option<Series> {
    let (metric, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once('}')?;
    let value = value.split_whitespace().next()?.parse().ok()?;
    // A comma may be part of a value, but not together with the quotes.
    let pairs = labels.trim_end_matches('"').split("\",").filter_map(|pair| pair.split_once("=\""));
    let labels = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (!metric.starts_with('#')).then(|| Series { metric: metric.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::Series;

    #[test]
    fn labels_are_split_at_their_quotes() {
        let text = "# HELP a b{c}\nacceptd_listener_count{a=\"1,2\",network_local_port=\"80\"} 2\nother 1\n";
        let series = Series::parse(text);
        assert_eq!(series.len(), 1);
        assert!(series[0].has_listeners());
        assert_eq!(series[0].label("network_local_port"), "80");
        assert_eq!((series[0].label("a"), series[0].label("absent")), ("1,2", ""));
        assert!(!Series::parse("acceptd_listener_count{a=\"b\"} 0\n")[0].has_listeners());
    }
}
