//! SentencePiece's table of normalised characters: a double-array trie over the bytes of what is replaced, and the
//! replacements as texts that end with NUL. The crate that reads it trusts it, so it is checked here first.

use tokenizers::normalizers::Precompiled;

/// Units whose highest bit is set are values, not nodes.
const VALUE: u32 = 1 << 31;
/// Children of a node differ in their lowest byte.
const LAST_CHILD: usize = 0xFF;

/// The table in `bytes`, if no text can lead out of it.
pub(super) fn read(bytes: &[u8]) -> Result<Precompiled, &'static str> {
    let (head, rest) = bytes.split_first_chunk().ok_or("is too short")?;
    let size = u32::from_le_bytes(*head) as usize;
    let (trie, replacements) = rest.split_at_checked(size).ok_or("is shorter than its trie")?;
    let units: Vec<u32> = trie
        .as_chunks()
        .0
        .iter()
        .map(|unit| u32::from_le_bytes(*unit))
        .collect();
    let replacements = std::str::from_utf8(replacements).map_err(|_| "replaces characters by what is not text")?;
    if units.is_empty() || !(0..units.len()).all(|at| stays_within(&units, at, replacements)) {
        return Err("has a trie that leads out of itself");
    }
    Precompiled::from(bytes).map_err(|_| "cannot be read")
}

/// Whether the children and the replacement of the node at `at` exist.
fn stays_within(units: &[u32], at: usize, replacements: &str) -> bool {
    let unit = units[at];
    if unit & VALUE != 0 && at > 0 {
        return true;
    }
    let offset = ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6);
    let base = at ^ offset;
    if base | LAST_CHILD >= units.len() {
        return false;
    }
    let has_replacement = (unit >> 8) & 1 == 1;
    !has_replacement || replacements.is_char_boundary((units[base] & !VALUE) as usize)
}
