//! From values to grids, sixteen groups at a time.

use super::grid::{Encoding, Grid};
use super::groups::{GroupFormat, ZeroPoint};
use super::lanes::{Grids, Lanes, Row, store};
use super::levels::{Join, Levels};
use super::search::Search;
use crate::element::ElementType;
use crate::isa::Kernel;
use crate::matrix::BlockFormat;
use crate::simd::{LANES, Simd};

/// What the search has to know of an encoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// Values with a step of their own.
    pub group: usize,
    /// The largest quant; the least is 0.
    pub most: u8,
    pub origin: Origin,
    /// How steps and minima are kept, unless in levels.
    pub kept: ElementType,
    /// Of scales in two levels.
    pub levels: Option<Levels>,
}

/// Where the quants of a group are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Origin {
    /// From a minimum of its own upwards.
    Minimum,
    /// Around zero, which is this quant.
    Zero {
        /// The same for all groups.
        quant: u8,
        /// Steps have no sign.
        positive: bool,
    },
    /// Around zero, which is a quant of the group's choice.
    ZeroPoint,
}

impl Shape {
    /// None for encodings without a scale, and for those that have another way here.
    pub(super) fn of(format: BlockFormat) -> Option<Self> {
        let levels = |groups, least: i8, most: i8| {
            let factors = [f32::from(least), f32::from(most)];
            Some(Levels { groups, factors })
        };
        let zero = |quant| Origin::Zero { quant, positive: false };
        let (group, most, origin, levels) = match format {
            BlockFormat::Q4_0 => (32, 15, zero(8), None),
            BlockFormat::Q4_1 => (32, 15, Origin::Minimum, None),
            BlockFormat::Q5_0 => (32, 31, zero(16), None),
            BlockFormat::Q5_1 => (32, 31, Origin::Minimum, None),
            BlockFormat::Q8_0 => (32, 255, zero(128), None),
            BlockFormat::Q2_K => (16, 3, Origin::Minimum, levels(16, 0, 15)),
            BlockFormat::Q3_K => (16, 7, zero(4), levels(16, -32, 31)),
            BlockFormat::Q4_K => (32, 15, Origin::Minimum, levels(8, 0, 63)),
            BlockFormat::Q5_K => (32, 31, Origin::Minimum, levels(8, 0, 63)),
            BlockFormat::Q6_K => (16, 63, zero(32), levels(16, -128, 127)),
            BlockFormat::I4 | BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => return None,
        };
        Some(Self {
            group,
            most,
            origin,
            kept: if levels.is_some() {
                ElementType::F32
            } else {
                ElementType::F16
            },
            levels,
        })
    }

    /// That of integers in groups.
    pub(super) fn of_groups(format: GroupFormat) -> Self {
        let middle = |positive| Origin::Zero {
            quant: 1 << (format.bits - 1),
            positive,
        };
        Self {
            group: format.inputs,
            most: u8::MAX >> (8 - format.bits),
            origin: match format.zero {
                ZeroPoint::Middle => middle(true),
                ZeroPoint::MiddleOfEitherSign => middle(false),
                ZeroPoint::OfGroup => Origin::ZeroPoint,
            },
            kept: format.scale,
            levels: None,
        }
    }
}

/// Appends the grids of whole blocks to `to`. Gives the first block whose scales are beyond f16, where it stops.
pub(super) struct Fit<'a> {
    pub encoding: Encoding,
    pub shape: Shape,
    pub values: &'a [f32],
    /// See [`Search`].
    pub thorough: bool,
    /// Of squared errors: whole blocks, again and again.
    pub weights: &'a [f32],
    pub to: &'a mut Vec<Grid>,
}

/// `1 / mean square`, 0 where there is none.
fn inverse_mean_square(values: &[f32]) -> f32 {
    let sum = values.iter().fold(0.0, |sum, value| value * value + sum);
    let inverse = values.len() as f32 / sum;
    if inverse.is_finite() && sum.is_finite() {
        inverse
    } else {
        0.0
    }
}

/// What was found for the groups in sixteen lanes.
pub(super) struct Found {
    pub steps: Row,
    pub minima: Row,
    /// What the file keeps as f16: step and minimum (subtracted, with two levels).
    pub units: [Row; 2],
    pub factors: [Row; 2],
    errors: Row,
}

impl Kernel for Fit<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<usize> {
        let group = self.shape.group;
        let groups = self.encoding.block() / group;
        let mut lanes = Lanes::new(group, self.shape.most);
        for first in (0..self.values.len()).step_by(LANES * group) {
            let count = LANES.min((self.values.len() - first) / group);
            for lane in 0..count {
                let at = first + lane * group;
                let weights = &self.weights[at % self.weights.len()..];
                let block = at / self.encoding.block() * self.encoding.block();
                let block = &self.values[block..block + self.encoding.block()];
                let scale = if self.thorough { inverse_mean_square(block) } else { 0.0 };
                lanes.set(lane, &self.values[at..at + group], weights, scale);
            }
            lanes.clear(count);
            let found = self.shape.find(s, &lanes, self.thorough);
            for lane in (0..count).step_by(groups) {
                if found.errors[lane..lane + groups].contains(&f32::INFINITY) {
                    return Some(self.to.len());
                }
                self.to.push(Grid::new(self.encoding, self.shape, &found, lane));
            }
        }
        None
    }
}

impl Shape {
    #[inline(always)]
    fn find<S: Simd>(self, s: S, lanes: &Lanes, thorough: bool) -> Found {
        let search = Search {
            lanes,
            kept: self.kept,
            thorough,
        };
        // Minima of two levels are not above zero.
        let highest = if self.levels.is_some() { 0.0 } else { f32::INFINITY };
        let alone = match self.origin {
            Origin::Zero { quant, positive } => search.centred(s, f32::from(quant), positive),
            Origin::ZeroPoint => search.with_zero(s),
            Origin::Minimum => search.with_minimum(s, highest),
        };
        let Some(levels) = self.levels else {
            let Grids { step, minimum } = alone.grids;
            return found(s, alone.grids, [step, minimum], [s.splat(0.0); 2], alone.errors);
        };
        let zero = match self.origin {
            Origin::Zero { quant, .. } => Some(f32::from(quant)),
            Origin::Minimum | Origin::ZeroPoint => None,
        };
        let join = Join { lanes, levels, zero };
        let shared = join.join(s, alone);
        let grids = join.grids(s, shared.units, shared.factors);
        found(s, grids, shared.units, shared.factors, shared.errors)
    }
}

#[inline(always)]
fn found<S: Simd>(s: S, grids: Grids<S>, units: [S::F; 2], factors: [S::F; 2], errors: S::F) -> Found {
    Found {
        steps: store(s, grids.step),
        minima: store(s, grids.minimum),
        units: [store(s, units[0]), store(s, units[1])],
        factors: [store(s, factors[0]), store(s, factors[1])],
        errors: store(s, errors),
    }
}
