//! What became of a model: a line per tensor and one for the whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rootstock_model::checkpoint::{Role, StoredTensor};
use rootstock_model::{Checkpoint, GroupLayout, Grouping};
use rootstock_optimize::quantize::TensorReport;
use rootstock_report::page::{document, heading, table};
use rootstock_report::quantity::{bytes, significant};
use rootstock_report::table::aligned;
use rootstock_report::{LinePlot, Mark, Scale, Series};
use serde_json::{Value, json};

use crate::commands::compare::Report;
use crate::settings::QuantizeSettings;

/// The file and its tensors.
pub struct Outcome {
    output: PathBuf,
    /// Bytes of the file.
    bytes: u64,
    /// Weights of all tensors.
    weights: u64,
    /// Each matrix with the name that it has in the file.
    tensors: Vec<(String, TensorReport)>,
    /// The file beside its source, where that was asked for.
    comparison: Option<Report>,
}

impl Outcome {
    /// Of a file that was written.
    ///
    /// # Errors
    /// It is gone.
    pub fn new(
        settings: &QuantizeSettings,
        checkpoint: &Checkpoint,
        (tensors, reports): (&[StoredTensor], Vec<TensorReport>),
        comparison: Option<Report>,
    ) -> Result<Self> {
        let output = settings.output.clone();
        let size = size(&output).with_context(|| format!("{} cannot be read", output.display()))?;
        let names = tensors
            .iter()
            .flat_map(|tensor| tensor.parts.iter().map(|&(role, _)| (role, tensor.name.clone())));
        let names: BTreeMap<Role, String> = names.collect();
        let elements = |role: Role| role.shape(checkpoint.spec()).iter().product::<usize>() as u64;
        Ok(Self {
            output,
            comparison,
            bytes: size,
            weights: names.keys().map(|&role| elements(role)).sum(),
            tensors: reports
                .into_iter()
                .map(|report| (names.get(&report.role).cloned().unwrap_or_default(), report))
                .collect(),
        })
    }

    /// Prints it.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self, as_json: bool) -> Result<()> {
        let mut out = io::stdout().lock();
        match as_json {
            true => writeln!(out, "{:#}", self.json())?,
            false => write!(out, "{}", self.table())?,
        }
        Ok(())
    }

    fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }

    fn table(&self) -> String {
        let (output, size, bits) = (self.output.display(), bytes(self.bytes), significant(self.bits()));
        let comparison = self.comparison.as_ref().map(|report| format!("\n{}", report.table()));
        let whole = format!("{output}: {size}, {bits} bits per weight");
        format!(
            "{}\n{whole}\n{}",
            aligned(&self.cells()),
            comparison.unwrap_or_default()
        )
    }

    /// A line per tensor, the header first.
    fn cells(&self) -> Vec<Vec<String>> {
        let known = self.tensors.iter().any(|(_, report)| report.output_error.is_some());
        let mut head = vec!["tensor", "type", "bits", "error"];
        head.extend(known.then_some("output error"));
        let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        rows.extend(self.tensors.iter().map(|(name, report)| {
            let bits = report.bytes as f64 * 8.0 / report.elements.max(1) as f64;
            let mut row = vec![
                name.clone(),
                report.dtype.to_string(),
                significant(bits),
                format!("{:.4}", report.error),
            ];
            row.extend(report.output_error.map(|error| format!("{error:.4}")));
            row
        }));
        rows
    }

    /// One HTML file: the errors of the tensors in their order, the file beside its source, and the tables.
    pub fn html(&self) -> String {
        let mut body = String::new();
        let title = format!("{} in {} bits", self.output.display(), significant(self.bits()));
        heading("Errors of the tensors", &mut body);
        let series = |name: &str, value: &dyn Fn(&TensorReport) -> Option<f64>| Series {
            name: name.to_owned(),
            mark: Mark::Dots,
            points: (0..)
                .map(f64::from)
                .zip(&self.tensors)
                .filter_map(|(at, (_, report))| Some((at, value(report)?)))
                .collect(),
        };
        let plot = LinePlot {
            title: "Root of the squared error over the squares".to_owned(),
            x_label: "tensor, in the order of the file".to_owned(),
            x_scale: Scale::Linear,
            series: vec![
                series("weights", &|report| Some(report.error)),
                series("outputs", &|report| report.output_error),
            ],
        };
        body.push_str(&plot.svg());
        if let Some(comparison) = &self.comparison {
            comparison.show(&mut body);
        }
        heading("Tensors", &mut body);
        table(&self.cells(), &mut body);
        document(&title, &body)
    }

    fn json(&self) -> Value {
        let tensors = self.tensors.iter().map(|(name, report)| {
            json!({
                "name": name,
                "type": report.dtype.to_string(),
                "elements": report.elements,
                "bytes": report.bytes,
                "error": report.error,
                "output_error": report.output_error,
            })
        });
        json!({
            "output": self.output,
            "bytes": self.bytes,
            "bits_per_weight": self.bits(),
            "tensors": tensors.collect::<Vec<_>>(),
            "comparison": self.comparison.as_ref().map(Report::json),
        })
    }
}

/// Bytes of a file, or of the weights of a folder.
fn size(output: &Path) -> io::Result<u64> {
    if output.is_file() {
        return Ok(fs::metadata(output)?.len());
    }
    let mut bytes = 0;
    for entry in fs::read_dir(output)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|kind| kind == "safetensors") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// The model card of a folder.
pub fn card(settings: &QuantizeSettings, grouping: &Grouping) -> String {
    let source = &settings.model.name;
    let name = settings.output.file_name().unwrap_or_default().to_string_lossy();
    let layout = match grouping.layout {
        GroupLayout::CompressedTensors => "compressed-tensors",
        GroupLayout::Gptq => "GPTQ",
    };
    let zero = if grouping.symmetric {
        "around zero"
    } else {
        "with zero points"
    };
    format!(
        "---\nbase_model: {}\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- rootstock\n---\n\n# {name}\n\n{source} \
         with the maps of its layers in {} bits {zero}, {} inputs to a scale, in the layout of {layout}; quantized with rootstock {}.\n",
        json!(source),
        grouping.bits,
        grouping.group_size,
        env!("CARGO_PKG_VERSION"),
    )
}
