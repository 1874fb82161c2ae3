//! Tensors that are trained, with their gradients.

use std::ops::Range;

use crate::Rows;

/// Index of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(usize);

/// What a parameter is, by which optimizers tell groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// A of a low-rank pair, `[rank, inputs]`.
    LowRankA,
    /// B of a low-rank pair, `[outputs, rank]`.
    LowRankB,
    /// DoRA's magnitude, `[outputs]`.
    Magnitude,
    /// A matrix, `[outputs, inputs]`.
    Weight,
    /// A bias.
    Bias,
    /// Factors or biases of a normalisation.
    Norm,
}

/// A trained tensor in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Unique; what files and reports call it.
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: ParameterKind,
    /// Elements, row by row.
    pub values: Vec<f32>,
    /// Sum of gradients since it was last cleared; as long as `values`.
    pub gradient: Vec<f32>,
    /// For A and B of a pair of which only the difference from its beginning takes effect: the values that it began with.
    pub initial: Option<Vec<f32>>,
}

impl Parameter {
    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.shape[1..].iter().product()
    }

    fn elements_of(&self, rows: &Rows) -> Range<usize> {
        rows.rows.start * self.width()..rows.rows.end * self.width()
    }
}

/// All trained tensors.
#[derive(Debug, Clone, Default)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// Adds a tensor with these values.
    ///
    /// # Panics
    /// If they do not fill the shape.
    pub fn add(&mut self, name: String, kind: ParameterKind, shape: Vec<usize>, values: Vec<f32>) -> ParameterId {
        assert_eq!(
            shape.iter().product::<usize>(),
            values.len(),
            "{name}: elements of {shape:?}"
        );
        self.0.push(Parameter {
            name,
            shape,
            kind,
            gradient: vec![0.0; values.len()],
            values,
            initial: None,
        });
        ParameterId(self.0.len() - 1)
    }

    /// One tensor.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.0[id.0]
    }

    /// One tensor, to be changed.
    pub fn get_mut(&mut self, id: ParameterId) -> &mut Parameter {
        &mut self.0[id.0]
    }

    /// Some rows of a tensor.
    pub fn rows(&self, rows: &Rows) -> &[f32] {
        let parameter = self.get(rows.id);
        &parameter.values[parameter.elements_of(rows)]
    }

    /// The values that some rows of a tensor began with, where they are subtracted.
    pub fn initial_rows(&self, rows: &Rows) -> Option<&[f32]> {
        let parameter = self.get(rows.id);
        Some(&parameter.initial.as_ref()?[parameter.elements_of(rows)])
    }

    /// The gradient of some rows of a tensor.
    pub fn gradient_of(&mut self, rows: &Rows) -> &mut [f32] {
        let parameter = self.get_mut(rows.id);
        let elements = parameter.elements_of(rows);
        &mut parameter.gradient[elements]
    }

    /// All of them in the order they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.0.iter()
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Parameter> {
        self.0.iter_mut()
    }

    /// Number of trained elements.
    pub fn elements(&self) -> usize {
        self.0.iter().map(|parameter| parameter.values.len()).sum()
    }

    /// Sets all gradients to zero.
    pub fn clear_gradients(&mut self) {
        for parameter in &mut self.0 {
            parameter.gradient.fill(0.0);
        }
    }
}
