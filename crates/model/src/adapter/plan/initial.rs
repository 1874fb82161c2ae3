//! Adapters whose training began by subtracting their own initial pairs from the base (PiSSA, OLoRA, CorDA, LoRA-GA).
//!
//! They were trained on `W - s B0 A0`, so on W they amount to `s (B A - B0 A0)`: a pair of twice the rank,
//! `A' = [A; A0]`, `B' = [B, -B0]`, as peft's own conversion makes it.

use rootstock_formats::peft::ChangedBase;

use super::{EffectPlan, PairPlan, check_rank, peft};
use crate::adapter::container::{CONFIG, Contents, File};
use crate::adapter::{AdapterError, AdapterErrorCode as Code, AdapterLimits, Base};

/// Sets the initial pair of every pair.
pub(super) fn subtract<'a>(
    effects: &mut [EffectPlan<'a>],
    changed: &ChangedBase,
    initial: Option<&'a File>,
    base: Base<'_>,
    limits: AdapterLimits,
) -> Result<(), AdapterError> {
    let Some(file) = initial.filter(|_| changed.by_initial_pair) else {
        return Err(changed_base(changed));
    };
    let Contents::Peft { config, header } = &file.contents else {
        return Err(changed_base(changed));
    };
    let found = peft::effects(config, header, base, limits).map_err(|error| within(file, error))?;
    let mut initial: Vec<PairPlan<'a>> = found.into_iter().filter_map(into_pair).collect();
    for effect in effects {
        let EffectPlan::LowRank(pair) = effect else { continue };
        let place = initial.iter().position(|other| other.site == pair.site);
        let other = place.map(|index| initial.swap_remove(index));
        let matching = other.filter(|other| other.rank == pair.rank && other.scale == pair.scale);
        let Some(other) = matching else {
            let (site, rank, scale) = (pair.site, pair.rank, pair.scale);
            let expected =
                format!("{site}: expected an initial pair of rank {rank} and scale {scale}, got another or none");
            return Err(within(file, AdapterError::new(Code::ShapeMismatch, expected)));
        };
        pair.initial = Some([other.a, other.b]);
        check_rank(
            &pair.site.to_string(),
            pair.full_rank(),
            limits,
            "with its initial pair",
        )?;
    }
    match initial.first() {
        Some(extra) => {
            let message = format!(
                "{}: expected no initial pair where the adapter has none, got one",
                extra.site
            );
            Err(within(file, AdapterError::new(Code::ShapeMismatch, message)))
        }
        None => Ok(()),
    }
}

fn into_pair(effect: EffectPlan<'_>) -> Option<PairPlan<'_>> {
    match effect {
        EffectPlan::LowRank(pair) => Some(pair),
        _ => None,
    }
}

fn within(file: &File, error: AdapterError) -> AdapterError {
    AdapterError::new(error.code, format_args!("{}: {}", file.shown, error.message))
}

fn changed_base(changed: &ChangedBase) -> AdapterError {
    let remedy = if changed.by_initial_pair {
        "give its initial adapter beside it in a subfolder pissa_init (or another name that ends in _init), or save it with \
         path_initial_model_for_weight_conversion"
    } else {
        "merge it into the base it was trained on and serve that"
    };
    let message = format!(
        "{CONFIG}: init_lora_weights: {:?} is not supported alone: it trained on a base that it had changed first; {remedy}",
        changed.initialisation
    );
    AdapterError::new(Code::UnsupportedField, message)
}
