//! Packing: several samples in one row, so that little of it is padding. Each sample of a row attends to itself alone and counts
//! positions from 0, so it is learned as if it stood alone; a row is therefore a list of samples, which the trainer runs.
//!
//! ```text
//! row        | sample 0        | sample 1  | sample 2 |
//! positions  | 0 1 2 3 4 5 6 7 | 0 1 2 3 4 | 0 1 2    |
//! attention    block-diagonal: causal within a sample, nothing across
//! ```
//!
//! What lies in which row depends on the samples and the length alone; a run shuffles rows by its seed.

use std::collections::BTreeSet;
use std::ops::Range;

use rootstock_model::text::TokenId;

use super::Sample;
use crate::TrainError;

/// Samples side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedRow {
    /// The samples.
    pub samples: Vec<Sample>,
}

impl PackedRow {
    /// Tokens.
    pub fn len(&self) -> usize {
        self.samples.iter().map(Sample::len).sum()
    }

    /// Whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of all samples.
    pub fn ids(&self) -> Vec<TokenId> {
        self.samples
            .iter()
            .flat_map(|sample| sample.ids.iter().copied())
            .collect()
    }

    /// Whether the loss counts each token.
    pub fn learned(&self) -> Vec<bool> {
        let marks = self.samples.iter().flat_map(|sample| sample.learned.iter().copied());
        marks.collect()
    }

    /// Position of each token in its sample.
    pub fn positions(&self) -> Vec<u32> {
        self.samples.iter().flat_map(|sample| 0..sample.len() as u32).collect()
    }

    /// The tokens of each sample: the blocks of the attention mask.
    pub fn blocks(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let block = |sample: &Sample| {
            let block = start..start + sample.len();
            start = block.end;
            block
        };
        self.samples.iter().map(block).collect()
    }
}

/// Puts whole samples into rows of at most `max_length` tokens, the longest first, each where the least room is left (best fit
/// decreasing). Samples of a row keep their order, and rows are in the order of their first samples.
///
/// # Errors
/// A sample longer than a row, by its index.
pub fn pack(samples: Vec<Sample>, max_length: usize) -> Result<Vec<PackedRow>, TrainError> {
    if let Some(index) = samples.iter().position(|sample| sample.len() > max_length) {
        let length = samples[index].len();
        return Err(TrainError::Encode(format!(
            "sample {index}: expected at most {max_length} tokens to pack, got {length}"
        )));
    }
    let mut longest_first: Vec<usize> = (0..samples.len()).collect();
    longest_first.sort_by_key(|&index| std::cmp::Reverse(samples[index].len()));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // What is left of each row, with its number.
    let mut rooms = BTreeSet::new();
    for index in longest_first {
        let length = samples[index].len();
        let (room, row) = rooms
            .range((length, 0)..)
            .next()
            .copied()
            .unwrap_or((max_length, rows.len()));
        rooms.remove(&(room, row));
        rooms.insert((room - length, row));
        if row == rows.len() {
            rows.push(Vec::new());
        }
        rows[row].push(index);
    }
    rows.iter_mut().for_each(|row| row.sort_unstable());
    rows.sort_unstable_by_key(|row| row[0]);
    let mut samples: Vec<Option<Sample>> = samples.into_iter().map(Some).collect();
    let packed = rows.into_iter().map(|row| PackedRow {
        samples: row.into_iter().filter_map(|index| samples[index].take()).collect(),
    });
    Ok(packed.collect())
}

/// Puts texts one after the other and cuts them into rows of exactly `max_length` tokens (the last one may be shorter), for
/// training on raw text. Nothing is dropped: a text that reaches over rows is a sample in each. The first token in a row is not
/// learned, as nothing of its text is before it.
///
/// # Panics
/// If `max_length` is 0.
pub fn pack_texts(texts: impl IntoIterator<Item = Sample>, max_length: usize) -> Vec<PackedRow> {
    assert!(max_length > 0, "a row holds a token");
    let (mut rows, mut row) = (Vec::new(), PackedRow::default());
    let mut room = max_length;
    for Sample { ids, learned } in texts {
        let mut start = 0;
        while start < ids.len() {
            let part = start..ids.len().min(start + room);
            room -= part.len();
            start = part.end;
            let sample = Sample::new(ids[part.clone()].to_vec(), learned[part].to_vec());
            row.samples.push(sample);
            if room == 0 {
                rows.push(std::mem::take(&mut row));
                room = max_length;
            }
        }
    }
    if !row.is_empty() {
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A sample whose ids are all `id`, everything learned.
    fn sample(id: usize, length: usize) -> Sample {
        Sample::new(vec![id as u32; length], vec![true; length])
    }

    fn samples(lengths: &[usize]) -> Vec<Sample> {
        let sample = |(id, &length)| sample(id, length);
        lengths.iter().enumerate().map(sample).collect()
    }

    /// Ids of the samples of each row.
    fn ids(rows: &[PackedRow]) -> Vec<Vec<u32>> {
        let ids = |row: &PackedRow| row.samples.iter().map(|sample| sample.ids[0]).collect();
        rows.iter().map(ids).collect()
    }

    #[test]
    fn the_longest_find_their_place_first_and_order_is_kept() {
        let rows = pack(samples(&[3, 7, 4, 2, 10, 4]), 10).unwrap();
        assert_eq!(ids(&rows), [vec![0, 1], vec![2, 3, 5], vec![4]]);
    }

    #[test]
    fn positions_begin_anew_in_every_block() {
        let rows = pack(samples(&[3, 2]), 5).unwrap();
        assert_eq!(rows[0].ids(), [0, 0, 0, 1, 1]);
        assert_eq!(rows[0].positions(), [0, 1, 2, 0, 1]);
        assert_eq!(rows[0].blocks(), [0..3, 3..5]);
        assert_eq!(rows[0].learned(), [false, true, true, false, true]);
    }

    #[test]
    fn a_sample_longer_than_a_row_is_refused_by_its_number() {
        let error = pack(samples(&[2, 6]), 5).unwrap_err().to_string();
        assert_eq!(error, "sample 1: expected at most 5 tokens to pack, got 6");
    }

    #[test]
    fn texts_fill_rows_and_go_on_in_the_next() {
        let rows = pack_texts(samples(&[3, 0, 6, 2]), 4);
        let lengths = |row: &PackedRow| row.samples.iter().map(|s| (s.ids[0], s.len())).collect::<Vec<_>>();
        let lengths: Vec<_> = rows.iter().map(lengths).collect();
        assert_eq!(lengths, [vec![(0, 3), (2, 1)], vec![(2, 4)], vec![(2, 1), (3, 2)]]);
        assert_eq!(rows[1].learned(), [false, true, true, true]);
    }

    proptest! {
        #[test]
        fn no_sample_is_lost_and_no_row_too_long(lengths in prop::collection::vec(1usize..33, 0..200)) {
            let rows = pack(samples(&lengths), 32).unwrap();
            prop_assert_eq!(&rows, &pack(samples(&lengths), 32).unwrap());
            prop_assert!(rows.iter().all(|row| row.len() <= 32));
            let mut packed = ids(&rows).concat();
            packed.sort_unstable();
            prop_assert!(packed.into_iter().eq(0..lengths.len() as u32));
            // Two rows that are half empty would be one.
            prop_assert!(rows.iter().filter(|row| row.len() <= 16).count() <= 1);
        }

        #[test]
        fn packed_texts_are_the_texts(lengths in prop::collection::vec(0usize..50, 0..40), max_length in 1usize..40) {
            let texts = samples(&lengths);
            let rows = pack_texts(texts.clone(), max_length);
            let whole = |rows: &[PackedRow]| rows.iter().flat_map(PackedRow::ids).collect::<Vec<_>>();
            let expected: Vec<u32> = texts.iter().flat_map(|text| text.ids.clone()).collect();
            prop_assert_eq!(whole(&rows), expected);
            let full = rows.len().saturating_sub(1);
            prop_assert!(rows[..full].iter().all(|row| row.len() == max_length));
        }
    }
}
