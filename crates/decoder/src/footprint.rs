//! What a step takes in memory, from shapes alone: the same walk through the decoder as the step's, over operations that only
//! say how wide their values are. It follows what [`crate::tape`] keeps and what it returns.

use rootstock_kernels::Arithmetic;
use rootstock_model::adapter::BottleneckInput;
use rootstock_model::{Activation, ArchSpec, BlockSite, NormSite, Site};

use crate::graph::{Graph, layer};
use crate::step::logits_rows;
use crate::{Parameters, StepSettings, Trained};

/// Bytes of an element.
const F32: usize = size_of::<f32>();
const BF16: usize = size_of::<u16>();

/// Bytes that a step takes beside the model and what is trained, at most at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Values that wait for the way back.
    pub activations: usize,
    /// Gradients of values, and operands that are rounded for a product.
    pub gradients: usize,
    /// Logits.
    pub logits: usize,
}

impl Footprint {
    /// All of it.
    pub fn bytes(&self) -> usize {
        self.activations + self.gradients + self.logits
    }
}

/// The shapes of a model and of what is trained on it, by which the footprint of every step is known.
#[derive(Debug, Clone)]
pub struct StepShapes {
    settings: StepSettings,
    hidden: usize,
    vocabulary: usize,
    /// Elements per token that each layer keeps.
    layers: Vec<Kept>,
    /// Elements per token of the widest value.
    widest: usize,
    /// Elements per token of the gradients that enter and leave an operation, at most.
    gradients: usize,
}

impl StepShapes {
    /// Walks through the model.
    pub fn new(spec: &ArchSpec, trained: &Trained, parameters: &Parameters, settings: StepSettings) -> Self {
        let mut walk = Walk {
            spec,
            trained,
            parameters,
            values: Vec::new(),
            kept: Kept::default(),
            widest: 0,
            gradients: 0,
        };
        let mut x = walk.embed();
        let mut layers = Vec::new();
        for index in 0..spec.layers.len() {
            walk.kept = Kept::default();
            x = layer(&mut walk, spec, index, x);
            // Below the first trained layer only what a layer gives is kept.
            let only_result = Kept {
                firm: spec.hidden_size,
                cheap: 0,
            };
            layers.push(if walk.values[x].needs { walk.kept } else { only_result });
        }
        Self {
            settings,
            hidden: spec.hidden_size,
            vocabulary: spec.vocab_size,
            layers,
            widest: walk.widest,
            gradients: walk.gradients,
        }
    }

    /// Of a step over so many tokens, of which so many are learned.
    pub fn footprint(&self, tokens: usize, targets: usize) -> Footprint {
        let firm = || self.layers.iter().map(|kept| kept.firm);
        let at_work = self.most(|kept| kept.firm + kept.cheap);
        // What is put away is rounded, beside the layer at work that is not.
        let kept = match (self.settings.checkpointing, self.settings.arithmetic) {
            (true, Arithmetic::F32) => self.passing(),
            (true, Arithmetic::Bf16) => self.passing() + self.most(|kept| kept.firm) * BF16,
            (false, Arithmetic::F32) => (firm().sum::<usize>() + self.most(|kept| kept.cheap)) * F32,
            (false, Arithmetic::Bf16) => firm().sum::<usize>() * BF16 + at_work * F32,
        };
        // Beside those of an operation, those of the residual stream.
        self.bytes([tokens, targets], kept, self.gradients + 2 * self.hidden)
    }

    /// Of the losses alone, without a way back.
    pub fn evaluation(&self, tokens: usize, targets: usize) -> Footprint {
        self.bytes([tokens, targets], self.passing(), 0)
    }

    /// Bytes per token where only what enters each layer is kept, and one layer stands at a time.
    fn passing(&self) -> usize {
        (self.layers.len() * self.hidden + self.most(|kept| kept.firm + kept.cheap)) * F32
    }

    fn most(&self, of: impl Fn(&Kept) -> usize) -> usize {
        self.layers.iter().map(of).max().unwrap_or(0)
    }

    /// `kept` is in bytes per token, `gradients` in elements.
    fn bytes(&self, [tokens, targets]: [usize; 2], kept: usize, gradients: usize) -> Footprint {
        let logits = targets.min(logits_rows(self.vocabulary)) * self.vocabulary;
        // The last layer's rows normalised, those of them that are learned, and the gradients of both.
        let ends = 4 * self.hidden;
        let rounded = match self.settings.arithmetic {
            Arithmetic::F32 => 0,
            Arithmetic::Bf16 => (tokens * self.widest).max(logits) * BF16,
        };
        Footprint {
            activations: tokens * (kept + ends * F32),
            gradients: tokens * gradients * F32 + rounded,
            logits: logits * F32,
        }
    }
}

/// Elements per token that a layer keeps for the way back.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    firm: usize,
    /// Of norms and activations: made again, a layer at a time.
    cheap: usize,
}

#[derive(Debug, Clone, Copy)]
struct Width {
    elements: usize,
    needs: bool,
    cheap: bool,
}

struct Walk<'a> {
    spec: &'a ArchSpec,
    trained: &'a Trained,
    parameters: &'a Parameters,
    values: Vec<Width>,
    kept: Kept,
    widest: usize,
    gradients: usize,
}

impl Walk<'_> {
    fn push(&mut self, elements: usize, needs: bool) -> usize {
        self.kept.firm += elements;
        self.widest = self.widest.max(elements);
        self.values.push(Width {
            elements,
            needs,
            cheap: false,
        });
        self.values.len() - 1
    }

    /// A value of the shape of `x` that is made again on the way back.
    fn push_cheap(&mut self, x: usize, needs: bool) -> usize {
        let elements = self.values[x].elements;
        let value = self.push(elements, needs);
        if needs {
            self.values[value].cheap = true;
            self.kept.firm -= elements;
            self.kept.cheap += elements;
        }
        value
    }

    /// The elements of `x` become those of another value, which is kept.
    fn consume(&mut self, x: usize) -> usize {
        let value = &mut self.values[x];
        if std::mem::take(&mut value.cheap) {
            self.kept.cheap -= value.elements;
            self.kept.firm += value.elements;
        }
        x
    }

    /// Gradients as wide as these values stand at a time.
    fn goes_back(&mut self, values: &[usize]) {
        let elements = values.iter().map(|&value| self.values[value].elements);
        self.gradients = self.gradients.max(elements.sum());
    }

    fn needs(&self, values: &[usize]) -> bool {
        values.iter().any(|&value| self.values[value].needs)
    }
}

impl Graph for Walk<'_> {
    type Value = usize;

    fn embed(&mut self) -> usize {
        let needs = self.trained.weight(Site::Embedding).is_some() || self.trained.positions.is_some();
        self.push(self.spec.hidden_size, needs)
    }

    fn norm(&mut self, x: usize, site: NormSite) -> usize {
        let needs = self.needs(&[x]) || self.trained.norms.contains_key(&site);
        self.push_cheap(x, needs)
    }

    fn map(&mut self, x: usize, site: Site) -> usize {
        let outputs = self.spec.shape(site).map_or(0, |(_, outputs)| outputs);
        let training = self.trained.sites.get(&site);
        if let Some(training) = training {
            // What A made of the rows, and the rows before a magnitude.
            self.kept.firm += training
                .pair
                .as_ref()
                .map_or(0, |pair| self.parameters.get(pair.a).shape[0]);
            self.kept.firm += training.magnitude.as_ref().map_or(0, |_| outputs);
        }
        let needs = self.needs(&[x]) || training.is_some();
        self.push(outputs, needs)
    }

    fn rotate(&mut self, x: usize, _: usize) -> usize {
        self.consume(x)
    }

    fn attend(&mut self, queries: usize, keys: usize, values: usize, _: usize) -> usize {
        let needs = self.needs(&[queries, keys, values]);
        self.goes_back(&[queries, queries, keys, values]);
        self.push(self.values[queries].elements, needs)
    }

    fn gate(&mut self, _: Activation, gate: usize, up: usize) -> usize {
        let needs = self.needs(&[gate, up]);
        self.goes_back(&[gate, gate, up]);
        self.push_cheap(gate, needs)
    }

    fn activate(&mut self, _: Activation, x: usize) -> usize {
        let needs = self.needs(&[x]);
        self.goes_back(&[x, x]);
        self.push_cheap(x, needs)
    }

    fn bottleneck(&mut self, x: usize, site: BlockSite, input: BottleneckInput) -> usize {
        let training = self
            .trained
            .bottlenecks
            .get(&site)
            .filter(|training| training.input == input);
        let Some(training) = training else { return x };
        // What lies between its maps.
        self.kept.firm += self.parameters.get(training.down).shape[0];
        self.goes_back(&[x, x]);
        self.push(self.values[x].elements, true)
    }

    fn add(&mut self, residual: usize, x: usize) -> usize {
        // The sum takes the place of `x`.
        self.values[x].needs |= self.values[residual].needs;
        self.consume(x)
    }
}
