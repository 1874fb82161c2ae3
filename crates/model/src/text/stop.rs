//! Finding stop strings in text that arrives piece by piece (Knuth, Morris & Pratt, 1977).

/// One stop string and how much of it the text so far ends with.
pub(super) struct StopMatcher {
    pattern: Box<[u8]>,
    /// For each prefix length - 1: the longest proper prefix that is also its suffix.
    borders: Box<[usize]>,
    matched: usize,
}

impl StopMatcher {
    /// A matcher for `pattern`; `None` if it is empty.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let pattern = Some(pattern.as_bytes()).filter(|bytes| !bytes.is_empty())?;
        let mut borders = vec![0; pattern.len()];
        for end in 1..pattern.len() {
            borders[end] = extend(pattern, &borders, borders[end - 1], pattern[end]);
        }
        Some(Self {
            pattern: pattern.into(),
            borders: borders.into(),
            matched: 0,
        })
    }

    /// Takes the next byte of the text; whether it completes the stop string.
    /// After a completion the matcher is not used again.
    pub(super) fn advance(&mut self, byte: u8) -> bool {
        self.matched = extend(&self.pattern, &self.borders, self.matched, byte);
        self.matched == self.pattern.len()
    }

    /// Bytes at the end of the text that the stop string begins with.
    pub(super) fn matched(&self) -> usize {
        self.matched
    }
}

/// Length of the longest prefix of `pattern` that ends with `byte`, after one of length `matched < pattern.len()`.
fn extend(pattern: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && pattern[matched] != byte {
        matched = borders[matched - 1];
    }
    matched + usize::from(pattern[matched] == byte)
}
