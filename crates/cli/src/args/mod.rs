//! What can be typed: one struct per command, parsed ([`mod@parse`]) and not yet validated (that is [`crate::settings`]).
//! Every option is also an environment variable and a key of the command's `--config` file, see [`mod@file`].

mod artefacts;
mod compare;
mod dataset;
mod device;
mod eval;
mod file;
mod finetune;
mod inspect;
mod parse;
mod pull;
mod quantize;
mod search;
mod serve;
#[cfg(test)]
mod tests;
mod variants;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::ByteSize;
pub use artefacts::{BlendMethod, ConvertAdapterArgs, ExtractArgs, MergeArgs, OutputArgs, StoredType};
pub use compare::CompareArgs;
pub use dataset::{CheckArgs, DataCommand, PreviewArgs, RowsArgs, Truncate};
pub use device::Device;
pub use eval::{EvalArgs, Metric};
pub use finetune::{
    AdapterArgs, Biases, FinetuneArgs, Method, Optimizer, Precision, QuantType, RecordArgs, ReportTo, SaveDtype,
    TrainingArgs,
};
pub use inspect::InspectArgs;
pub use parse::parse;
pub use pull::PullArgs;
pub use quantize::{QuantizeArgs, QuantizedFormat, RoundingMethod};
pub use search::{SearchArgs, StrategyName};
pub use serve::ServeArgs;
pub use variants::{Space, Task};

use parse::command;

const OVERVIEW: &str = "\
Example:
  rootstock pull smollm2-135m-instruct
  rootstock serve --model smollm2-135m-instruct --adapters models/demo

Exit codes: 0 done, 1 failed, 2 wrong usage or settings.
Every option of serve, generate, chat, eval, compare, quantize, finetune, search, merge and extract can also be set as ROOTSTOCK_<OPTION> in
the environment or as <option> in the file given with --config; a flag wins over the environment, the environment over the file.
ROOTSTOCK_LOG sets the log level (error, warn, info, debug, or per module as in info,rootstock_engine=debug).";

/// One quantized base model, any number of LoRA adapters, each request on its own.
#[derive(Debug, Parser)]
#[command(name = "rootstock", version, after_help = OVERVIEW)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a base model and its adapters over the OpenAI API
    #[command(after_help = "\
Example:
  rootstock serve --model smollm2-135m-instruct --adapters models/demo
  curl http://127.0.0.1:8000/v1/models

SIGTERM and SIGINT let running requests finish and refuse new ones; a second signal ends at once.")]
    Serve(ServeArgs),
    /// Fetch a model of the catalog, verified and resumable
    #[command(after_help = "\
Examples:
  rootstock pull smollm2-135m-instruct
  rootstock pull --list
  rootstock pull gemma3-270m --accept-licence

The sources of an entry are tried in order until one gives a file with the right checksum. HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE and the hub's cache are honoured, and pip's own configuration decides where wheels come from.
Exit codes: 0 the model is there, 1 no source gave it, 2 wrong usage.")]
    Pull(PullArgs),
    /// Generate once and exit
    #[command(after_help = "\
Examples:
  rootstock generate --model smollm2-135m-instruct --chat -p 'Name three apples.'
  echo 'The captain looked at the sea and' | rootstock generate --model smollm2-135m-instruct --adapter models/demo/moby-dick")]
    Generate(GenerateArgs),
    /// Talk to a model in the terminal
    #[command(after_help = "\
Examples:
  rootstock chat --model smollm2-135m-instruct --adapters models/demo
  rootstock chat --url http://127.0.0.1:8000

In the conversation: /adapter NAME switches, /adapter alone goes back to the base, /help lists the rest.")]
    Chat(ChatArgs),
    /// Look at data for training before a run: its tokens with their loss mask, and what is wrong with it
    #[command(subcommand)]
    Data(DataCommand),
    /// Measure models and adapters on a file of examples
    #[command(after_help = "\
Examples:
  rootstock eval --model smollm2-135m-instruct --adapter models/demo/spam-filter --data-name mails.csv --labels ' spam, ham'
  rootstock eval --model f16.gguf --model q4.gguf --data-name book.txt --fail-above perplexity=60

Perplexity, accuracy and F1 come from log-probabilities; exact-match, bleu (as sacrebleu) and rouge (as rouge-score, without its
stemmer unless --use-stemmer) from a greedy generation per example. The rows have the columns that fine-tuning takes: prompt and
completion, input and output, messages, text, or any with --text-template.
Exit codes: 0 measured and within --fail-below and --fail-above, 1 not, 2 wrong usage.")]
    Eval(EvalArgs),
    /// Measure how far models and adapters are from a source, on a text
    #[command(after_help = "\
Examples:
  rootstock compare f16.gguf q8.gguf q4.gguf --text book.txt --html compare.html
  rootstock compare smollm2-135m-instruct smollm2-135m-instruct+models/demo/moby-dick --text book.txt
  rootstock compare f16.gguf q4.gguf --text book.txt --activations auto --max-kl 0.05

KL is that of the source's next-token distribution from the model's, in nats, at every token of the text; top-1 is the share of
tokens that both find likeliest. Speeds are those of serving on one sequence, alone on the machine.
Exit codes: 0 compared and within --max-kl, 1 not, 2 wrong usage.")]
    Compare(CompareArgs),
    /// Train an adapter, or a model
    #[command(after_help = "\
Examples:
  rootstock finetune --model smollm2-135m-instruct --data-name mails.csv --output my-adapter
  rootstock finetune --model smollm2-135m-instruct --data-name mails.csv --output my-adapter --dry-run
  rootstock serve --model smollm2-135m-instruct --adapters .

The output folder is an adapter that serve, generate, eval and peft read; with --method full it holds a model.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings.")]
    Finetune(Box<FinetuneArgs>),
    /// Train adapters with different settings and keep the best
    #[command(after_help = "\
Examples:
  rootstock search --config configs/search.toml
  rootstock search --config configs/search.toml --trials 40

The settings file has what `finetune` takes, a table [search_space.OPTION] for each option that is searched over (type = \"float\",
\"int\" or \"choice\"; low, high and log, or values), and the options below in [search]. A search that was stopped goes on.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings.")]
    Search(Box<SearchArgs>),
    /// Write a model in fewer bits
    #[command(after_help = "\
Examples:
  rootstock quantize --model ./my-model --output my-model.q4_k_m.gguf
  rootstock quantize --model ./my-model --output my-model.q4_0.gguf --type q4_0 --calibration book.txt
  rootstock quantize --model ./my-model --output m.gguf --type q4_k --tensor-type output=q8_0 --tensor-type 'blk.0.*=q6_k'

Weights are read, rounded and written tensor by tensor; with a calibration text layer by layer. What the source keeps in the same
type already is rounded again to the same values.
Exit codes: 0 written, 1 failed, 2 wrong usage; an output that was there is untouched unless 0.")]
    Quantize(QuantizeArgs),
    /// Look at a model or an adapter: what it is, what it holds, and why it would be refused
    #[command(after_help = "\
Examples:
  rootstock inspect smollm2-135m-instruct
  rootstock inspect model-00001-of-00002.gguf --tensors
  rootstock inspect models/demo/moby-dick --model smollm2-135m-instruct

An adapter is checked against a base that --model names, values included. A refusal is the one that serving gives.
Exit codes: 0 it would be opened, 1 it would be refused or is neither, 2 wrong usage.")]
    Inspect(InspectArgs),
    /// Make adapters part of a model's weights
    #[command(after_help = "\
Examples:
  rootstock merge --model smollm2-135m-instruct --adapter models/demo/moby-dick --output merged
  rootstock merge --model base --adapter a=0.7 --adapter b=0.3 --method ties --density 0.5 --output merged
  rootstock merge --model base --adapter a --output merged.gguf --type q8_0

The result is a Hugging Face folder with tokenizer, chat template and a card, or a GGUF file. A base that is quantized is decoded: the
result is in the type of --dtype or --type, never rounded back by itself. Everything that is linear is merged: LoRA, rsLoRA, DoRA, biases, modules_to_save;
embedding and output layer are untied where an adapter changes one of them. Bottlenecks are refused.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings.")]
    Merge(MergeArgs),
    /// Take the difference of two models out as an adapter
    #[command(after_help = "\
Examples:
  rootstock extract --model base --tuned tuned --rank 32 --output adapter
  rootstock extract --model base --tuned tuned --target-modules q_proj v_proj --save-rest --output adapter

The largest singular values of what each linear map gained become pairs. What no pair can hold is told, and kept whole with
--save-rest.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings.")]
    Extract(ExtractArgs),
    /// Turn a PEFT adapter into a GGUF file, or a GGUF file into a PEFT adapter
    #[command(after_help = "\
Examples:
  rootstock convert-adapter models/demo/moby-dick moby-dick.gguf --model smollm2-135m-instruct --type q8_0
  rootstock convert-adapter moby-dick.gguf moby-dick --model smollm2-135m-instruct

rsLoRA and alpha_pattern become part of B; DoRA, biases and modules_to_save have no place in a GGUF adapter and are refused.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings.")]
    ConvertAdapter(ConvertAdapterArgs),
    /// Print what models and adapters are served, converted or refused
    #[command(after_help = "\
Examples:
  rootstock support > docs/SUPPORT.md
  rootstock support --json")]
    Support(SupportArgs),
}

/// The base model and where models are kept.
#[derive(Debug, Clone, Default, Args)]
pub struct ModelArgs {
    /// GGUF file (any part of a split one), Hugging Face folder, or name of a pulled model
    #[arg(long, value_name = "PATH|NAME", aliases = ["model-name-or-path", "model-path"])]
    pub model: Option<String>,
    /// Folder of pulled models [default: rootstock/models in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub models_dir: Option<PathBuf>,
    /// Catalog to use in place of the built-in one
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
}

/// How the base is run.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Worker threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Longest sequence in tokens [default: what the model was trained for]
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<usize>,
    /// Memory for keys and values of all sequences
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub kv_memory: ByteSize,
    /// Memory for resident adapters
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    pub adapter_memory: ByteSize,
    /// Refuse adapters of a higher rank
    #[arg(long, value_name = "RANK", default_value_t = 64)]
    pub max_lora_rank: usize,
    /// Precision of activations in quantized products. `auto` is int16-prompts on CPUs with tile registers (AMX), else int8;
    /// f32 is slow and for checking
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Activations::Auto)]
    pub activations: Activations,
    /// Bits of the weights: those stored as F32, F16 or BF16 are quantized while loading; already quantized ones stay as
    /// they are, but for nf4
    #[arg(long, value_name = "BITS", value_enum, default_value_t = Quantize::None)]
    pub quantize: Quantize,
    /// Round the output projection to 4 bits, whatever it is stored in: a generated token reads the less, and is chosen a
    /// little less well
    #[arg(long)]
    pub four_bit_output: bool,
}

/// How weights are quantized while they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quantize {
    /// As they are stored
    None,
    /// 8 bits and a scale per 32 weights
    #[value(name = "8")]
    Eight,
    /// 4 bits and a scale per 32 weights; embedding and output in 8
    #[value(name = "4")]
    Four,
    /// As adapters with `--quant-type nf4` are trained: all maps in NF4, embedding and output as they are
    Nf4,
}

/// Precision of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    /// What is fastest on this CPU
    Auto,
    /// Rounded to int8 per block of 32
    Int8,
    /// As int8, but those of prompts to 16 bits per group of 256
    #[value(name = "int16-prompts")]
    Int16Prompts,
    /// Kept in f32
    F32,
}

/// How tokens are chosen. What is left out is the adapter's own default, else the one shown.
#[derive(Debug, Clone, Default, Args)]
pub struct SamplingArgs {
    /// Most tokens to generate [default: the adapter's own, else 256]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// 0 takes the most likely token [default: the adapter's own, else 0]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Smallest set of most likely tokens whose probability reaches this [default: the adapter's own, else 1]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Only this many most likely tokens [default: the adapter's own, else all]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Only tokens at least this likely relative to the most likely one [default: the adapter's own, else 0]
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Subtracted from the logit of every token generated so far [default: the adapter's own, else 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted per occurrence among the generated tokens [default: the adapter's own, else 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Divides the logits of tokens that occurred; 1 is none [default: the adapter's own, else 1]
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,
    /// Start of the random sequence [default: the adapter's own, else from the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End at this text (repeatable) [default: the adapter's own]
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

/// Arguments of `support`.
#[derive(Debug, Clone, Args)]
pub struct SupportArgs {
    /// Print JSON in place of Markdown
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub run: RunArgs,
    /// PEFT folder or GGUF file of an adapter to apply, or its name in the folder of --adapters
    #[arg(long, value_name = "DIR|NAME")]
    pub adapter: Option<PathBuf>,
    /// Folder with a subfolder or GGUF file per adapter
    #[arg(long, value_name = "DIR")]
    pub adapters: Option<PathBuf>,
    /// Factor on the adapter's effect
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub adapter_scale: f32,
    /// What to continue [default: standard input]
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Send the prompt as a user's message through the chat template
    #[arg(long)]
    pub chat: bool,
    /// System message; needs --chat
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Print one JSON object at the end in place of streaming text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Arguments of `chat`.
#[derive(Debug, Clone, Args)]
pub struct ChatArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub run: RunArgs,
    /// Folder with a subfolder or GGUF file per adapter
    #[arg(long, value_name = "DIR")]
    pub adapters: Option<PathBuf>,
    /// Talk to a running server; no model is loaded then
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Bearer token for --url
    #[arg(long, value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Adapter to start with
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// System message to start with
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
