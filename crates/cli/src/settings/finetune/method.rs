//! What a method takes: settings of pairs, of bottlenecks and of all weights, and which of them have no effect on which.

use anyhow::Result;
use rootstock_formats::peft::TrainedBiases;
use rootstock_model::FloatType;
use rootstock_train::adapter::{BottleneckKind, BottleneckSettings, LoraSettings, Targets};

use super::super::{usage, within};
use crate::args::{AdapterArgs, Biases, Method, QuantType, SaveDtype, TrainingArgs};

/// What the frozen weights are rounded to.
///
/// # Errors
/// NF4, and a method that rounds nothing.
pub fn quant_type(method: Method, quant_type: QuantType) -> Result<QuantType> {
    match (method, quant_type) {
        (Method::Qlora, _) | (_, QuantType::Q4) => Ok(quant_type),
        (_, QuantType::Nf4) => Err(usage(
            "--quant-type nf4: this method takes the weights as they are stored; take --method qlora",
        )),
    }
}

/// Settings of low-rank pairs.
///
/// # Errors
/// Numbers out of range.
pub fn lora(args: AdapterArgs) -> Result<LoraSettings> {
    Ok(LoraSettings {
        rank: within("lora-r", args.lora_r, 1, 1 << 16)?,
        alpha: within("lora-alpha", args.lora_alpha, f64::MIN_POSITIVE, 1e9)?,
        dropout: within("lora-dropout", args.lora_dropout, 0.0, 0.99)?,
        targets: Targets::of_arguments(&args.target_modules),
        excluded: args.exclude_modules,
        rank_pattern: args.rank_pattern,
        alpha_pattern: args.alpha_pattern,
        layers: args.layers_to_transform,
        biases: match args.bias {
            Biases::None => TrainedBiases::None,
            Biases::LoraOnly => TrainedBiases::Targeted,
            Biases::All => TrainedBiases::All,
        },
        saved: args.modules_to_save,
        rank_stabilized: args.use_rslora,
        dora: args.use_dora,
        initialisation: args.init_lora_weights,
    })
}

/// Element type of a model's files.
pub fn float(dtype: SaveDtype) -> FloatType {
    match dtype {
        SaveDtype::Bf16 => FloatType::Bf16,
        SaveDtype::F16 => FloatType::F16,
        SaveDtype::F32 => FloatType::F32,
    }
}

/// Full fine-tuning has no pairs: flags that say what they are would have no effect.
///
/// # Errors
/// Such a flag.
pub fn has_no_pairs(adapter: &AdapterArgs, training: &TrainingArgs) -> Result<()> {
    let (given, plain) = (lora(adapter.clone())?, LoraSettings::default());
    let differs = [
        ("adapter", adapter.adapter.is_some()),
        ("lora-r", given.rank != plain.rank),
        ("lora-alpha", given.alpha != plain.alpha),
        ("lora-dropout", given.dropout != plain.dropout),
        ("target-modules", given.targets != plain.targets),
        ("exclude-modules", given.excluded != plain.excluded),
        ("layers-to-transform", given.layers != plain.layers),
        ("rank-pattern", given.rank_pattern != plain.rank_pattern),
        ("alpha-pattern", given.alpha_pattern != plain.alpha_pattern),
        ("modules-to-save", given.saved != plain.saved),
        ("bias", given.biases != plain.biases),
        ("use-rslora", given.rank_stabilized),
        ("use-dora", given.dora),
        ("init-lora-weights", given.initialisation != plain.initialisation),
        ("loraplus-lr-ratio", training.loraplus_lr_ratio != 1.0),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((flag, _)) => Err(usage(format!(
            "--{flag}: is about adapters, and --method full trains every weight; leave it out, or take --method lora"
        ))),
    }
}

/// Bottlenecks, where the method asks for them. Settings of the other kind of adapter would be without effect, and are refused.
///
/// # Errors
/// Such a setting, or numbers out of range.
pub fn bottleneck(method: Method, args: &AdapterArgs) -> Result<Option<BottleneckSettings>> {
    let kind = match method {
        Method::Houlsby => BottleneckKind::Houlsby,
        Method::Pfeiffer => BottleneckKind::Pfeiffer,
        Method::Lora | Method::Qlora | Method::Full => {
            let given = [
                ("reduction-factor", args.reduction_factor.is_some()),
                ("non-linearity", args.non_linearity.is_some()),
                ("leave-out", !args.leave_out.is_empty()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(usage(format!("--{flag}: is for --method houlsby and pfeiffer"))),
                None => Ok(None),
            };
        }
    };
    let of_pairs = [
        ("use-dora", args.use_dora),
        ("use-rslora", args.use_rslora),
        ("lora-dropout", args.lora_dropout > 0.0),
        ("bias", args.bias != Biases::None),
        ("modules-to-save", !args.modules_to_save.is_empty()),
        ("exclude-modules", !args.exclude_modules.is_empty()),
        ("layers-to-transform", !args.layers_to_transform.is_empty()),
        ("rank-pattern", !args.rank_pattern.is_empty()),
        ("alpha-pattern", !args.alpha_pattern.is_empty()),
    ];
    if let Some((flag, _)) = of_pairs.into_iter().find(|(_, given)| *given) {
        return Err(usage(format!(
            "--{flag}: is for low-rank pairs, and bottlenecks have none"
        )));
    }
    Ok(Some(BottleneckSettings {
        kind,
        reduction_factor: within("reduction-factor", args.reduction_factor.unwrap_or(16.0), 0.0625, 1e6)?,
        non_linearity: args.non_linearity.clone(),
        left_out: args.leave_out.clone(),
    }))
}
