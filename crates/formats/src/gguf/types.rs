//! ggml's tensor types by their code in a file: those that are read, and the names of the others.

use crate::{DType, FormatError};

/// The type that `code` stands for, as tensor `name` has it.
///
/// # Errors
/// [`FormatError::Unsupported`] with ggml's name of a type that is not read.
pub(super) fn dtype(code: u32, name: &str) -> Result<DType, FormatError> {
    if let Some((_, dtype)) = READ.iter().find(|(known, _)| *known == code) {
        return Ok(*dtype);
    }
    let known = NOT_READ.iter().find(|(known, _)| *known == code);
    Err(FormatError::unsupported(
        format_args!("tensor {name}"),
        known.map_or_else(|| format!("type {code}"), |(_, name)| format!("type {name}")),
        SUPPORTED,
    ))
}

/// The code of a type, for a file that tensor `name` is written to.
///
/// # Errors
/// [`FormatError::Unsupported`] for a type that GGUF does not have.
pub(super) fn code(dtype: DType, name: &str) -> Result<u32, FormatError> {
    let known = READ.iter().find(|(_, known)| *known == dtype);
    known.map(|(code, _)| *code).ok_or_else(|| {
        let what = format_args!("tensor {name}");
        FormatError::unsupported(what, format_args!("{dtype:?} in a GGUF file"), "a type of GGUF's own")
    })
}

/// Types whose tensors are read.
pub fn tensor_types() -> impl Iterator<Item = DType> {
    READ.iter().map(|&(_, dtype)| dtype)
}

/// ggml's names of the types whose tensors are refused.
pub fn refused_tensor_types() -> impl Iterator<Item = &'static str> {
    NOT_READ.iter().map(|&(_, name)| name)
}

/// For messages.
const SUPPORTED: &str =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K; convert the file with llama-quantize";

const READ: [(u32, DType); 16] = [
    (0, DType::F32),
    (1, DType::F16),
    (2, DType::Q4_0),
    (3, DType::Q4_1),
    (6, DType::Q5_0),
    (7, DType::Q5_1),
    (8, DType::Q8_0),
    (10, DType::Q2_K),
    (11, DType::Q3_K),
    (12, DType::Q4_K),
    (13, DType::Q5_K),
    (14, DType::Q6_K),
    (24, DType::I8),
    (26, DType::I32),
    (27, DType::I64),
    (30, DType::BF16),
];

const NOT_READ: [(u32, &str); 27] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (25, "I16"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];
