//! `{% generation %}` marks, for training, which part of a conversation the assistant wrote; in a prompt it has no effect.

/// `source` with generation blocks turned into blocks that always apply, so that whitespace control stays as it is.
pub(super) fn without_blocks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        plain.push_str(before);
        plain.push_str("{%");
        rest = tag;
        let Some((inside, _)) = tag.split_once("%}") else {
            break;
        };
        let replacement = match inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        let control = |sign: Option<char>| sign.filter(|sign| matches!(sign, '-' | '+'));
        plain.extend(control(inside.chars().next()));
        plain.push_str(&format!(" {replacement} "));
        plain.extend(control(inside.chars().next_back()));
        rest = &tag[inside.len()..];
    }
    plain + rest
}
