//! The numbers that `eval` can measure, by the names that its flags, table and JSON have for them, and bounds on them.

use std::fmt;
use std::str::FromStr;

use crate::args::Metric;

/// A number that is measured: a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    Perplexity,
    Accuracy,
    MacroF1,
    MicroF1,
    ExactMatch,
    Bleu,
    Rouge1,
    Rouge2,
    RougeL,
}

/// What has to be asked of a model for a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Log-probabilities of what is learned.
    Likelihood,
    /// Log-probabilities of each label.
    Labels,
    /// A greedy generation.
    Text,
}

impl Measure {
    const ALL: [Self; 9] = [
        Self::Perplexity,
        Self::Accuracy,
        Self::MacroF1,
        Self::MicroF1,
        Self::ExactMatch,
        Self::Bleu,
        Self::Rouge1,
        Self::Rouge2,
        Self::RougeL,
    ];

    /// The one of a name, in whichever spelling.
    fn of_name(name: &str) -> std::result::Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let spelled = name.trim().replace('_', "-");
        let found = Self::ALL.into_iter().find(|measure| measure.name() == spelled);
        found.ok_or_else(|| format!("expected one of {}, got {name:?}", names()))
    }

    /// As `--fail-below`, the table and the JSON spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::Accuracy => "accuracy",
            Self::MacroF1 => "macro-f1",
            Self::MicroF1 => "micro-f1",
            Self::ExactMatch => "exact-match",
            Self::Bleu => "bleu",
            Self::Rouge1 => "rouge-1",
            Self::Rouge2 => "rouge-2",
            Self::RougeL => "rouge-l",
        }
    }

    /// What it follows from.
    pub fn evidence(self) -> Evidence {
        match self {
            Self::Perplexity => Evidence::Likelihood,
            Self::Accuracy | Self::MacroF1 | Self::MicroF1 => Evidence::Labels,
            Self::ExactMatch | Self::Bleu | Self::Rouge1 | Self::Rouge2 | Self::RougeL => Evidence::Text,
        }
    }

    /// Whether a good model has little of it.
    pub fn better_when_lower(self) -> bool {
        self == Self::Perplexity
    }
}

impl Metric {
    /// The columns that it is.
    pub fn measures(self) -> &'static [Measure] {
        match self {
            Self::Perplexity => &[Measure::Perplexity],
            Self::Accuracy => &[Measure::Accuracy],
            Self::F1 => &[Measure::MacroF1, Measure::MicroF1],
            Self::ExactMatch => &[Measure::ExactMatch],
            Self::Bleu => &[Measure::Bleu],
            Self::Rouge => &[Measure::Rouge1, Measure::Rouge2, Measure::RougeL],
        }
    }
}

/// `METRIC=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// What is bounded.
    pub measure: Measure,
    /// By what.
    pub value: f64,
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once('=');
        let (name, value) = parts.ok_or_else(|| format!("expected METRIC=VALUE, got {text:?}"))?;
        let value = value.trim().parse::<f64>().ok().filter(|value| value.is_finite());
        Ok(Self {
            measure: Measure::of_name(name)?,
            value: value.ok_or_else(|| format!("expected METRIC=NUMBER, got {text:?}"))?,
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.measure.name(), self.value)
    }
}

/// What the trials of a search are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Mean loss of the tokens that are learned, on rows that are held out.
    EvalLoss,
    /// What `eval` measures on them.
    Measured(Measure),
}

/// As `--metric` spells it.
const EVAL_LOSS: &str = "eval-loss";

impl Objective {
    /// Whether good settings have little of it.
    pub fn better_when_lower(self) -> bool {
        match self {
            Self::EvalLoss => true,
            Self::Measured(measure) => measure.better_when_lower(),
        }
    }
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text.replace('_', "-") == EVAL_LOSS {
            return Ok(Self::EvalLoss);
        }
        let measure =
            Measure::of_name(text).map_err(|reason| reason.replacen("one of", &format!("one of {EVAL_LOSS},"), 1));
        measure.map(Self::Measured)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EvalLoss => EVAL_LOSS,
            Self::Measured(measure) => measure.name(),
        })
    }
}
