//! Expected against predicted labels: accuracy and F1, as scikit-learn computes them.

/// Counts of predictions by label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    labels: usize,
    /// `[labels, labels]`, a row per expected label.
    counts: Vec<u64>,
}

impl Confusion {
    /// Nothing yet, over labels `0..labels`.
    pub fn new(labels: usize) -> Self {
        Self {
            labels,
            counts: vec![0; labels * labels],
        }
    }

    /// One prediction.
    ///
    /// # Panics
    /// A label is not below the number of labels.
    pub fn add(&mut self, expected: usize, predicted: usize) {
        assert!(
            expected < self.labels && predicted < self.labels,
            "a label out of range"
        );
        self.counts[expected * self.labels + predicted] += 1;
    }

    /// Share of predictions that are right; `None` without predictions.
    pub fn accuracy(&self) -> Option<f64> {
        let all: u64 = self.counts.iter().sum();
        let right: u64 = (0..self.labels).map(|label| self.right(label)).sum();
        (all > 0).then(|| right as f64 / all as f64)
    }

    /// F1 over all predictions together. With one label per example every wrong prediction is missed once and given
    /// once too many, so it is the accuracy.
    pub fn micro_f1(&self) -> Option<f64> {
        self.accuracy()
    }

    /// Mean F1 of the labels that were expected or predicted, each counted alike; `None` without predictions.
    pub fn macro_f1(&self) -> Option<f64> {
        let scores: Vec<f64> = (0..self.labels).filter_map(|label| self.f1(label)).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// F1 of one label: the harmonic mean of precision and recall. `None` where it was neither expected nor predicted.
    pub fn f1(&self, label: usize) -> Option<f64> {
        let expected: u64 = (0..self.labels).map(|other| self.count(label, other)).sum();
        let predicted: u64 = (0..self.labels).map(|other| self.count(other, label)).sum();
        let all = expected + predicted;
        (all > 0).then(|| 2.0 * self.right(label) as f64 / all as f64)
    }

    fn right(&self, label: usize) -> u64 {
        self.count(label, label)
    }

    fn count(&self, expected: usize, predicted: usize) -> u64 {
        self.counts[expected * self.labels + predicted]
    }
}
