//! Tensors that are trained, with their gradients.

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
