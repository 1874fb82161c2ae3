//! Prometheus' text format, as far as it is needed here.

use std::fmt::{Display, Write};

use super::histogram::{BOUNDS, Histogram};

/// Kinds of metric families.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The text, family after family.
#[derive(Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        Family { text: self, name }
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(&[], value);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, line: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }
}

/// One label of a sample.
pub(super) type Label<'a> = (&'a str, &'a str);

/// A family whose samples are being written.
pub(super) struct Family<'a> {
    text: &'a mut Exposition,
    name: &'static str,
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.suffixed("", labels, value);
    }

    pub(super) fn histogram(&mut self, label: Label<'_>, histogram: &Histogram) {
        let reading = histogram.read();
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(reading.cumulative) {
            self.suffixed("_bucket", &[label, ("le", &bound)], count);
        }
        self.suffixed("_sum", &[label], reading.sum);
        self.suffixed("_count", &[label], reading.cumulative[BOUNDS.len()]);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        let name = self.name;
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
            .collect();
        match labels.is_empty() {
            true => self.text.line(format_args!("{name}{suffix} {value}")),
            false => self
                .text
                .line(format_args!("{name}{suffix}{{{}}} {value}", labels.join(","))),
        }
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Exposition::default();
        text.family("a", Kind::Gauge, "Help")
            .sample(&[("name", "x\"y\\z\n"), ("other", "é")], 1.5);
        let expected = "# HELP a Help\n# TYPE a gauge\na{name=\"x\\\"y\\\\z\\n\",other=\"é\"} 1.5\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn buckets_are_cumulative() {
        let histogram = Histogram::default();
        for milliseconds in [1, 2, 2, 400_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let mut text = Exposition::default();
        text.family("h", Kind::Histogram, "Help")
            .histogram(("adapter", "x"), &histogram);
        let text = text.finish();
        for line in [
            "h_bucket{adapter=\"x\",le=\"0.001\"} 1",
            "h_bucket{adapter=\"x\",le=\"0.0025\"} 3",
            "h_bucket{adapter=\"x\",le=\"300\"} 3",
            "h_bucket{adapter=\"x\",le=\"+Inf\"} 4",
            "h_count{adapter=\"x\"} 4",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
        assert!(text.contains("h_sum{adapter=\"x\"} 400.00"), "{text}");
    }
}
