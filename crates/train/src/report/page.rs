//! The page itself: headline, plots, tables, samples.

use std::fmt::Write;

use rootstock_report::page::{document, facts, heading, tiles};
use rootstock_report::quantity::{bytes, count, duration, significant};
use rootstock_report::{LinePlot, Mark, Scale, Series, escape};

use super::{Report, Sample};
use crate::records::Record;

/// From so many values on, the line is smoothed and the values lie pale below it.
const SMOOTHED_FROM: usize = 40;

impl Report {
    /// The page.
    pub fn html(&self) -> String {
        let mut body = String::new();
        self.headline(&mut body);
        for warning in &self.warnings {
            let _ = writeln!(body, "<p class=\"warning\">{}</p>", escape(warning));
        }
        heading("Loss and learning rate", &mut body);
        body.push_str(&loss_plot(&self.records).svg());
        body.push_str(&rate_plot(&self.records).svg());
        samples(&self.samples, &mut body);
        heading("Cost", &mut body);
        facts(&self.cost_facts(), &mut body);
        heading("Data", &mut body);
        facts(&self.dataset_facts(), &mut body);
        heading("Settings", &mut body);
        facts(&self.settings, &mut body);
        document(&self.title, &body)
    }

    fn headline(&self, page: &mut String) {
        let last = self.records.iter().rev().find_map(|record| record.loss);
        let numbers = [
            ("training loss at the end", last.map(significant)),
            (
                "best eval loss",
                self.best
                    .map(|best| format!("{} at step {}", significant(best.loss), count(best.step))),
            ),
            ("its perplexity", self.best.map(|best| significant(best.loss.exp()))),
            ("time", Some(duration(self.cost.time))),
            ("tokens per second", self.tokens_per_second()),
            ("peak memory", self.cost.peak_memory.map(bytes)),
        ];
        let known = numbers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        tiles(known, page);
    }

    fn tokens_per_second(&self) -> Option<String> {
        let seconds = self.cost.time.as_secs_f64();
        (seconds > 0.0).then(|| significant(self.cost.tokens as f64 / seconds))
    }

    fn cost_facts(&self) -> Vec<(String, String)> {
        let steps = self.records.last().map_or(0, |record| record.step);
        let mut facts = vec![
            ("time".to_owned(), duration(self.cost.time)),
            ("steps".to_owned(), count(steps)),
            ("tokens".to_owned(), count(self.cost.tokens)),
        ];
        facts.extend(
            self.tokens_per_second()
                .map(|rate| ("tokens per second".to_owned(), rate)),
        );
        facts.extend(
            self.cost
                .peak_memory
                .map(|peak| ("peak memory".to_owned(), bytes(peak))),
        );
        facts
    }

    fn dataset_facts(&self) -> Vec<(String, String)> {
        let numbers = [
            ("rows to train on", self.dataset.rows),
            ("rows held out", self.dataset.held_out),
            ("tokens of a pass", self.dataset.tokens),
            ("of these with loss", self.dataset.learned),
            ("rows truncated", self.dataset.truncated),
        ];
        numbers.map(|(name, number)| (name.to_owned(), count(number))).to_vec()
    }
}

/// Answers side by side; nothing where there are none.
pub(crate) fn samples(samples: &[Sample], page: &mut String) {
    if samples.is_empty() {
        return;
    }
    heading("Samples", page);
    page.push_str("<table class=\"samples\"><tr><th>prompt</th><th>base</th><th>adapter</th></tr>\n");
    for sample in samples {
        page.push_str("<tr>");
        for text in [&sample.prompt, &sample.base, &sample.adapter] {
            // A parser drops the first line break of a pre.
            let _ = write!(page, "<td><pre dir=\"auto\">\n{}</pre></td>", escape(text));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn points(records: &[Record], value: impl Fn(&Record) -> Option<f64>) -> Vec<(f64, f64)> {
    let point = |record: &Record| Some((record.step as f64, value(record)?));
    records.iter().filter_map(point).collect()
}

fn series(name: &str, mark: Mark, points: Vec<(f64, f64)>) -> Series {
    let name = name.to_owned();
    Series { name, mark, points }
}

fn loss_plot(records: &[Record]) -> LinePlot {
    let train = points(records, |record| record.loss);
    let eval = points(records, |record| record.eval_loss);
    let mut all = Vec::new();
    match train.len() < SMOOTHED_FROM {
        true => all.push(series("train", Mark::Line, train)),
        false => {
            let smooth = smoothed(&train);
            all.push(series("train", Mark::Faint, train));
            all.push(series("train, smoothed", Mark::Line, smooth));
        }
    }
    if !eval.is_empty() {
        all.push(series("eval", Mark::Dotted, eval));
    }
    LinePlot {
        title: "Loss per token".to_owned(),
        x_label: "step".to_owned(),
        x_scale: Scale::Linear,
        series: all,
    }
}

fn rate_plot(records: &[Record]) -> LinePlot {
    let rates = points(records, |record| record.learning_rate);
    LinePlot {
        title: "Learning rate".to_owned(),
        x_label: "step".to_owned(),
        x_scale: Scale::Linear,
        series: vec![series("", Mark::Line, rates)],
    }
}

/// An exponential average over about a fortieth of the points, without the pull of a start at zero.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let past = 1.0 - (SMOOTHED_FROM as f64 / points.len() as f64).clamp(0.01, 0.3);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut smooth = |&(x, y): &(f64, f64)| {
        if !y.is_finite() {
            return (x, y);
        }
        sum = past * sum + (1.0 - past) * y;
        weight = past * weight + (1.0 - past);
        (x, sum / weight)
    };
    points.iter().map(&mut smooth).collect()
}
