//! Sequences of a batch side by side: those of like lengths make a group that attention takes at a time, filled up to the longest.
//!
//! What fills up stands behind a sequence's own rows, which attend to what is before them: they never see it, and its results are
//! never read. Lengths of a group are less than a factor of two apart, which bounds the waste.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Result, Tensor};

/// Sequences of like lengths.
pub struct Group {
    /// Sequences.
    pub count: usize,
    /// Rows of each.
    pub length: usize,
    /// Where each row is taken from, `[count * length]`; `None` for all rows of the batch in their order.
    pub take: Option<Tensor>,
}

/// All sequences of a batch.
pub struct Groups {
    pub groups: Vec<Group>,
    /// For each row of the batch its place in the rows of all groups, one after another; `None` for the same order.
    pub place: Option<Tensor>,
}

impl Groups {
    /// Sorts the sequences that lie at these rows.
    pub fn new(segments: &[Range<usize>], device: &Device) -> Result<Self> {
        let rows: usize = segments.iter().map(ExactSizeIterator::len).sum();
        let mut by_length: BTreeMap<u32, Vec<&Range<usize>>> = BTreeMap::new();
        for segment in segments.iter().filter(|segment| !segment.is_empty()) {
            by_length.entry(segment.len().ilog2()).or_default().push(segment);
        }
        let mut places = vec![0u32; rows];
        let (mut groups, mut start, mut in_order) = (Vec::new(), 0, true);
        for segments in by_length.values() {
            let length = segments.iter().map(|segment| segment.len()).max().unwrap_or(0);
            let mut taken = Vec::with_capacity(segments.len() * length);
            for segment in segments {
                for row in (*segment).clone() {
                    places[row] = (start + taken.len()) as u32;
                    taken.push(row as u32);
                }
                taken.extend(std::iter::repeat_n(segment.start as u32, length - segment.len()));
            }
            start += taken.len();
            in_order &= by_length.len() == 1 && taken.iter().enumerate().all(|(at, &row)| at == row as usize);
            groups.push((segments.len(), length, taken));
        }
        let index = |rows: Vec<u32>| (!in_order).then(|| Tensor::new(rows, device)).transpose();
        let groups = groups.into_iter().map(|(count, length, taken)| {
            let take = index(taken)?;
            Ok(Group { count, length, take })
        });
        Ok(Self {
            groups: groups.collect::<Result<_>>()?,
            place: index(places)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(tensor: Option<&Tensor>) -> Option<Vec<u32>> {
        tensor.map(|tensor| tensor.to_vec1().unwrap())
    }

    #[test]
    fn sequences_of_one_length_stay_where_they_are() {
        let groups = Groups::new(&[0..3, 3..6], &Device::Cpu).unwrap();
        let [group] = groups.groups.as_slice() else { panic!() };
        assert_eq!((group.count, group.length), (2, 3));
        assert!(group.take.is_none() && groups.place.is_none());
    }

    #[test]
    fn every_row_has_a_place_of_its_own_and_is_found_there() {
        let segments = [0..5, 5..6, 6..10, 10..10, 10..17];
        let groups = Groups::new(&segments, &Device::Cpu).unwrap();
        let shapes: Vec<_> = groups.groups.iter().map(|group| (group.count, group.length)).collect();
        assert_eq!(shapes, [(1, 1), (3, 7)]);
        let taken: Vec<u32> = groups
            .groups
            .iter()
            .flat_map(|group| rows(group.take.as_ref()).unwrap())
            .collect();
        let places = rows(groups.place.as_ref()).unwrap();
        let found: Vec<u32> = places.iter().map(|&place| taken[place as usize]).collect();
        assert_eq!(found, (0..17).collect::<Vec<_>>());
    }
}
