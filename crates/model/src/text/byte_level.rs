//! The byte-level alphabet of GPT-2 vocabularies: every byte is spelled as one printable character.

use std::collections::HashMap;

/// Undoes the spelling of tokens in the byte-level alphabet.
pub(super) struct ByteAlphabet {
    bytes: HashMap<char, u8>,
}

impl ByteAlphabet {
    /// The 256 characters: printable Latin-1 stands for itself, the other bytes follow from U+0100 on, in order.
    pub(super) fn new() -> Self {
        let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let moved = (0..=u8::MAX).filter(|&byte| !printable(byte)).zip('\u{100}'..);
        let kept = (0..=u8::MAX)
            .filter(|&byte| printable(byte))
            .map(|byte| (byte, char::from(byte)));
        Self {
            bytes: kept.chain(moved).map(|(byte, letter)| (letter, byte)).collect(),
        }
    }

    /// Bytes of a token; `None` if it has a character outside the alphabet.
    pub(super) fn bytes_of(&self, token: &str) -> Option<Vec<u8>> {
        token.chars().map(|letter| self.bytes.get(&letter).copied()).collect()
    }

    /// Every character of the alphabet with its byte.
    #[cfg(test)]
    pub(super) fn letters(&self) -> Vec<(u8, char)> {
        let mut letters: Vec<_> = self.bytes.iter().map(|(&letter, &byte)| (byte, letter)).collect();
        letters.sort_unstable();
        letters
    }
}
