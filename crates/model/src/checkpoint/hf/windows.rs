//! Which layers see a window only, and which have no rotary embedding.

use serde_json::Value;

use super::super::Refusal;
use super::family::Windows;
use super::fields::Fields;

/// What one layer sees, and whether positions enter it.
pub(super) struct Sight {
    /// Tokens that a position sees, itself included.
    pub(super) window: Option<usize>,
    /// The layer rotates queries and keys.
    pub(super) rotary: bool,
}

/// What each of `layers` layers sees.
pub(super) fn sights(fields: &Fields, windows: Windows, layers: usize) -> Result<Vec<Sight>, Refusal> {
    let rotary = match windows {
        Windows::WithoutRotary => rotary_layers(fields, layers)?,
        _ => vec![true; layers],
    };
    let window = window(fields, windows)?;
    let sliding = match windows {
        Windows::Never => vec![false; layers],
        Windows::Every => vec![window.is_some(); layers],
        Windows::FromLayer | Windows::WithoutRotary | Windows::Interleaved => {
            let default = default_kinds(fields, windows, &rotary)?;
            match stated_kinds(fields, layers)? {
                Some(stated) => stated,
                None => default.into_iter().map(|sliding| sliding && window.is_some()).collect(),
            }
        }
    };
    if let (true, None) = (sliding.contains(&true), window) {
        let unless = "full_attention, where sliding_window is null or use_sliding_window is not true";
        return Err(fields.unsupported("layer_types", "sliding_attention", unless));
    }
    let sights = sliding.into_iter().zip(rotary);
    Ok(sights
        .map(|(sliding, rotary)| Sight {
            window: window.filter(|_| sliding),
            rotary,
        })
        .collect())
}

fn window(fields: &Fields, windows: Windows) -> Result<Option<usize>, Refusal> {
    match windows {
        Windows::Never => Ok(None),
        Windows::Every | Windows::Interleaved => fields.optional_size("sliding_window"),
        Windows::FromLayer | Windows::WithoutRotary => {
            let (used, window) = (
                fields.flag("use_sliding_window")?,
                fields.optional_size("sliding_window")?,
            );
            Ok(window.filter(|_| used))
        }
    }
}

/// The layers that slide if `layer_types` does not say and there is a window.
fn default_kinds(fields: &Fields, windows: Windows, rotary: &[bool]) -> Result<Vec<bool>, Refusal> {
    let layers = 0..rotary.len();
    match windows {
        Windows::FromLayer => {
            let first = fields.value("max_window_layers").and_then(Value::as_u64);
            let first = fields.required("max_window_layers", first)?;
            Ok(layers.map(|layer| layer as u64 >= first).collect())
        }
        Windows::Interleaved => {
            let pattern = fields.size("sliding_window_pattern")?;
            let stated = fields.value("layer_types").is_some();
            // Written by some versions, read by none: it says something only if it differs.
            match fields.optional_size("_sliding_window_pattern")? {
                Some(other) if other != pattern && !stated => {
                    Err(fields.contradiction("_sliding_window_pattern", other, format_args!("a pattern of {pattern}")))
                }
                _ => Ok(layers.map(|layer| (layer + 1) % pattern != 0).collect()),
            }
        }
        Windows::WithoutRotary => Ok(rotary.iter().map(|rotary| !rotary).collect()),
        Windows::Never | Windows::Every => Ok(vec![false; rotary.len()]),
    }
}

/// `layer_types`: whether each layer slides.
fn stated_kinds(fields: &Fields, layers: usize) -> Result<Option<Vec<bool>>, Refusal> {
    let slides = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(fields.unsupported("layer_types", kind, "full_attention, sliding_attention")),
    };
    let Some(kinds) = fields.list("layer_types")? else {
        return Ok(None);
    };
    if kinds.len() != layers {
        let got = format!("a list of {}", kinds.len());
        return Err(fields.unsupported(
            "layer_types",
            got,
            format_args!("one entry for each of {layers} layers"),
        ));
    }
    kinds.iter().map(slides).collect::<Result<_, _>>().map(Some)
}

/// `no_rope_layers` (1 for a layer that rotates), or all but every `no_rope_layer_interval`th.
fn rotary_layers(fields: &Fields, layers: usize) -> Result<Vec<bool>, Refusal> {
    let interval = fields.size("no_rope_layer_interval")?;
    let Some(stated) = fields.list("no_rope_layers")? else {
        return Ok((0..layers).map(|layer| (layer + 1) % interval != 0).collect());
    };
    if stated.len() != layers {
        let got = format!("a list of {}", stated.len());
        return Err(fields.unsupported(
            "no_rope_layers",
            got,
            format_args!("one entry for each of {layers} layers"),
        ));
    }
    let rotates = |entry: &Value| match entry.as_u64() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(fields.unsupported("no_rope_layers", entry, "0 and 1")),
    };
    stated.iter().map(rotates).collect()
}
