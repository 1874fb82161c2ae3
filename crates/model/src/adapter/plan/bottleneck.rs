//! The bottlenecks of an AdapterHub folder: which tensors belong to which block of which layer, and what they are applied to.
//!
//! The library hands a bottleneck h, what a block gives, and r, the residual stream before it. As it computes them in a
//! Llama block, all settings that are served come to `r + h + scale * f(x)`, with `x = h` or, by `original_ln_before`, `x = r + h`.

use std::collections::BTreeMap;

use rootstock_formats::TensorInfo;
use rootstock_formats::adapterhub::BottleneckConfig;
use rootstock_formats::safetensors::SafeTensors;

use super::peft::check_base;
use super::{EffectPlan, Piece, Tensor, check_rank, check_scale};
use crate::adapter::container::{BOTTLENECK_HEAD as HEAD, BOTTLENECK_WEIGHTS as WEIGHTS, CONFIG, Head};
use crate::adapter::error::clipped;
use crate::adapter::names::ModuleNames;
use crate::adapter::{
    AdapterError, AdapterErrorCode as Code, AdapterLimits, Base, BottleneckInput, BottleneckNames,
    bottleneck_activation,
};
use crate::{Activation, ArchSpec, BlockSite, Site};

/// A bottleneck after one block.
#[derive(Debug)]
pub(in crate::adapter) struct BottleneckPlan<'a> {
    pub(in crate::adapter) site: BlockSite,
    pub(in crate::adapter) input: BottleneckInput,
    pub(in crate::adapter) activation: Activation,
    pub(in crate::adapter) scale: f32,
    pub(in crate::adapter) width: usize,
    /// Down, its bias, up, its bias.
    pub(in crate::adapter) tensors: [Piece<'a>; 4],
}

pub(super) fn effects<'a>(
    config: &BottleneckConfig,
    header: &'a SafeTensors,
    head: Option<&'a Head>,
    base: Base<'_>,
    limits: AdapterLimits,
) -> Result<Vec<EffectPlan<'a>>, AdapterError> {
    let spec = base.spec;
    check_base(config.base_hash, base.hash)?;
    check_fields(config, spec)?;
    let tensors = header.tensors();
    let inside = |name: &str, stack: &str| name.strip_prefix(stack).is_some_and(|rest| rest.starts_with('.'));
    let names = BottleneckNames::of(spec, &config.name, |stack| {
        tensors.keys().any(|name| inside(name, stack))
    })?;
    let mut reader = Reader {
        left: tensors.iter().map(|(name, info)| (name.as_str(), info)).collect(),
        hidden: spec.hidden_size,
    };
    let mut effects = Vec::new();
    for site in names.sites(config, spec) {
        let width = config.width(site.layer, spec.hidden_size);
        let width = width.map_err(|error| AdapterError::new(Code::Malformed, format_args!("{CONFIG}: {error}")))?;
        let Some(width) = width else { continue };
        check_rank(&site.to_string(), width, limits, CONFIG)?;
        effects.push(EffectPlan::Bottleneck(BottleneckPlan {
            site,
            input: BottleneckInput::of(config),
            activation: bottleneck_activation(&config.non_linearity)?,
            scale: config.scaling,
            width,
            tensors: reader.take(&names.tensors(site), width)?,
        }));
    }
    reader.finish()?;
    if let Some(head) = head {
        effects.extend(of_head(head, spec)?);
    }
    Ok(effects)
}

fn check_fields(config: &BottleneckConfig, spec: &ArchSpec) -> Result<(), AdapterError> {
    let expected = spec.hidden_size;
    if let Some(got) = config.hidden_size.filter(|got| *got != expected) {
        let message = format!("{CONFIG}: hidden_size: expected the base's {expected}, got {got}");
        return Err(AdapterError::new(Code::ShapeMismatch, message));
    }
    check_scale("every bottleneck", config.scaling, CONFIG)
}

/// Tensors that belong to nothing yet.
struct Reader<'a> {
    left: BTreeMap<&'a str, &'a TensorInfo>,
    hidden: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, names: &[String; 4], width: usize) -> Result<[Piece<'a>; 4], AdapterError> {
        let hidden = self.hidden;
        Ok([
            self.one(&names[0], &[width, hidden])?,
            self.one(&names[1], &[width])?,
            self.one(&names[2], &[hidden, width])?,
            self.one(&names[3], &[hidden])?,
        ])
    }

    /// Nothing may be left.
    fn finish(self) -> Result<(), AdapterError> {
        let Some((name, info)) = self.left.first_key_value() else {
            return Ok(());
        };
        let expected =
            "a tensor of a bottleneck that adapter_config.json asks for (name, mh_adapter, output_adapter, leave_out)";
        let got = format!("shape {:?}", info.shape);
        Err(refused(Code::UnmappedTensor, (WEIGHTS, name), expected, got))
    }

    fn one(&mut self, wanted: &str, shape: &[usize]) -> Result<Piece<'a>, AdapterError> {
        let Some((name, info)) = self.left.remove_entry(wanted) else {
            return Err(refused(
                Code::HalfPair,
                (WEIGHTS, wanted),
                "it, as adapter_config.json asks",
                "none",
            ));
        };
        of_shape(WEIGHTS, Tensor { name, info }, shape)
    }
}

fn of_shape<'a>(file: &str, tensor: Tensor<'a>, shape: &[usize]) -> Result<Piece<'a>, AdapterError> {
    let Tensor { name, info } = tensor;
    if !info.dtype.is_float() {
        return Err(refused(Code::Malformed, (file, name), "F32, F16 or BF16", info.dtype));
    }
    if info.shape != shape {
        let expected = format!("shape {shape:?}");
        return Err(refused(
            Code::ShapeMismatch,
            (file, name),
            &expected,
            format_args!("{:?}", info.shape),
        ));
    }
    Ok(tensor.whole())
}

fn refused(code: Code, (file, name): (&str, &str), expected: &str, got: impl std::fmt::Display) -> AdapterError {
    let message = format!("{file}: tensor {}: expected {expected}, got {got}", clipped(name));
    AdapterError::new(code, message)
}

/// The output layer takes the base's place; where the base ties it to its embedding, both are replaced, as the library does.
fn of_head<'a>(head: &'a Head, spec: &ArchSpec) -> Result<Vec<EffectPlan<'a>>, AdapterError> {
    let output = ModuleNames::of_family(&spec.family, |_| false).map_or("", |names| names.output);
    let expected = format!("{output}.weight");
    let mut found = None;
    for (name, info) in head.header.tensors() {
        if *name != expected {
            let expected = format!("{expected} alone: heads of other tasks than generating text are not served");
            return Err(refused(
                Code::UnmappedTensor,
                (HEAD, name),
                &expected,
                format_args!("shape {:?}", info.shape),
            ));
        }
        found = Some(of_shape(
            HEAD,
            Tensor { name, info },
            &[spec.vocab_size, spec.hidden_size],
        )?);
    }
    let values = found.ok_or_else(|| refused(Code::HalfPair, (HEAD, &expected), "it", "no tensor"))?;
    let sites = [Some(Site::Output), spec.tied_output.then_some(Site::Embedding)];
    let effects = sites.into_iter().flatten().map(|site| EffectPlan::Head {
        site,
        values: values.clone(),
    });
    Ok(effects.collect())
}
