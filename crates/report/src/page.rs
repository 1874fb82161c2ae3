//! The frame of a page and what stands in it: headline numbers, facts, tables. Every tag is closed, so that it is well-formed XML as
//! well.

use std::fmt::Write;

use crate::escape::escape;

/// Nothing is loaded and nothing runs, whatever the text in the page says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A page with this headline. The body is markup.
pub fn document(title: &str, body: &str) -> String {
    let (title, style, version) = (escape(title), include_str!("style.css"), env!("CARGO_PKG_VERSION"));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>\
         <meta name=\"viewport\" content=\"width=device-width\"/>\
         <title>{title}</title><style>{style}</style></head>\n<body><h1>{title}</h1>\n{body}\
         <footer>rootstock {version}</footer></body></html>\n"
    )
}

/// Numbers that are seen first, with what they are.
pub fn tiles<'a>(tiles: impl Iterator<Item = (&'a str, String)>, page: &mut String) {
    page.push_str("<ul class=\"tiles\">");
    for (name, value) in tiles {
        let _ = write!(page, "<li><b>{}</b>{name}</li>", escape(&value));
    }
    page.push_str("</ul>\n");
}

/// The headline of a part. The text is markup.
pub fn heading(text: &str, page: &mut String) {
    let _ = writeln!(page, "<h2>{text}</h2>");
}

/// Names and values.
pub fn facts(facts: &[(String, String)], page: &mut String) {
    page.push_str("<table class=\"facts\">");
    for (name, value) in facts {
        let _ = writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    page.push_str("</table>\n");
}

/// Rows of cells; the first row is the header.
pub fn table(rows: &[Vec<String>], page: &mut String) {
    page.push_str("<table>");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cells = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        let _ = writeln!(page, "<tr>{}</tr>", cells.collect::<String>());
    }
    page.push_str("</table>\n");
}
