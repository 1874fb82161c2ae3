use proptest::prelude::*;

use super::super::tests::{END, tokenizer};
use super::*;

fn stream(stop: &[&str]) -> TextStream {
    TextStream::new(tokenizer(), stop.iter().map(|&text| text.to_owned()).collect(), true)
}

/// Feeds `text` byte by byte; what came out, with `|` after each push, and which stop string ended it.
fn trace(stop: &[&str], text: &str) -> (String, Option<usize>) {
    let mut stream = stream(stop);
    let mut out = String::new();
    for byte in text.bytes() {
        let update = stream.push(byte.into());
        out.push_str(&update.text);
        out.push('|');
        if update.stopped.is_some() {
            return (out + &stream.finish(), update.stopped);
        }
    }
    (out + &stream.finish(), None)
}

#[test]
fn a_character_appears_when_its_last_byte_does() {
    assert_eq!(trace(&[], "aé€😀"), ("a||é|||€||||😀|".to_owned(), None));
}

#[test]
fn half_a_character_at_the_end_becomes_one_replacement() {
    let mut stream = stream(&[]);
    for byte in [0xF0, 0x9F, 0x98] {
        assert_eq!(stream.push(byte).text, "");
    }
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn bytes_that_cannot_be_text_do_not_hold_back_what_follows() {
    let mut stream = stream(&[]);
    assert_eq!(stream.push(0xE2).text, "");
    assert_eq!(stream.push(u32::from(b'a')).text, "\u{FFFD}a");
    assert_eq!(stream.push(0xFF).text, "\u{FFFD}");
}

#[test]
fn a_stop_string_is_found_across_tokens_and_never_shown() {
    assert_eq!(trace(&["END"], "abENDcd"), ("a|b|||".to_owned() + "|", Some(0)));
    assert_eq!(trace(&["END"], "aENEND"), ("a|||EN|||".to_owned(), Some(0)));
}

#[test]
fn a_stop_string_that_was_not_completed_is_shown() {
    assert_eq!(trace(&["END"], "aENx"), ("a|||ENx|".to_owned(), None));
    assert_eq!(trace(&["END"], "aEN"), ("a|||EN".to_owned(), None));
}

#[test]
fn the_stop_string_that_is_complete_first_ends_the_text() {
    assert_eq!(trace(&["abcd", "bc"], "xabcd"), ("x|||a|".to_owned(), Some(1)));
    assert_eq!(trace(&["bc", "abc"], "xabc"), ("x||||".to_owned(), Some(1)));
    assert_eq!(trace(&["", "b"], "ab"), ("a||".to_owned(), Some(1)));
}

#[test]
fn a_stop_string_within_a_token_cuts_it() {
    let mut stream = stream(&["el"]);
    assert_eq!(
        stream.push(258),
        TextUpdate {
            text: "h".to_owned(),
            stopped: Some(0)
        }
    );
    assert_eq!(stream.push(258).text, "");
    assert_eq!(stream.push(258).stopped, Some(0));
    assert_eq!(stream.finish(), "");
}

#[test]
fn special_tokens_are_text_only_when_they_are_not_skipped() {
    let text = |skip_special| {
        let mut stream = TextStream::new(tokenizer(), vec!["<end>".to_owned()], skip_special);
        stream.push(END)
    };
    assert_eq!(text(true).stopped, None);
    assert_eq!(text(false).stopped, Some(0));
}

/// The end and start of the stop string that is complete first, and its index; the slow way.
fn first_stop(text: &str, stop: &[String]) -> Option<(usize, usize, usize)> {
    let ends = stop
        .iter()
        .enumerate()
        .filter(|(_, pattern)| !pattern.is_empty())
        .flat_map(|(which, pattern)| {
            let starts = (0..text.len()).filter(|&start| text.as_bytes()[start..].starts_with(pattern.as_bytes()));
            starts.map(move |start| (start + pattern.len(), start, which))
        });
    ends.min()
}

proptest! {
    #[test]
    fn the_stream_is_the_decoded_text(ids in prop::collection::vec(0u32..264, 0..60), skip in any::<bool>()) {
        let tokenizer = tokenizer();
        let mut stream = TextStream::new(tokenizer.clone(), vec!["never to be found".to_owned()], skip);
        let mut text: String = ids.iter().map(|&id| stream.push(id).text).collect();
        text.push_str(&stream.finish());
        prop_assert_eq!(text, tokenizer.decode(&ids, skip));
    }

    #[test]
    fn the_stream_ends_before_the_first_stop_string(text in "[abé]{0,40}", stop in prop::collection::vec("[abé]{0,5}", 0..4)) {
        let mut stream = TextStream::new(tokenizer(), stop.clone(), false);
        let mut seen = String::new();
        let mut stopped = None;
        for byte in text.bytes() {
            let update = stream.push(byte.into());
            seen.push_str(&update.text);
            stopped = update.stopped;
            if stopped.is_some() {
                break;
            }
        }
        seen.push_str(&stream.finish());
        let expected = first_stop(&text, &stop);
        prop_assert_eq!(stopped, expected.map(|(_, _, which)| which));
        prop_assert_eq!(seen.as_str(), &text[..expected.map_or(text.len(), |(_, start, _)| start)]);
    }

    #[test]
    fn nothing_is_held_back_that_cannot_begin_a_stop_string(text in "[abc]{0,40}", stop in "[ab]{1,6}") {
        let mut stream = TextStream::new(tokenizer(), vec![stop.clone()], false);
        let mut seen = String::new();
        for (index, byte) in text.bytes().enumerate() {
            let update = stream.push(byte.into());
            seen.push_str(&update.text);
            if update.stopped.is_some() {
                return Ok(());
            }
            let held = &text[seen.len()..=index];
            prop_assert!(held.is_empty() || stop.starts_with(held), "{held:?} of {stop:?}");
        }
    }
}
