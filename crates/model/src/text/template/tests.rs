use std::time::{Duration, UNIX_EPOCH};

use super::*;

#[test]
fn dates_are_spelled_as_in_the_c_locale() {
    let at = |seconds, format| clock::strftime(UNIX_EPOCH + Duration::from_secs(seconds), format);
    let everything = "%d %B %Y|%a %A %b|%-d/%-m/%y|%H:%M:%S|%I %p|%F %T %Z 100%%";
    // 2024-02-29 was a Thursday.
    let leap_day = at(1_709_164_805, everything).unwrap();
    assert_eq!(
        leap_day,
        "29 February 2024|Thu Thursday Feb|29/2/24|00:00:05|12 AM|2024-02-29 00:00:05 UTC 100%"
    );
    assert_eq!(at(0, "%F %A %-H").unwrap(), "1970-01-01 Thursday 0");
    assert_eq!(at(951_868_799, "%F %-I%p").unwrap(), "2000-02-29 11PM");
    assert_eq!(at(4_107_542_400, "%d %b %Y").unwrap(), "01 Mar 2100");
    assert_eq!(at(1_735_689_599, "%d %b %Y").unwrap(), "31 Dec 2024");
}

#[test]
fn unknown_directives_are_refused() {
    for format in ["%Q", "%", "%-", "%é"] {
        assert!(clock::strftime(UNIX_EPOCH, format).is_err(), "{format}");
    }
}

#[test]
fn templates_can_ask_for_the_date() {
    let template = ChatTemplate::new("{{ strftime_now('%Y') | int > 2025 }}", Markers::default()).unwrap();
    assert_eq!(template.render(&[], false, &Map::new()).unwrap(), "True");
    let template = ChatTemplate::new("{{ strftime_now('%Q') }}", Markers::default()).unwrap();
    assert!(
        template
            .render(&[], false, &Map::new())
            .unwrap_err()
            .to_string()
            .contains("%Q")
    );
}

#[test]
fn only_generation_tags_are_replaced() {
    let plain = "{% if x %}{{ generation }} {% set generation = 1 %} {% ";
    assert_eq!(generation::without_blocks(plain), plain);
    let marked = "a {%- generation -%} b {% endgeneration +%} c";
    assert_eq!(generation::without_blocks(marked), "a {%- if true -%} b {% endif +%} c");
}
