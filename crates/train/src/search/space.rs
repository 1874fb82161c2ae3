//! The space that a search goes over: named dimensions, each a range or a list of values.

use std::collections::BTreeMap;

use rootstock_report::Scale;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::table::cell;
use crate::{Random, TrainError};

/// Values of the dimensions of a trial, by name.
pub type Parameters = BTreeMap<String, Value>;

/// A dimension as a settings file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dimension {
    /// What its values are.
    #[serde(rename = "type")]
    pub kind: DimensionType,
    /// The lowest value of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The highest value of a range, which is one of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Whether each factor in a range is as likely as the others, instead of each difference.
    #[serde(default)]
    pub log: bool,
    /// The values themselves, in place of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Value>>,
}

/// What the values of a dimension are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DimensionType {
    /// Any number of a range.
    Float,
    /// Whole numbers of a range.
    Int,
    /// Values of any kind.
    Choice,
}

/// A dimension that was checked.
#[derive(Debug, Clone, PartialEq)]
enum Range {
    Float { low: f64, high: f64, log: bool },
    Int { low: i64, high: i64, log: bool },
    Values(Vec<Value>),
}

/// All dimensions, by name: their order in a file changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchSpace(BTreeMap<String, Range>);

impl SearchSpace {
    /// Checks dimensions.
    ///
    /// # Errors
    /// No dimension, or one whose range or values are none, with its name.
    pub fn new(dimensions: BTreeMap<String, Dimension>) -> Result<Self, TrainError> {
        if dimensions.is_empty() {
            return Err(TrainError::setting("search_space", "expected dimensions, found none"));
        }
        let check = |(name, dimension): (String, Dimension)| match dimension.check() {
            Ok(range) => Ok((name, range)),
            Err(reason) => Err(TrainError::setting(format!("search_space.{name}"), reason)),
        };
        dimensions.into_iter().map(check).collect::<Result<_, _>>().map(Self)
    }

    /// One point, at random.
    pub(super) fn sample(&self, random: &mut Random) -> Parameters {
        let sample = |(name, range): (&String, &Range)| (name.clone(), range.sample(random));
        self.0.iter().map(sample).collect()
    }

    /// Every point; the last dimension changes first.
    ///
    /// # Errors
    /// A range of floats, which has no end of points, or more points than `limit`.
    pub(super) fn grid(&self, limit: usize) -> Result<Vec<Parameters>, TrainError> {
        let mut points = vec![Parameters::new()];
        for (name, range) in &self.0 {
            let size = range.size(name)?;
            if size.saturating_mul(points.len() as u64) > limit as u64 {
                let reason = format!("the grid has more than {limit} points; name fewer values, or search at random");
                return Err(TrainError::setting("search_space", reason));
            }
            let values = range.values();
            let with = |point: &Parameters, value: &Value| {
                let mut point = point.clone();
                point.insert(name.clone(), value.clone());
                point
            };
            let along = |point: &Parameters| values.iter().map(|value| with(point, value)).collect::<Vec<_>>();
            points = points.iter().flat_map(along).collect();
        }
        Ok(points)
    }

    /// How the values of a dimension lie along an axis, and where on it each lies.
    pub(super) fn scale(&self, name: &str) -> (Scale, impl Fn(&Value) -> Option<f64>) {
        let range = self.0.get(name);
        let values: &[Value] = match range {
            Some(Range::Values(values)) => values,
            _ => &[],
        };
        let scale = match range {
            Some(Range::Values(values)) => Scale::Named(values.iter().map(cell).collect()),
            Some(Range::Float { log: true, .. } | Range::Int { log: true, .. }) => Scale::Log,
            _ => Scale::Linear,
        };
        let named = matches!(scale, Scale::Named(_));
        let place = move |value: &Value| match named {
            true => values.iter().position(|known| known == value).map(|at| at as f64),
            false => value.as_f64(),
        };
        (scale, place)
    }

    /// The names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Dimension {
    fn check(self) -> Result<Range, String> {
        if let Some(values) = self.values {
            return check_values(self.kind, values, self.low.is_some() || self.high.is_some());
        }
        let (Some(low), Some(high)) = (self.low, self.high) else {
            return Err(match self.kind {
                DimensionType::Choice => "expected values, found none".to_owned(),
                _ => "expected low and high, or values".to_owned(),
            });
        };
        if !(low.is_finite() && high.is_finite() && low <= high) {
            return Err(format!("expected low <= high, got {low} and {high}"));
        }
        if self.log && low <= 0.0 {
            return Err(format!("expected low > 0 where log is true, got {low}"));
        }
        let log = self.log;
        // Beyond this a f64 does not hold every whole number.
        let whole = |value: f64| value.fract() == 0.0 && value.abs() <= 2f64.powi(53);
        match self.kind {
            DimensionType::Float => Ok(Range::Float { low, high, log }),
            DimensionType::Int if whole(low) && whole(high) => Ok(Range::Int {
                low: low as i64,
                high: high as i64,
                log,
            }),
            DimensionType::Int => Err(format!("expected whole numbers, got {low} and {high}")),
            DimensionType::Choice => Err("expected values instead of low and high".to_owned()),
        }
    }
}

fn check_values(kind: DimensionType, values: Vec<Value>, has_range: bool) -> Result<Range, String> {
    let fits = |value: &&Value| match kind {
        DimensionType::Float => value.is_number(),
        DimensionType::Int => value.is_i64(),
        DimensionType::Choice => true,
    };
    match values.iter().find(|value| !fits(value)) {
        _ if has_range => Err("expected values, or low and high, got both".to_owned()),
        _ if values.is_empty() => Err("expected values, found none".to_owned()),
        Some(value) => Err(format!("expected values of its type, got {value}")),
        None => Ok(Range::Values(values)),
    }
}

impl Range {
    fn sample(&self, random: &mut Random) -> Value {
        match self {
            &Self::Float { low, high, log } => Value::from(rounded(between(random, low, high, log)).clamp(low, high)),
            // Half a step more at each end, so that the ends are as likely as the rest.
            &Self::Int { low, high, log } => {
                let drawn = between(random, low as f64 - 0.5, high as f64 + 0.5, log);
                Value::from((drawn.round() as i64).clamp(low, high))
            }
            Self::Values(values) => values[random.below(values.len())].clone(),
        }
    }

    fn size(&self, name: &str) -> Result<u64, TrainError> {
        match self {
            Self::Values(values) => Ok(values.len() as u64),
            Self::Int { low, high, .. } => Ok(low.abs_diff(*high) + 1),
            Self::Float { .. } => Err(TrainError::setting(
                format!("search_space.{name}"),
                "a grid needs values: a range of floats has no end of them",
            )),
        }
    }

    /// All values of a range that has an end of them.
    fn values(&self) -> Vec<Value> {
        match self {
            Self::Values(values) => values.clone(),
            &Self::Int { low, high, .. } => (low..=high).map(Value::from).collect(),
            Self::Float { .. } => Vec::new(),
        }
    }
}

fn between(random: &mut Random, low: f64, high: f64, log: bool) -> f64 {
    const FINEST: usize = 1 << 53;
    let unit = random.below(FINEST) as f64 / FINEST as f64;
    match log {
        true => (low.ln() + unit * (high.ln() - low.ln())).exp(),
        // Apart, because their difference may be beyond f64.
        false => low * (1.0 - unit) + high * unit,
    }
}

/// To six significant digits: what is tried can be written down and tried again.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}
