//! Tensors to be written: which roles lie in each, by the same names that they are read by.

use super::Refusal;
use super::roles::{NameTable, Place, Role};
use crate::{ArchSpec, RowOrder};

/// A tensor as a container keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// As the container has it, outermost first.
    pub shape: Vec<usize>,
    /// What lies in it, first rows first, and the order of each one's rows.
    pub parts: Vec<(Role, RowOrder)>,
    /// Rows (of a vector elements) of each part.
    part_rows: Vec<usize>,
    /// It is kept `[inputs, outputs]`.
    pub transposed: bool,
    /// Subtracted from every element.
    pub offset: f32,
}

impl StoredTensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows of a part; of a vector elements.
    ///
    /// # Panics
    /// On a part that the tensor does not have.
    pub fn part_rows(&self, part: usize) -> usize {
        self.part_rows[part]
    }

    /// Whether it has rows.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }
}

/// The tensors of an architecture, where `names` says that they are read from.
pub(super) fn stored(names: &dyn NameTable, spec: &ArchSpec) -> Result<Vec<StoredTensor>, Refusal> {
    let mut all: Vec<StoredTensor> = Vec::new();
    for role in Role::all(spec) {
        let Place::Tensor(at) = names.place(role) else {
            return Err(Refusal::unsupported(format_args!("{role}: has no tensor of its own")));
        };
        // Roles come in the order in which their rows lie in a tensor that they share.
        if let Some(known) = all.iter_mut().find(|known| known.name == at.name) {
            known.parts.push((role, at.order));
            known.part_rows.extend(role.shape(spec).first());
            continue;
        }
        let mut shape = role.shape(spec);
        let part_rows = Vec::from_iter(shape.first().copied());
        if let (Some(part), Some(rows)) = (&at.part, shape.first_mut()) {
            *rows = part.of;
        }
        if at.transposed {
            shape.reverse();
        }
        all.push(StoredTensor {
            name: at.name,
            shape,
            parts: vec![(role, at.order)],
            part_rows,
            transposed: at.transposed,
            offset: at.offset,
        });
    }
    Ok(all)
}
