//! Bottleneck adapters in AdapterHub's terms: the configuration that its library would write, and the tensors that one asks for.

use rootstock_decoder::{BottleneckTraining, FrozenModel, ParameterKind, Parameters, Trained};
use rootstock_formats::adapterhub::BottleneckConfig;
use rootstock_model::adapter::{BottleneckInput, BottleneckNames, bottleneck_activation};
use rootstock_model::{ArchSpec, ContentHash};
use serde_json::{Value, json};

use super::Attached;
use crate::{Random, TrainError};

/// Standard deviation of first weights: the library's `init_weights: bert`.
const DEVIATION: f32 = 0.02;
/// Our adapters' name, which is part of their tensors' names; the library can load them under any other.
const NAME: &str = "rootstock";

/// Where bottlenecks are and what they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BottleneckKind {
    /// After attention and after the feed-forward, of what these give (Houlsby et al., 2019).
    Houlsby,
    /// After the feed-forward, of the residual stream (Pfeiffer et al., 2020).
    Pfeiffer,
}

/// What is trained, in AdapterHub's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct BottleneckSettings {
    /// Which one.
    pub kind: BottleneckKind,
    /// `reduction_factor`
    pub reduction_factor: f64,
    /// `non_linearity`; the kind's own if there is none.
    pub non_linearity: Option<String>,
    /// `leave_out`
    pub left_out: Vec<usize>,
}

/// The configuration that the library would write for an adapter on a base of this architecture, and the hash of that base.
pub fn bottleneck_config(
    settings: &BottleneckSettings,
    spec: &ArchSpec,
    base_name: &str,
    base_hash: ContentHash,
) -> Value {
    let houlsby = settings.kind == BottleneckKind::Houlsby;
    let default = if houlsby { "swish" } else { "relu" };
    let (class, family) = match spec.family.as_str() {
        "mistral" => ("MistralForCausalLM", "mistral"),
        "qwen2" => ("Qwen2ForCausalLM", "qwen2"),
        "qwen3" => ("Qwen3ForCausalLM", "qwen3"),
        "gpt2" => ("GPT2LMHeadModel", "gpt2"),
        _ => ("LlamaForCausalLM", "llama"),
    };
    json!({
        "config": {
            "mh_adapter": houlsby,
            "output_adapter": true,
            "reduction_factor": settings.reduction_factor,
            "non_linearity": settings.non_linearity.as_deref().unwrap_or(default),
            "original_ln_before": !houlsby,
            "original_ln_after": true,
            "residual_before_ln": true,
            "adapter_residual_before_ln": false,
            "ln_before": false,
            "ln_after": false,
            "init_weights": "bert",
            "is_parallel": false,
            "scaling": 1.0,
            "use_gating": false,
            "cross_adapter": false,
            "inv_adapter": null,
            "leave_out": settings.left_out,
            "dropout": 0.0,
            "phm_layer": false,
        },
        "hidden_size": spec.hidden_size,
        "model_class": class,
        "model_name": base_name,
        "model_type": family,
        "name": NAME,
        "rootstock_base_hash": base_hash.to_string(),
        "version": "adapters.1.3.0",
    })
}

/// Makes the tensors of a configuration: weights normal around 0, biases 0, as the library begins.
///
/// # Errors
/// A base or a function without bottlenecks, or a configuration that puts none anywhere.
pub fn attach_bottlenecks(config: &BottleneckConfig, model: &FrozenModel, seed: u64) -> Result<Attached, TrainError> {
    let (spec, mut random) = (model.spec(), Random::new(seed, "first values of bottlenecks"));
    let refuse = |setting: &str, reason: String| TrainError::setting(setting, reason);
    let names = BottleneckNames::of(spec, &config.name, |_| false);
    let names = names.map_err(|error| refuse("method", error.message))?;
    let activation = bottleneck_activation(&config.non_linearity);
    let activation = activation.map_err(|error| refuse("non_linearity", error.message))?;
    if let Some(layer) = config.left_out().iter().find(|layer| **layer >= spec.layers.len()) {
        let reason = format!("expected layers below {}, got {layer}", spec.layers.len());
        return Err(refuse("leave_out", reason));
    }
    let (mut trained, mut parameters) = (Trained::default(), Parameters::default());
    for site in names.sites(config, spec) {
        let width = config.width(site.layer, spec.hidden_size);
        let width = width.map_err(|error| refuse("reduction_factor", error.to_string()))?;
        let Some(width) = width else { continue };
        let [down, down_bias, up, up_bias] = names.tensors(site);
        let mut weight = |name, shape: [usize; 2]| {
            let values = (0..shape[0] * shape[1]).map(|_| random.normal() * DEVIATION);
            parameters.add(name, ParameterKind::Weight, shape.to_vec(), values.collect())
        };
        let (down, up) = (
            weight(down, [width, spec.hidden_size]),
            weight(up, [spec.hidden_size, width]),
        );
        let mut bias = |name, width| parameters.add(name, ParameterKind::Bias, vec![width], vec![0.0; width]);
        let training = BottleneckTraining {
            input: BottleneckInput::of(config),
            activation,
            scale: config.scaling,
            down,
            down_bias: bias(down_bias, width),
            up,
            up_bias: bias(up_bias, spec.hidden_size),
        };
        trained.bottlenecks.insert(site, training);
    }
    if trained.bottlenecks.is_empty() {
        let reason = "every layer is left out: nothing would be trained".to_owned();
        return Err(refuse("leave_out", reason));
    }
    Ok(Attached { trained, parameters })
}
