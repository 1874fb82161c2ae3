//! Pictures as a parser sees them: what is drawn of a series, and hostile text in it as text.

use roxmltree::Document;

use super::*;

const HOSTILE: &str = "</pre><script>alert('1')</script>\" onload=\"x\" <!-- ]]> &amp; {} \u{202e}";

fn plot(mark: Mark, points: Vec<(f64, f64)>) -> String {
    let name = HOSTILE.to_owned();
    let plot = LinePlot {
        title: HOSTILE.to_owned(),
        x_label: HOSTILE.to_owned(),
        x_scale: Scale::Linear,
        series: vec![Series { name, mark, points }],
    };
    plot.svg()
}

/// Data of the line of the series: the last path that has no legend's.
fn line(svg: &str) -> String {
    let document = Document::parse(svg).unwrap();
    let paths = document
        .descendants()
        .filter(|node| node.attribute("stroke-linejoin").is_some());
    paths.map(|node| node.attribute("d").unwrap().to_owned()).collect()
}

#[test]
fn a_value_that_is_no_number_breaks_the_line_and_one_alone_is_a_dot() {
    let points = [1.0, 2.0, f64::NAN, 1.5, f64::INFINITY].iter().enumerate();
    let svg = plot(Mark::Line, points.map(|(x, &y)| (x as f64, y)).collect());
    let line = line(&svg);
    assert_eq!((line.matches('M').count(), line.matches('L').count()), (2, 1), "{line}");
    assert!(line.ends_with("h0"), "{line}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn a_long_series_keeps_its_peaks_and_loses_its_length() {
    let mut points: Vec<(f64, f64)> = (0..100_000).map(|x| (f64::from(x), 0.0)).collect();
    points[54_321].1 = 1.0;
    let svg = plot(Mark::Line, points);
    // The top of the plot is at 34.
    assert!(svg.len() < 40_000 && line(&svg).contains(" 34.0"), "{}", svg.len());
}

#[test]
fn dots_say_their_values() {
    let svg = plot(Mark::Dots, vec![(1.0, 0.5), (2.0, 0.25)]);
    let document = Document::parse(&svg).unwrap();
    let titles = document.descendants().filter(|node| node.has_tag_name("title"));
    let titles: Vec<_> = titles.filter_map(|title| title.text()).collect();
    assert_eq!(titles, [format!("{HOSTILE} 0.5 at 1"), format!("{HOSTILE} 0.25 at 2")]);
}
