//! Porter's stemmer ("An algorithm for suffix stripping", 1980) with the changes that NLTK makes to it by default, which is what
//! rouge-score stems with: words that keep or get a stem by name, `ies` and `ied` of short words, `y` behind any consonant, `bli` for
//! `abli`, `alli` twice, `fulli` and `logi`, and consonant-vowel-consonant of two letters.

/// Words with a stem of their own.
const IRREGULAR: [(&str, &str); 14] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("outings", "outing"),
    ("cannings", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
    ("inning", "inning"),
];

/// A suffix and what takes its place.
type Rule = (&'static str, &'static str);

const PLURALS: [Rule; 4] = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];

/// Of step 2, where something with a vowel and a consonant is before them.
const DOUBLE_SUFFIXES: [Rule; 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

/// Of step 3.
const SUFFIXES: [Rule; 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Of step 4, which go where enough is before them.
const ENDINGS: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a word in lower case; of ASCII letters and digits, as rouge-score's tokens are.
pub(super) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let steps = [
        plurals,
        past_and_progressive,
        final_y,
        double_suffixes,
        suffixes,
        endings,
        final_e,
        final_l,
    ];
    steps.iter().fold(word.to_owned(), |word, step| step(word))
}

/// Which letters are consonants: all but vowels, and y where no consonant is before it.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        let is_consonant = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !flags.last().copied().unwrap_or(false),
            _ => true,
        };
        flags.push(is_consonant);
    }
    flags
}

/// How often a consonant follows a vowel: Porter's m.
fn measure(stem: &str) -> usize {
    let pairs = consonants(stem);
    pairs.windows(2).filter(|pair| matches!(pair, [false, true])).count()
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).contains(&false)
}

fn ends_in_consonant(stem: &str) -> bool {
    consonants(stem).last() == Some(&true)
}

fn ends_in_double_consonant(word: &str) -> bool {
    matches!(word.as_bytes(), [.., a, b] if a == b) && ends_in_consonant(word)
}

/// Consonant, vowel, consonant other than w, x and y; of two letters, vowel and consonant.
fn ends_short(word: &str) -> bool {
    match consonants(word)[..] {
        [false, true] => true,
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

/// The first rule whose suffix the word has, where its stem fits; no other is tried.
fn replace(word: String, rules: &[Rule], fits: impl Fn(&str) -> bool) -> String {
    for (suffix, replacement) in rules {
        if let Some(stem) = word.strip_suffix(suffix) {
            return if fits(stem) {
                format!("{stem}{replacement}")
            } else {
                word
            };
        }
    }
    word
}

/// Step 1a.
fn plurals(word: String) -> String {
    match word.strip_suffix("ies") {
        Some(stem) if word.len() == 4 => format!("{stem}ie"),
        _ => replace(word, &PLURALS, |_| true),
    }
}

/// Step 1b.
fn past_and_progressive(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if word.ends_with("eed") {
        return replace(word, &[("eed", "ee")], |stem| measure(stem) > 0);
    }
    let stems = ["ed", "ing"].iter().filter_map(|suffix| word.strip_suffix(suffix));
    let Some(stem) = stems.into_iter().find(|stem| has_vowel(stem)) else {
        return word;
    };
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return format!("{stem}e");
    }
    if ends_in_double_consonant(stem) {
        let keeps = stem.ends_with(['l', 's', 'z']);
        return stem[..stem.len() - usize::from(!keeps)].to_owned();
    }
    let e = if measure(stem) == 1 && ends_short(stem) {
        "e"
    } else {
        ""
    };
    format!("{stem}{e}")
}

/// Step 1c.
fn final_y(word: String) -> String {
    replace(word, &[("y", "i")], |stem| stem.len() > 1 && ends_in_consonant(stem))
}

/// Step 2.
fn double_suffixes(word: String) -> String {
    match word.strip_suffix("alli") {
        Some(stem) if measure(stem) > 0 => return double_suffixes(format!("{stem}al")),
        _ => {}
    }
    if let Some(stem) = word.strip_suffix("logi") {
        // The l counts as part of what is before.
        let fits = measure(&word[..word.len() - 3]) > 0;
        return if fits { format!("{stem}log") } else { word };
    }
    replace(word, &DOUBLE_SUFFIXES, |stem| measure(stem) > 0)
}

/// Step 3.
fn suffixes(word: String) -> String {
    replace(word, &SUFFIXES, |stem| measure(stem) > 0)
}

/// Step 4.
fn endings(word: String) -> String {
    for ending in ENDINGS {
        if let Some(stem) = word.strip_suffix(ending) {
            let fits = measure(stem) > 1 && (ending != "ion" || stem.ends_with(['s', 't']));
            return if fits { stem.to_owned() } else { word };
        }
    }
    word
}

/// Step 5a.
fn final_e(word: String) -> String {
    replace(word, &[("e", "")], |stem| {
        measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem))
    })
}

/// Step 5b.
fn final_l(word: String) -> String {
    match word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        true => word[..word.len() - 1].to_owned(),
        false => word,
    }
}
