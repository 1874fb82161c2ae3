//! How text is cut into words before bytes are merged: GGUF names the recipes that tokenizer.json spells out.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, SplitDelimiterBehavior};

use crate::ModelError;

/// How text is cut into words before bytes are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// GPT-2's words.
    Gpt2,
    /// GPT-2's words, composed letters first (Unicode NFC).
    Gpt2Composed,
    /// Every digit alone, then GPT-2's words.
    DigitsThenGpt2,
    /// As [`Self::DigitsThenGpt2`], composed letters first.
    DigitsThenGpt2Composed,
    /// Llama 3's words: numbers in threes, and words of the vocabulary taken whole.
    Llama3,
    /// Llama 3's words, always by merging (Phi-4).
    Llama3Merged,
    /// Qwen's words: every digit alone; composed letters first.
    Qwen2,
    /// Qwen's words without composing.
    Qwen2Distilled,
    /// Mistral Nemo's words.
    Tekken,
    /// GPT-4o's words.
    Gpt4o,
    /// DeepSeek's first language models.
    DeepSeekLlm,
    /// DeepSeek Coder.
    DeepSeekCoder,
    /// DeepSeek V3 and R1.
    DeepSeek3,
    /// Falcon.
    Falcon,
}

/// One step of a recipe.
enum Step {
    /// Every digit is a word.
    Digits,
    /// Runs of punctuation are words.
    Punctuation,
    /// What the expression matches is a word, and so is what lies between.
    Split(&'static str),
    /// GPT-2's words.
    Gpt2,
}

/// A recipe.
struct Recipe {
    composed: bool,
    /// A word that is a token is not merged from its bytes.
    words_whole: bool,
    steps: &'static [Step],
}

/// What `tokenizer.ggml.pre` may name, by what it means.
pub const SUPPORTED_PRE_TOKENIZERS: [(Cut, &[&str]); 14] = [
    (Cut::Gpt2, &["gpt-2", "phi-2"]),
    (Cut::Gpt2Composed, &["mpt", "olmo"]),
    (Cut::DigitsThenGpt2, &["smollm", "starcoder", "refact"]),
    (Cut::DigitsThenGpt2Composed, &["command-r"]),
    (
        Cut::Llama3,
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
    ),
    (Cut::Llama3Merged, &["dbrx", "smaug-bpe"]),
    (Cut::Qwen2, &["qwen2"]),
    (Cut::Qwen2Distilled, &["deepseek-r1-qwen"]),
    (Cut::Tekken, &["tekken"]),
    (Cut::Gpt4o, &["gpt-4o", "llama4", "kanana2", "minimax-m2"]),
    (Cut::DeepSeekLlm, &["deepseek-llm"]),
    (Cut::DeepSeekCoder, &["deepseek-coder"]),
    (Cut::DeepSeek3, &["deepseek-v3"]),
    (Cut::Falcon, &["falcon"]),
];

const LLAMA3: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*\
    |\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN2: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*\
    |\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const TEKKEN: &str = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+\
    |[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}\
    | ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const GPT4O: &str = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve\
    |'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s\
    |'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const DEEPSEEK3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+\
    | ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
/// Letters that have case.
const CASED_LETTERS: &str = "\\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}\
    \u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\
    \u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\
    \u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\
    \u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\
    \u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\
    \u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\
    \u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\
    \u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\
    \u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\
    \u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\
    \u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\
    \u{1E943}]+";

const fn plain(steps: &'static [Step]) -> Recipe {
    Recipe {
        composed: false,
        words_whole: false,
        steps,
    }
}

const fn composed(steps: &'static [Step]) -> Recipe {
    Recipe {
        composed: true,
        words_whole: false,
        steps,
    }
}

const fn whole(steps: &'static [Step]) -> Recipe {
    Recipe {
        composed: false,
        words_whole: true,
        steps,
    }
}

impl Cut {
    /// The way of cutting that GGUF's `tokenizer.ggml.pre` names; `None` if it is not supported.
    pub fn from_gguf_name(name: &str) -> Option<Self> {
        let known = SUPPORTED_PRE_TOKENIZERS.iter().find(|(_, names)| names.contains(&name));
        known.map(|&(cut, _)| cut)
    }

    /// Every name that [`Cut::from_gguf_name`] knows.
    pub fn gguf_names() -> impl Iterator<Item = &'static str> {
        SUPPORTED_PRE_TOKENIZERS
            .iter()
            .flat_map(|(_, names)| names.iter().copied())
    }

    /// Whether a file that does not say so wants a beginning of sequence.
    pub(super) fn begins_by_default(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Whether a word that is a token is not merged from its bytes.
    pub(super) fn takes_words_whole(self) -> bool {
        self.recipe().words_whole
    }

    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        self.recipe().composed.then(|| NFC.into())
    }

    pub(super) fn steps(self) -> Result<PreTokenizerWrapper, ModelError> {
        let steps = self.recipe().steps;
        let words = |cut: bool| PreTokenizerWrapper::from(ByteLevel::new(false, true, cut));
        let mut sequence = steps
            .iter()
            .map(|step| match step {
                Step::Digits => Ok(Digits::new(true).into()),
                Step::Punctuation => Ok(Punctuation::new(SplitDelimiterBehavior::Contiguous).into()),
                Step::Gpt2 => Ok(words(true)),
                Step::Split(expression) => isolated(expression),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if !steps.iter().any(|step| matches!(step, Step::Gpt2)) {
            sequence.push(words(false));
        }
        Ok(Sequence::new(sequence).into())
    }

    fn recipe(self) -> Recipe {
        match self {
            Self::Gpt2 => plain(&[Step::Gpt2]),
            Self::Gpt2Composed => composed(&[Step::Gpt2]),
            Self::DigitsThenGpt2 => plain(&[Step::Digits, Step::Gpt2]),
            Self::DigitsThenGpt2Composed => composed(&[Step::Digits, Step::Gpt2]),
            Self::Llama3 => whole(&[Step::Split(LLAMA3)]),
            Self::Llama3Merged => plain(&[Step::Split(LLAMA3)]),
            Self::Qwen2 => composed(&[Step::Split(QWEN2)]),
            Self::Qwen2Distilled => plain(&[Step::Split(QWEN2)]),
            Self::Tekken => whole(&[Step::Split(TEKKEN)]),
            Self::Gpt4o => plain(&[Step::Split(GPT4O)]),
            Self::DeepSeekLlm => plain(&[
                Step::Split("[\r\n]"),
                Step::Split(CASED_LETTERS),
                Step::Split("\\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+"),
                Step::Split("\\s+$"),
                Step::Split("[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+"),
                Step::Digits,
            ]),
            Self::DeepSeekCoder => plain(&[
                Step::Split("[\r\n]"),
                Step::Split("\\s?\\p{L}+"),
                Step::Split("\\s?\\p{P}+"),
                Step::Split("[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+"),
                Step::Digits,
            ]),
            Self::DeepSeek3 => plain(&[
                Step::Split("\\p{N}{1,3}"),
                Step::Split("[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"),
                Step::Split(DEEPSEEK3),
            ]),
            Self::Falcon => plain(&[Step::Punctuation, Step::Gpt2, Step::Split("[0-9][0-9][0-9]")]),
        }
    }
}

fn isolated(expression: &str) -> Result<PreTokenizerWrapper, ModelError> {
    let pattern = SplitPattern::Regex(expression.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map(Into::into)
        .map_err(|error| ModelError::Text(format!("tokenizer: {error}")))
}
