//! The outcome as one HTML file: distance and perplexity over size, and the table.

use rootstock_report::page::{document, facts, heading, table};
use rootstock_report::{LinePlot, Mark, Scale, Series};
use serde_json::Value;

use super::contest::Row;
use super::report::Report;

impl Report {
    /// The page. It needs nothing beside itself and runs nothing.
    pub fn html(&self) -> String {
        let mut body = String::new();
        self.show(&mut body);
        let names: Vec<_> = self.rows.iter().map(|row| row.entry.name.as_str()).collect();
        document(&names.join(", "), &body)
    }

    /// The plots and tables of the page.
    pub fn show(&self, body: &mut String) {
        heading("Quality and size", body);
        let kl = |row: &Row| row.comparison.map(|found| found.kl.value);
        body.push_str(&self.plot("KL from the source, in nats per token", kl).svg());
        body.push_str(&self.plot("Perplexity", |row| Some(row.perplexity.value)).svg());
        heading("All numbers", body);
        table(&self.cells(), body);
        heading("Measured on", body);
        facts(&self.facts(), body);
    }

    /// A dot per model, each in its own colour.
    fn plot(&self, title: &str, value: impl Fn(&Row) -> Option<f64>) -> LinePlot {
        let series = self.rows.iter().filter_map(|row| {
            let mebibytes = row.entry.bytes as f64 / f64::from(1 << 20);
            Some(Series {
                name: row.entry.name.clone(),
                mark: Mark::Dots,
                points: vec![(mebibytes, value(row)?)],
            })
        });
        LinePlot {
            title: title.to_owned(),
            x_label: "size in MiB".to_owned(),
            x_scale: Scale::Linear,
            series: series.collect(),
        }
    }

    fn facts(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.head
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect()
    }
}
