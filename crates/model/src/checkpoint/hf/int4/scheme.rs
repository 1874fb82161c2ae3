//! How a checkpoint is quantized: `quantization_config`, or the file of its own that older tools wrote.

use serde_json::Value;

use super::super::super::Refusal;
use super::super::fields::Fields;
use super::super::fields::Literal::{self, Integer, Text, Truth};
use super::layout::Bits;

/// How the quantized modules of a checkpoint are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Scheme {
    pub(in super::super) layout: Layout,
    /// Bits of a code.
    pub(super) bits: Bits,
    /// Inputs that share a scale; `None` for all of them.
    pub(super) group_size: Option<usize>,
    /// Every zero point is the middle of the codes.
    pub(super) symmetric: bool,
    /// The file must list the group of each input.
    pub(super) ordered: bool,
}

/// Which tensors a module has, and how they are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Layout {
    /// GPTQ.
    Gptq {
        /// Zero points were stored minus one (the first format).
        minus_one: bool,
    },
    /// AWQ, as its GEMM kernels take it.
    Awq,
    /// compressed-tensors' `pack-quantized`.
    Packed,
}

impl Layout {
    pub(in super::super) fn codes(self) -> &'static str {
        match self {
            Self::Gptq { .. } | Self::Awq => "qweight",
            Self::Packed => "weight_packed",
        }
    }

    pub(super) fn scales(self) -> &'static str {
        match self {
            Self::Gptq { .. } | Self::Awq => "scales",
            Self::Packed => "weight_scale",
        }
    }

    pub(super) fn zeros(self) -> Option<&'static str> {
        match self {
            Self::Gptq { .. } | Self::Awq => Some("qzeros"),
            Self::Packed => Some("weight_zero_point"),
        }
    }

    /// The group of each input.
    pub(super) fn order(self) -> Option<&'static str> {
        match self {
            Self::Gptq { .. } => Some("g_idx"),
            Self::Awq => None,
            Self::Packed => Some("weight_g_idx"),
        }
    }

    /// The shape, repeated.
    pub(super) fn shape(self) -> Option<&'static str> {
        (self == Self::Packed).then_some("weight_shape")
    }
}

/// Files in which older tools describe a quantization, and their method.
pub(in super::super) const LEGACY_FILES: [(&str, &str); 2] =
    [("quantize_config.json", "gptq"), ("quant_config.json", "awq")];

/// Methods that are read.
pub(in super::super) const METHODS: [&str; 3] = ["gptq", "awq", "compressed-tensors"];

/// Fields of GPTQ and AWQ that say how the codes were found, not what they mean.
const INERT: &[&str] = &[
    "_attn_implementation",
    "act_group_aware",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "desc_act",
    "disable_exllama",
    "do_fuse",
    "exllama_config",
    "fuse_max_seq_len",
    "lm_head",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_fuse",
    "modules_to_not_convert",
    "mse",
    "offload_to_disk",
    "pad_token_id",
    "static_groups",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
];

/// Fields that mean another encoding at other values than these.
const FIXED: &[(&str, Literal)] = &[
    ("pack_dtype", Text("int32")),
    ("is_marlin_format", Truth(false)),
    ("awq_gemm_checkpoint", Truth(false)),
];

impl Scheme {
    /// Number of groups of `inputs` inputs.
    pub(super) fn groups(&self, inputs: usize) -> usize {
        self.group_size.map_or(1, |size| inputs.div_ceil(size))
    }

    /// What `fields` describe.
    ///
    /// # Errors
    /// Methods and encodings that are not read, by name.
    pub(in super::super) fn read(fields: &Fields) -> Result<Self, Refusal> {
        match fields.text("quant_method")? {
            "gptq" => Self::gptq(fields),
            "awq" => Self::awq(fields),
            "compressed-tensors" => Self::compressed_tensors(fields),
            other => Err(fields.unsupported("quant_method", format_args!("{other:?}"), METHODS.join(", "))),
        }
    }

    fn gptq(fields: &Fields) -> Result<Self, Refusal> {
        let (new, old) = ("checkpoint_format", "format");
        let formats = (fields.optional_text(new)?, fields.optional_text(old)?);
        if let (Some(one), Some(other)) = formats
            && one != other
        {
            return Err(fields.contradiction(old, format_args!("{other:?}"), new));
        }
        let field = if formats.0.is_some() { new } else { old };
        let layout = match formats.0.or(formats.1).unwrap_or("gptq") {
            "gptq" => Layout::Gptq { minus_one: true },
            "gptq_v2" => Layout::Gptq { minus_one: false },
            other => return Err(fields.unsupported(field, format_args!("{other:?}"), "gptq, gptq_v2")),
        };
        let scheme = Self {
            layout,
            bits: bits(fields, "bits")?,
            group_size: group_size(fields)?,
            symmetric: fields.flag("sym")?,
            ordered: fields.flag("desc_act")?,
        };
        refuse_filled(fields, "dynamic")?;
        refuse_filled(fields, "adapter")?;
        fields.refuse_unread(FIXED, &[INERT])?;
        Ok(scheme)
    }

    fn awq(fields: &Fields) -> Result<Self, Refusal> {
        for field in ["version", "format"] {
            match fields.optional_text(field)?.map(str::to_lowercase).as_deref() {
                None | Some("gemm") => {}
                Some(other) => return Err(fields.unsupported(field, format_args!("{other:?}"), "gemm")),
            }
        }
        if fields.optional_text("backend")? == Some("llm-awq") {
            return Err(fields.unsupported("backend", "llm-awq", "the layout of autoawq"));
        }
        let scheme = Self {
            layout: Layout::Awq,
            bits: Bits::Four,
            group_size: group_size(fields)?,
            symmetric: fields.value("zero_point").is_some() && !fields.flag("zero_point")?,
            ordered: false,
        };
        refuse_filled(fields, "dynamic")?;
        fields.size("bits")?;
        fields.refuse_unread(&[FIXED, &[("bits", Integer(4))]].concat(), &[INERT, &["sym"]])?;
        Ok(scheme)
    }

    fn compressed_tensors(fields: &Fields) -> Result<Self, Refusal> {
        let groups = fields.required("config_groups", fields.object("config_groups")?)?;
        let mut scheme = None;
        for name in groups.names() {
            let group = groups.required(&name, groups.object(&name)?)?;
            let found = packed_scheme(&group)?;
            if scheme.is_some_and(|scheme| scheme != found) {
                return Err(groups.unsupported(
                    &name,
                    "a group that is quantized otherwise",
                    "the same for all groups",
                ));
            }
            scheme = Some(found);
        }
        for (field, format) in [("sparsity_config", "dense"), ("transform_config", "")] {
            refuse_other_than(fields, field, format)?;
        }
        fields.text("format")?;
        fields.refuse_unread(
            &[
                ("format", Text("pack-quantized")),
                ("quantization_status", Text("compressed")),
            ],
            &[&["ignore", "global_compression_ratio", "version"]],
        )?;
        fields.required("config_groups", scheme)
    }
}

/// What an entry of `config_groups` describes.
fn packed_scheme(group: &Fields) -> Result<Scheme, Refusal> {
    let weights = group.required("weights", group.object("weights")?)?;
    let size = group_size(&weights)?;
    let strategy = weights
        .optional_text("strategy")?
        .unwrap_or(if size.is_some() { "group" } else { "channel" });
    match (strategy, size) {
        ("group", Some(_)) | ("channel", None) => {}
        _ => {
            let got = format!("{strategy:?} with a group size of {size:?}");
            return Err(weights.unsupported("strategy", got, "group with a size, channel without"));
        }
    }
    let symmetric = weights.value("symmetric").is_none() || weights.flag("symmetric")?;
    let ordered = match weights.value("actorder") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::String(order)) if ["weight", "static"].contains(&order.as_str()) => false,
        Some(Value::String(order)) if ["group", "dynamic"].contains(&order.as_str()) => true,
        Some(Value::Bool(true)) => true,
        Some(other) => return Err(weights.unsupported("actorder", other, "weight, static, group, dynamic")),
    };
    let bits = bits(&weights, "num_bits")?;
    weights.refuse_unread(
        &[("type", Text("int")), ("dynamic", Truth(false))],
        &[&["observer", "observer_kwargs", "scale_dtype", "zp_dtype"]],
    )?;
    // Quantized activations would change the numbers, and are not null.
    group.refuse_unread(&[("format", Text("pack-quantized"))], &[&["targets"]])?;
    Ok(Scheme {
        layout: Layout::Packed,
        bits,
        group_size: size,
        symmetric,
        ordered,
    })
}

fn bits(fields: &Fields, field: &str) -> Result<Bits, Refusal> {
    match fields.size(field)? {
        4 => Ok(Bits::Four),
        8 => Ok(Bits::Eight),
        other => Err(fields.unsupported(field, other, "4, 8")),
    }
}

/// Inputs per scale; -1 stands for all of them, and so does nothing.
fn group_size(fields: &Fields) -> Result<Option<usize>, Refusal> {
    match fields.value("group_size") {
        Some(value) if value.as_i64() == Some(-1) => Ok(None),
        _ => fields.optional_size("group_size"),
    }
}

/// Refuses an object or a list with content.
fn refuse_filled(fields: &Fields, field: &str) -> Result<(), Refusal> {
    match fields.value(field) {
        Some(value) if !is_empty(value) => Err(fields.unsupported(field, value, "nothing")),
        _ => Ok(()),
    }
}

/// Refuses an object with content, but for one whose `format` is the one that means nothing.
fn refuse_other_than(fields: &Fields, field: &str, format: &str) -> Result<(), Refusal> {
    let Some(value) = fields.value(field) else {
        return Ok(());
    };
    let nothing = value.get("format").is_some_and(|found| found == format)
        || value.as_object().is_some_and(|object| object.values().all(is_empty));
    if nothing {
        Ok(())
    } else {
        Err(fields.unsupported(field, value, "nothing"))
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}
