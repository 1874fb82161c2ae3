//! The product with weights that are not quantized.

use std::ops::Range;

use super::Operands;
use crate::isa::Isa;

/// The product of the rows with the column pairs `pairs`.
pub(super) fn product(_isa: Isa, _operands: &Operands<'_>, _pairs: Range<usize>) {
    unreachable!("dense matrices are not packed")
}
