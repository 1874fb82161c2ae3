use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn respelled(source: &str) -> String {
    dialect::respelled(source, Generation::Plain)
}

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
    assert_eq!(respelled(plain), plain);
    let marked = "a {%- generation -%} b {% endgeneration +%} c";
    assert_eq!(respelled(marked), "a {%- if true -%} b {% endif +%} c");
}

#[test]
fn loops_check_what_they_go_over() {
    let over = |head: &str| respelled(&format!("{{% for {head} %}}"));
    assert_eq!(over("x in y"), "{% for x in (y)|iterated  %}");
    assert_eq!(
        over("(a, b) in y.items() if 'if' in a"),
        "{% for (a, b) in (y.items())|iterated if 'if' in a %}"
    );
    assert_eq!(
        over("x in [1 if y else 2] recursive"),
        "{% for x in ([1 if y else 2])|iterated recursive %}"
    );
    let untouched =
        "{% raw %}{% for x in y %}{% endraw %}{# {% for x in y %} #}{{ '{% for x in y %}' }}{% set form = 1 %}";
    assert_eq!(respelled(untouched), untouched);
    assert_eq!(
        respelled("{{ '%}' }}{{ {'a': {}}['a'] }}"),
        "{{ '%}' }}{{ {'a': {}}['a'] }}"
    );
}

fn outcome(source: &str) -> Result<String, String> {
    let template = ChatTemplate::new(source, Markers::default()).map_err(|error| error.to_string())?;
    template
        .render(&[], false, &Map::new())
        .map_err(|error| error.to_string())
}

#[test]
fn looping_over_none_is_an_error_and_over_the_undefined_is_not() {
    assert_eq!(outcome("{% for x in missing %}x{% endfor %}").as_deref(), Ok(""));
    assert!(
        outcome("{% for x in none %}x{% endfor %}")
            .unwrap_err()
            .contains("none is not iterable")
    );
    assert!(
        outcome("{% for x in tools %}x{% endfor %}").is_err(),
        "tools are none, not undefined"
    );
}

#[test]
fn an_empty_list_can_be_reversed() {
    assert_eq!(
        outcome("{% for m in messages[::-1] %}x{% endfor %}{{ 'abc'[::-1] }}").as_deref(),
        Ok("cba")
    );
    assert!(
        outcome("{{ messages[::-1][0:] }}").is_err(),
        "minijinja's panic becomes an error"
    );
}

#[test]
fn no_template_overflows_the_stack_that_compiles_it() {
    let most = 128 << 10;
    for (start, link, end) in [
        ("{{ 1", "+1", " }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ a", ".b", " }}"),
        ("{{ a", "()", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ 1", "|e", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
    ] {
        let links = link.repeat((most - start.len() - end.len()) / link.len());
        // Whether it compiles does not matter; that the process lives does.
        let _ = ChatTemplate::new(&format!("{start}{links}{end}"), Markers::default());
    }
    let long = ChatTemplate::new(&"x".repeat(most + 1), Markers::default());
    let error = long.map(drop).unwrap_err().to_string();
    assert!(error.contains("at most 131072 bytes, got 131073"), "{error}");
}
