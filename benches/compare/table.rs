//! What was measured beside what must be reached, as Markdown and JSON.

use serde::Serialize;
use serde_json::{Value, json};

/// What is held against the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Ours divided by theirs.
    Ratio,
    /// Ours less theirs.
    Difference,
    /// Ours alone.
    Ours,
}

/// A bound and its direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Line {
    pub row: &'static str,
    pub work: String,
    pub unit: &'static str,
    /// Who or what ours is held against.
    pub beside: String,
    pub ours: Result<f64, String>,
    /// `None` where ours stands alone.
    pub theirs: Option<Result<f64, String>>,
    pub quantity: Quantity,
    pub must: Option<Bound>,
    pub goal: Option<Bound>,
}

impl Line {
    /// A row that could not be measured at all.
    pub fn failed(row: &'static str, reason: String) -> Self {
        Self {
            row,
            work: row.to_owned(),
            unit: "",
            beside: String::new(),
            ours: Err(reason),
            theirs: None,
            quantity: Quantity::Ours,
            must: None,
            goal: None,
        }
    }
}

impl Bound {
    /// Whether a value is within it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    /// How far a value has come: 1 is the bound, more is better. At most nothing counts as at most a hundredth.
    pub fn progress(self, value: f64) -> f64 {
        match self {
            Self::AtLeast(least) => value / least,
            Self::AtMost(most) => most.max(0.01) / value.max(1e-3 * most.max(0.01)),
        }
    }

    fn text(self, quantity: Quantity, unit: &str) -> String {
        let (sign, value) = match self {
            Self::AtLeast(least) => ("≥", least),
            Self::AtMost(most) => ("≤", most),
        };
        match quantity {
            Quantity::Ratio => format!("{sign} {}x", number(value)),
            Quantity::Difference => format!("{sign} + {} {unit}", number(value)),
            Quantity::Ours => format!("{sign} {} {unit}", number(value)),
        }
    }
}

impl Line {
    /// What is held against the bounds, where both sides were measured.
    pub fn value(&self) -> Option<f64> {
        let ours = *self.ours.as_ref().ok()?;
        let theirs = match &self.theirs {
            Some(theirs) => Some(*theirs.as_ref().ok()?),
            None => None,
        };
        Some(match (self.quantity, theirs) {
            (Quantity::Ours, _) => ours,
            (Quantity::Ratio, theirs) => ours / theirs?,
            (Quantity::Difference, theirs) => ours - theirs?,
        })
    }

    /// Whether the bound is kept; `None` where it was not measured or there is no bound.
    pub fn reached(&self) -> Option<bool> {
        Some(self.must?.holds(self.value()?))
    }

    fn markdown(&self) -> String {
        let side = |side: &Result<f64, String>| match side {
            Ok(value) => format!("{} {}", number(*value), self.unit),
            Err(why) => why.replace('|', "/").replace('\n', " "),
        };
        let bound = |bound: Option<Bound>| bound.map_or(String::new(), |bound| bound.text(self.quantity, self.unit));
        let value = self.value().map_or("not measured".into(), |value| match self.quantity {
            Quantity::Ratio => format!("{value:.2}x"),
            Quantity::Difference => format!("{value:+.1} {}", self.unit),
            Quantity::Ours => format!("{} {}", number(value), self.unit),
        });
        let reached = match (self.reached(), self.value().is_some()) {
            (Some(true), _) => "yes",
            (Some(false), _) => "**no**",
            (None, true) => "reported",
            (None, false) => "not measured",
        };
        let cells = [
            self.work.clone(),
            side(&self.ours),
            self.beside.clone(),
            self.theirs.as_ref().map_or(String::new(), side),
            value,
            bound(self.must),
            bound(self.goal),
            reached.to_owned(),
        ];
        format!("| {} |", cells.join(" | "))
    }

    fn json(&self) -> Value {
        let side = |side: &Result<f64, String>| match side {
            Ok(value) => json!(value),
            Err(why) => json!({"missing": why}),
        };
        json!({
            "row": self.row,
            "work": self.work,
            "unit": self.unit,
            "beside": self.beside,
            "ours": side(&self.ours),
            "theirs": self.theirs.as_ref().map(side),
            "value": self.value(),
            "reached": self.reached(),
        })
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
    }
}

/// What the whole run says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Header {
    pub model: String,
    pub threads: usize,
    pub processor: String,
    pub isa: String,
    pub rounds: usize,
    pub peers: Vec<String>,
}

/// The table with its heading.
pub fn markdown(header: &Header, lines: &[Line]) -> String {
    let mut text = format!(
        "{}, {} threads, {} ({}); medians of {} rounds in turn. {}.\n\n",
        header.model,
        header.threads,
        header.processor,
        header.isa,
        header.rounds,
        header.peers.join("; ")
    );
    text.push_str(
        "| work | ours | beside | theirs | ratio | must reach | goal | reached |\n|---|---|---|---|---|---|---|---|\n",
    );
    for line in lines {
        text.push_str(&line.markdown());
        text.push('\n');
    }
    text
}

/// The same for programs.
pub fn json(header: &Header, lines: &[Line]) -> Value {
    json!({"run": header, "lines": lines.iter().map(Line::json).collect::<Vec<_>>()})
}
