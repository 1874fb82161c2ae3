//! SentencePiece's table of normalised characters: a double-array trie over the bytes of what is replaced, and the
//! replacements as texts that end with NUL. The crate that reads it trusts it, so it is checked here first.

/// Units whose highest bit is set are values, not nodes.
const VALUE: u32 = 1 << 31;
/// Children of a node differ in their lowest byte.
const LAST_CHILD: usize = 0xFF;

/// Refuses a table that a text could lead out of.
pub(super) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let (head, rest) = bytes.split_first_chunk().ok_or("is too short")?;
    let size = u32::from_le_bytes(*head) as usize;
    let (trie, replacements) = rest.split_at_checked(size).ok_or("is shorter than its trie")?;
    let replacements = std::str::from_utf8(replacements).map_err(|_| "replaces characters by what is not text")?;
    let units: Vec<u32> = trie
        .as_chunks()
        .0
        .iter()
        .map(|unit| u32::from_le_bytes(*unit))
        .collect();
    if units.is_empty() || !(0..units.len()).all(|at| stays_within(&units, at, replacements)) {
        return Err("has a trie that leads out of itself");
    }
    Ok(())
}

/// The bytes that `text` spells in base 64 (RFC 4648, with padding).
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [None; 256];
    for (&digit, value) in DIGITS.iter().zip(0u32..) {
        values[usize::from(digit)] = Some(value);
    }
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut bits = 0;
        for &digit in chunk {
            bits = bits << 6 | values[usize::from(digit)]?;
        }
        let spelled = chunk.len() * 6 / 8;
        bytes.extend_from_slice(&(bits << (32 - 6 * chunk.len())).to_be_bytes()[..spelled]);
    }
    Some(bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of 256 units whose root is `root`, with these replacements.
    fn table(root: u32, replacements: &str) -> Vec<u8> {
        let mut bytes = 1024u32.to_le_bytes().to_vec();
        bytes.extend(root.to_le_bytes());
        bytes.extend([0; 1020]);
        bytes.extend(replacements.as_bytes());
        bytes
    }

    #[test]
    fn only_tables_that_stay_within_themselves_are_taken() {
        assert_eq!(check(&table(1 << 10, "ab\0")), Ok(()));
        assert!(check(&[1, 2]).is_err());
        assert!(check(&table(0, "")[..512]).unwrap_err().contains("shorter"));
        assert!(check(&table(256 << 10, "")).unwrap_err().contains("leads out"));
        let replaced = |by| check(&table(1 << 10 | 1 << 8, by));
        assert_eq!(replaced("é\0"), Ok(()));
        let mut inside = table(1 << 10 | 1 << 8, "é\0");
        inside[8] = 1;
        assert!(check(&inside).is_err(), "a replacement that begins within a character");
    }

    #[test]
    fn base_64_is_read_to_the_last_byte() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
        ] {
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(from_base64("Zm9v!"), None);
    }
}
