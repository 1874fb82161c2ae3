//! The page as a parser sees it: well-formed, self-contained, and with hostile text in it as text.

use roxmltree::{Document, ParsingOptions};

use super::*;

const HOSTILE: &str = "</pre><script>alert('1')</script>\" onload=\"x\" <!-- ]]> &amp; {} \u{202e}";

fn parse(html: &str) -> Document<'_> {
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(html, options).unwrap()
}

fn record(step: u64) -> Record {
    Record {
        step,
        loss: Some(3.0 / (step as f64).sqrt()),
        learning_rate: Some(2e-4 / step as f64),
        eval_loss: step.is_multiple_of(10).then_some(1.0 + 1.0 / step as f64),
        ..Record::default()
    }
}

fn report(text: &str) -> Report {
    Report {
        title: text.to_owned(),
        settings: vec![(text.to_owned(), text.to_owned())],
        records: (1..=60).map(record).collect(),
        best: Some(Best { step: 60, loss: 1.0167 }),
        samples: vec![Sample {
            prompt: text.to_owned(),
            base: text.to_owned(),
            adapter: format!("\n{text}"),
        }],
        cost: Cost {
            time: Duration::from_secs(125),
            tokens: 60 * 1024,
            peak_memory: Some(3 << 29),
        },
        dataset: DatasetFacts {
            rows: 1000,
            held_out: 100,
            tokens: 250_000,
            learned: 30_000,
            truncated: 7,
        },
        warnings: vec![text.to_owned()],
    }
}

fn elements(document: &Document<'_>, name: &str) -> Vec<String> {
    let named = document.descendants().filter(|node| node.has_tag_name(name));
    // Without namespaces the elements of HTML have their plain names.
    named
        .map(|node| {
            node.descendants()
                .filter_map(|node| node.text().filter(|_| node.is_text()))
                .collect()
        })
        .collect()
}

#[test]
fn a_page_is_well_formed_and_says_what_the_run_was() {
    let html = report("tone of voice").html();
    let document = parse(&html);
    assert_eq!(elements(&document, "h1"), ["tone of voice"]);
    let facts = elements(&document, "td");
    for expected in [
        "2 min 05 s",
        "61,440",
        "491.5",
        "1.5 GiB",
        "1,000",
        "250,000",
        "30,000",
        "7",
    ] {
        assert!(facts.iter().any(|fact| fact == expected), "{expected} in {facts:?}");
    }
    let tiles = elements(&document, "li");
    assert!(
        tiles.contains(&"1.017 at step 60best eval loss".to_owned()),
        "{tiles:?}"
    );
}

#[test]
fn hostile_text_is_text_wherever_it_stands() {
    let html = report(HOSTILE).html();
    let document = parse(&html);
    assert!(elements(&document, "script").is_empty());
    assert!(
        elements(&document, "pre")
            .iter()
            .all(|text| text.trim_start_matches('\n') == HOSTILE)
    );
    assert_eq!(elements(&document, "p"), [HOSTILE]);
    assert_eq!(elements(&document, "title")[0], HOSTILE);
    assert!(elements(&document, "th").contains(&HOSTILE.to_owned()));
}

#[test]
fn hostile_text_brings_no_attribute_of_its_own() {
    let html = report(HOSTILE).html();
    let document = parse(&html);
    let known = "lang charset content http-equiv name class dir viewBox role aria-label fill d font-family font-size \
                 font-weight x y cx cy r text-anchor stroke stroke-width stroke-opacity stroke-linejoin stroke-linecap";
    for node in document.descendants() {
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(known.split_whitespace().any(|known| known == name), "{name}");
        }
    }
}

#[test]
fn a_page_needs_nothing_beside_itself() {
    let html = report("plain").html().replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn letters_that_no_page_can_hold_become_a_sign_for_them() {
    let html = report("bell \u{7} escape \u{1b} end").html();
    assert_eq!(elements(&parse(&html), "h1"), ["bell \u{fffd} escape \u{fffd} end"]);
}

#[test]
fn a_run_that_logged_nothing_has_a_page() {
    let html = Report::default().html();
    assert!(elements(&parse(&html), "text").contains(&"nothing was measured".to_owned()));
}

#[test]
fn a_report_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    report("one").write(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), report("one").html());
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    assert!(report("one").write(&folder.path().join("none/report.html")).is_err());
}
