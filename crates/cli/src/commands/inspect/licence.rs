//! Under which terms a folder says that its content is: the front matter of its model card, or the head of its licence.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a card or a licence that are looked at.
const START: u64 = 64 << 10;

/// The licence that a folder records, if it does.
pub fn licence(dir: &Path) -> Option<String> {
    let card = start_of(&dir.join("README.md")).and_then(|card| stated(&card));
    card.or_else(|| {
        let mut texts = ["LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"].iter();
        let text = texts.find_map(|name| start_of(&dir.join(name)))?;
        let title = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        Some(title.trim_start_matches(['#', ' ']).to_owned())
    })
}

/// The value of `license` between the lines of dashes that a card begins with.
fn stated(card: &str) -> Option<String> {
    let mut lines = card.lines();
    lines.next().filter(|line| line.trim_end() == "---")?;
    let mut lines = lines.take_while(|line| line.trim_end() != "---");
    let value = lines.find_map(|line| line.strip_prefix("license:"))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

fn start_of(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = path.is_file().then(|| File::open(path).ok())??;
    file.take(START).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
