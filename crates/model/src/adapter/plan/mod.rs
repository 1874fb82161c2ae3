//! Which tensors of the files become which effects, nothing read yet: every tensor maps, everything the adapter says it
//! changes is there, every shape fits the base and the rank.

mod assembly;
mod bottleneck;
mod changes;
mod gguf;
mod initial;
mod peft;
mod slots;

use std::ops::Range;

use rootstock_formats::TensorInfo;

pub(super) use self::bottleneck::BottleneckPlan;
use super::container::{Contents, Files, WEIGHTS};
use super::error::clipped;
use super::modules::Map;
use super::{AdapterError, AdapterErrorCode as Code, AdapterLimits, Base, BiasKind};
use crate::{NormSite, RowOrder, Site};

/// The effects of an adapter: pairs, biases, matrices, normalisations, bottlenecks, each ordered by site.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) effects: Vec<EffectPlan<'a>>,
}

/// An effect and where its values are.
#[derive(Debug)]
pub(super) enum EffectPlan<'a> {
    LowRank(PairPlan<'a>),
    Bias {
        site: Site,
        kind: BiasKind,
        values: Piece<'a>,
    },
    Matrix {
        site: Site,
        values: Piece<'a>,
    },
    Norm {
        site: NormSite,
        weight: Option<Piece<'a>>,
        bias: Option<Piece<'a>>,
        /// Added to every factor.
        offset: f32,
    },
    Bottleneck(BottleneckPlan<'a>),
    /// A matrix of the head's file.
    Head {
        site: Site,
        values: Piece<'a>,
    },
}

/// A pair on one site.
#[derive(Debug)]
pub(super) struct PairPlan<'a> {
    pub(super) site: Site,
    /// Of this file's tensors.
    pub(super) rank: usize,
    pub(super) scale: f32,
    /// `[rank, inputs]`
    pub(super) a: Piece<'a>,
    /// `[outputs, rank]`
    pub(super) b: Piece<'a>,
    /// `[outputs]`
    pub(super) magnitude: Option<Piece<'a>>,
    /// A and B of the initial adapter, which its file holds and whose product is subtracted.
    pub(super) initial: Option<[Piece<'a>; 2]>,
}

/// A tensor of a file by its name there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) info: &'a TensorInfo,
}

/// Rows of a tensor seen as a matrix.
#[derive(Debug, Clone)]
pub(super) struct Piece<'a> {
    pub(super) tensor: Tensor<'a>,
    /// Of the matrix in its right form.
    pub(super) rows: Range<usize>,
    pub(super) form: Form,
}

/// How a stored matrix becomes the one that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    AsStored,
    /// Columns are rows.
    Turned,
    /// Rows lie in another order.
    Ordered(RowOrder),
}

impl<'a> Tensor<'a> {
    /// Rows and columns as stored; a vector is a column.
    pub(super) fn matrix_shape(&self) -> (usize, usize) {
        match *self.info.shape.as_slice() {
            [] => (1, 1),
            [rows] => (rows, 1),
            [rows, cols] => (rows, cols),
            [rows, ref rest @ ..] => (rows, rest.iter().product()),
        }
    }

    fn expect_shape(&self, expected: &[usize], note: &str) -> Result<(), AdapterError> {
        if self.info.shape == expected {
            return Ok(());
        }
        let (name, got) = (self.name, &self.info.shape);
        let message = format!("{WEIGHTS}: tensor {name}: expected shape {expected:?}{note}, got {got:?}");
        Err(AdapterError::new(Code::ShapeMismatch, message))
    }

    fn piece(self, rows: Range<usize>) -> Piece<'a> {
        Piece {
            tensor: self,
            rows,
            form: Form::AsStored,
        }
    }

    /// All of it.
    fn whole(self) -> Piece<'a> {
        self.piece(0..self.matrix_shape().0)
    }

    /// All of it, turned.
    fn turned(self) -> Piece<'a> {
        Piece {
            tensor: self,
            rows: 0..self.matrix_shape().1,
            form: Form::Turned,
        }
    }
}

impl Piece<'_> {
    /// Rows and columns of the piece.
    pub(super) fn shape(&self) -> (usize, usize) {
        let (rows, cols) = self.tensor.matrix_shape();
        let cols = if self.form == Form::Turned { rows } else { cols };
        (self.rows.len(), cols)
    }

    fn bytes(&self) -> u64 {
        let (rows, cols) = self.shape();
        // Blocks are read as singles.
        let (block, size) = self.tensor.info.dtype.block();
        (rows * cols * if block == 1 { size } else { 4 }) as u64
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(files: &'a Files, base: Base<'_>, limits: AdapterLimits) -> Result<Self, AdapterError> {
        let mut effects = match &files.main.contents {
            Contents::Peft { config, header } => {
                let mut effects = peft::effects(config, header, base, limits)?;
                if let Some(changed) = &config.changed_base {
                    initial::subtract(&mut effects, changed, files.initial.as_ref(), base, limits)?;
                }
                effects
            }
            Contents::AdapterHub { config, header } => {
                bottleneck::effects(config, header, files.head.as_ref(), base, limits)?
            }
            Contents::Gguf(gguf) => gguf::effects(gguf, base, limits)?,
        };
        let idle = |effect: &EffectPlan<'_>| {
            matches!(
                effect,
                EffectPlan::LowRank(PairPlan {
                    scale: 0.0,
                    magnitude: None,
                    ..
                })
            )
        };
        if effects.iter().all(idle) {
            let message = match effects.is_empty() {
                true => "adapter_config.json: expected modules to change, got none: the adapter changes nothing",
                false => {
                    "adapter_config.json: expected a scale that is not zero, got lora_alpha 0: the adapter changes nothing"
                }
            };
            return Err(AdapterError::new(Code::ZeroDelta, message));
        }
        effects.sort_by_key(EffectPlan::place);
        Ok(Self { effects })
    }

    pub(super) fn max_rank(&self) -> usize {
        let ranks = self.effects.iter().map(|effect| match effect {
            EffectPlan::LowRank(pair) => pair.full_rank(),
            EffectPlan::Bottleneck(bottleneck) => bottleneck.width,
            _ => 0,
        });
        ranks.max().unwrap_or(0)
    }

    pub(super) fn tensor_bytes(&self) -> u64 {
        self.effects.iter().map(EffectPlan::bytes).sum()
    }
}

impl EffectPlan<'_> {
    /// Where among the effects it comes.
    fn place(&self) -> (u8, Option<Site>, Option<NormSite>) {
        match self {
            Self::LowRank(pair) => (0, Some(pair.site), None),
            Self::Bias {
                site,
                kind: BiasKind::Replaces,
                ..
            } => (1, Some(*site), None),
            Self::Bias { site, .. } => (2, Some(*site), None),
            Self::Matrix { site, .. } | Self::Head { site, .. } => (3, Some(*site), None),
            Self::Norm { site, .. } => (4, None, Some(*site)),
            // In their order already.
            Self::Bottleneck(_) => (5, None, None),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::LowRank(pair) => {
                let initial = pair.initial.iter().flatten();
                let pieces = [&pair.a, &pair.b].into_iter().chain(&pair.magnitude).chain(initial);
                pieces.map(Piece::bytes).sum()
            }
            Self::Bias { values, .. } | Self::Matrix { values, .. } | Self::Head { values, .. } => values.bytes(),
            Self::Bottleneck(bottleneck) => bottleneck.tensors.iter().map(Piece::bytes).sum(),
            Self::Norm { weight, bias, .. } => weight.iter().chain(bias).map(Piece::bytes).sum(),
        }
    }
}

impl PairPlan<'_> {
    /// The rank with the initial pair.
    pub(super) fn full_rank(&self) -> usize {
        self.rank * if self.initial.is_some() { 2 } else { 1 }
    }
}

/// The pairs on the sites of a map: A is shared, B and the magnitude are cut.
fn pairs<'a>(
    map: &Map,
    scale: f32,
    a: &Piece<'a>,
    b: &Piece<'a>,
    magnitude: Option<Tensor<'a>>,
) -> Vec<EffectPlan<'a>> {
    let parts = map.parts.iter().map(|part| {
        let b = Piece {
            rows: part.outputs.clone(),
            ..b.clone()
        };
        EffectPlan::LowRank(PairPlan {
            site: part.site,
            rank: a.rows.len(),
            scale,
            a: a.clone(),
            b,
            magnitude: magnitude.map(|tensor| tensor.piece(part.outputs.clone())),
            initial: None,
        })
    });
    parts.collect()
}

fn check_rank(module: &str, rank: usize, limits: AdapterLimits, source: &str) -> Result<(), AdapterError> {
    let most = limits.max_rank;
    if rank <= most {
        return Ok(());
    }
    let message = format!("{source}: rank of {module}: expected at most {most}, got {rank}");
    Err(AdapterError::new(Code::RankTooLarge, message))
}

fn check_scale(module: &str, scale: f32, source: &str) -> Result<(), AdapterError> {
    if scale.is_finite() {
        return Ok(());
    }
    let message = format!("{source}: scale of {module}: expected a finite f32, got {scale}");
    Err(AdapterError::new(Code::NotFinite, message))
}

fn unmapped(name: &str, info: &TensorInfo, expected: &str) -> AdapterError {
    let message = format!(
        "{WEIGHTS}: tensor {}: expected {expected}, got another name of shape {:?}",
        clipped(name),
        info.shape
    );
    AdapterError::new(Code::UnmappedTensor, message)
}

/// The first module's path, as an example of what names look like.
fn example(modules: &super::modules::Modules) -> &str {
    let first = modules
        .maps()
        .find(|(_, map)| map.kind == rootstock_formats::peft::ModuleKind::Linear);
    first.map_or("none", |(path, _)| path)
}
