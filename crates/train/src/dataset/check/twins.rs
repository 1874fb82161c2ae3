//! Rows that say the same: exactly, or but for case, spaces and punctuation. On the two sides of a split they let a model be
//! evaluated on what it was trained on.

use std::collections::HashMap;

use super::super::{Example, Place};
use super::{Checked, Fault, Finding, Survey};

/// Rows seen so far, by what they say.
#[derive(Default)]
struct Seen<'a> {
    exact: HashMap<&'a Example, &'a Place>,
    near: HashMap<Words, &'a Place>,
    /// Labels by the prompt they were given to.
    labels: HashMap<String, (&'a str, &'a Place)>,
}

/// What a row says, in words; `None` for what has none.
type Words = (String, Option<String>);

/// Twins within the rows to train on and within those to evaluate on, and those that are in both.
pub(super) fn findings(survey: &Survey, labelled: bool) -> Vec<Finding> {
    let (mut train, mut eval, mut findings) = (Seen::default(), Seen::default(), Vec::new());
    for row in &survey.train {
        findings.extend(
            train
                .twin(row)
                .map(|(fault, twin)| fault.at(&row.place, format!("the same as {twin}"))),
        );
        findings.extend(train.contradicted(row, labelled));
        train.add(row);
    }
    for row in &survey.eval {
        let leaked = train.twin(row).map(|(fault, twin)| {
            let alike = if fault == Fault::Duplicate {
                "the same"
            } else {
                "nearly the same"
            };
            Fault::Leakage.at(&row.place, format!("{alike} as {twin}, which is trained on"))
        });
        let twin = || {
            eval.twin(row)
                .map(|(fault, twin)| fault.at(&row.place, format!("the same as {twin}")))
        };
        findings.extend(leaked.or_else(twin));
        let contradicted = train.contradicted(row, labelled);
        findings.extend(contradicted.or_else(|| eval.contradicted(row, labelled)));
        eval.add(row);
    }
    findings
}

impl<'a> Seen<'a> {
    /// A row seen before that says the same.
    fn twin(&self, row: &Checked) -> Option<(Fault, &'a Place)> {
        if let Some(twin) = self.exact.get(&row.example) {
            return Some((Fault::Duplicate, twin));
        }
        let twin = self.near.get(&words_of(&row.example)?)?;
        Some((Fault::NearDuplicate, twin))
    }

    /// A row seen before that gives the prompt another label.
    fn contradicted(&self, row: &Checked, labelled: bool) -> Option<Finding> {
        let Example::Completion { prompt, completion } = &row.example else {
            return None;
        };
        let (label, place) = self.labels.get(&words(prompt)).filter(|_| labelled)?;
        let differs = words(label) != words(completion);
        differs.then(|| {
            let (here, there) = (completion.trim(), label.trim());
            Fault::Contradiction.at(
                &row.place,
                format!("its prompt has the label {here:?} here and {there:?} in {place}"),
            )
        })
    }

    fn add(&mut self, row: &'a Checked) {
        self.exact.entry(&row.example).or_insert(&row.place);
        if let Some(words) = words_of(&row.example) {
            self.near.entry(words).or_insert(&row.place);
        }
        if let Example::Completion { prompt, completion } = &row.example {
            let prompt = words(prompt);
            if !prompt.is_empty() {
                self.labels.entry(prompt).or_insert((completion, &row.place));
            }
        }
    }
}

fn words_of(example: &Example) -> Option<Words> {
    let (prompt, completion) = match example {
        Example::Completion { prompt, completion } => (words(prompt), Some(words(completion))),
        Example::Text(text) => (words(text), None),
        Example::Conversation(messages) => {
            let turns = messages.iter().map(|message| words(&message.content));
            (turns.collect::<Vec<_>>().join("\n"), None)
        }
    };
    let has_words = prompt.chars().any(char::is_alphanumeric);
    has_words.then_some((prompt, completion))
}

/// A text in lower case, of its letters and digits alone, with a space between words.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}
