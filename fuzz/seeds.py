"""Writes the seed inputs of the fuzz targets; they are committed, so this runs only when a seed is added or changed."""

import json
import pathlib
import struct

SEEDS = pathlib.Path(__file__).parent / "seeds"


def write(target, name, content):
    (SEEDS / target).mkdir(parents=True, exist_ok=True)
    (SEEDS / target / name).write_bytes(content)


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(version, pairs, tensors, data):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    for name, dims, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return head + bytes(-len(head) % 32) + (data if isinstance(data, bytes) else bytes(data))


def array(kind, count, items):
    return struct.pack("<IQ", kind, count) + items


SCALARS = [
    (f"scalar.{kind}", kind, struct.pack("<" + code, 1))
    for kind, code in enumerate("BbHhIif?")
] + [("scalar.10", 10, struct.pack("<Q", 1)), ("scalar.11", 11, struct.pack("<q", 1)), ("scalar.12", 12, struct.pack("<d", 1))]
MODEL = [
    ("general.architecture", 8, text("llama")),
    ("general.alignment", 4, struct.pack("<I", 32)),
    ("llama.block_count", 4, struct.pack("<I", 1)),
    ("tokenizer.ggml.tokens", 9, array(8, 3, text("a") + text("bc") + text(""))),
    ("tokenizer.ggml.scores", 9, array(6, 2, struct.pack("<ff", 0, -1))),
    ("nested", 9, array(9, 2, array(0, 1, b"\1") + array(9, 1, array(7, 1, b"\0")))),
]
TENSORS = [("token_embd.weight", [32, 2], 3, 0), ("blk.0.attn_norm.weight", [8], 0, 64), ("output.weight", [32, 1], 8, 96)]
write("gguf", "model-v3", gguf(3, MODEL, TENSORS, 160))
write("gguf", "scalars-v2", gguf(2, SCALARS, [], 0))
write("gguf", "tensor-only", gguf(3, [], [("w", [4, 2, 2], 1, 0)], 32))


def safetensors(header, data):
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(data)


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
PAIR = {
    "__metadata__": {"format": "pt"},
    f"{MODULE}.lora_A.weight": entry("BF16", [2, 8], 0, 32),
    f"{MODULE}.lora_B.weight": entry("F32", [8, 2], 32, 96),
}
write("safetensors_header", "pair", safetensors(PAIR, 96))
write("safetensors_header", "scalar", safetensors({"s": entry("F16", [], 0, 2)}, 2))
write("safetensors_header", "empty", safetensors({}, 0))

LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
OFF = ["use_dora", "modules_to_save", "eva_config", "arrow_config", "layer_replication", "target_parameters"]
PATTERNS = {
    "use_rslora": True,
    "rank_pattern": {"down_proj": 4, "^model.layers.0.mlp.up_proj": 2, r"layers\.\d+\..*": 16},
    "alpha_pattern": {"(q|k)_proj": 24.5},
    "layers_to_transform": [0, 3],
    "layers_pattern": ["layers", "h"],
    "exclude_modules": r".*\.3\.mlp\..*",
    "rootstock_base_hash": "ab" * 32,
}
write("adapter_config", "plain.json", json.dumps(LORA | dict.fromkeys(OFF), indent=2).encode())
write("adapter_config", "patterns.json", json.dumps(LORA | PATTERNS).encode())
write("adapter_config", "expression.json", json.dumps(LORA | {"target_modules": r"model\.layers\.[0-9]+\.(self_attn|mlp)\.\w+"}).encode())
write("adapter_config", "all-linear.json", json.dumps(LORA | {"target_modules": "all-linear", "layers_to_transform": None}).encode())


# Models and adapters as files and folders: the targets of crates/model/tests/bounded_fuzz.

FIXTURES = pathlib.Path(__file__).parents[1] / "tests" / "fixtures"


def copy(target, name, path):
    write(target, name, (FIXTURES / path).read_bytes())


def key(name, value):
    """A metadata entry of the type that its value has."""
    if isinstance(value, str):
        return (name, 8, text(value))
    if isinstance(value, bool):
        return (name, 7, struct.pack("<?", value))
    if isinstance(value, int):
        return (name, 4, struct.pack("<I", value))
    if isinstance(value, float):
        return (name, 6, struct.pack("<f", value))
    kind, code = (8, None) if isinstance(value[0], str) else (6, "f") if isinstance(value[0], float) else (5, "i")
    items = b"".join(text(item) if code is None else struct.pack("<" + code, item) for item in value)
    return (name, 9, array(kind, len(value), items))


def keys(fields):
    return [key(name, value) for name, value in fields.items()]


copy("hf_config", "gemma3.json", "tiny/gemma3/config.json")
copy("hf_config_gpt2", "gpt2.json", "tiny/gpt2/config.json")
SHARD = "model-00001-of-00001.safetensors"
NAMES = json.loads((FIXTURES / "tiny/qwen3/model.safetensors").read_bytes()[8:].split(b"}}", 1)[0] + b"}}")
INDEX = {"metadata": {"total_size": 1}, "weight_map": {name: SHARD for name in sorted(NAMES) if name != "__metadata__"}}
write("safetensors_index", "one-shard.json", json.dumps(INDEX).encode())

# One layer of Llama at width 32, matrices in Q4_0 and Q8_0 and norms in F32.
LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
}
SHAPES = [
    ("token_embd.weight", [32, 4], 8),
    ("output_norm.weight", [32], 0),
    ("blk.0.attn_norm.weight", [32], 0),
    ("blk.0.ffn_norm.weight", [32], 0),
    ("blk.0.attn_q.weight", [32, 32], 2),
    ("blk.0.attn_k.weight", [32, 16], 2),
    ("blk.0.attn_v.weight", [32, 16], 8),
    ("blk.0.attn_output.weight", [32, 32], 8),
    ("blk.0.ffn_gate.weight", [32, 32], 2),
    ("blk.0.ffn_up.weight", [32, 32], 2),
    ("blk.0.ffn_down.weight", [32, 32], 3),
]


def laid_out(shapes, sizes):
    """Tensors one after the other, and the bytes they take."""
    tensors, end = [], 0
    for name, dims, kind in shapes:
        count = dims[0] * (dims[1] if len(dims) > 1 else 1)
        tensors.append((name, dims, kind, end))
        end += -(-(count * sizes[kind] // 32) // 32) * 32
    return tensors, end


SIZES = {0: 128, 1: 64, 2: 18, 3: 20, 8: 34}
write("gguf_model", "llama", gguf(3, keys(LLAMA), *laid_out(SHAPES, SIZES)))

LORA_FILE = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0}
PAIRS = [
    ("blk.0.attn_q.weight.lora_a", [64, 1], 0),
    ("blk.0.attn_q.weight.lora_b", [1, 64], 0),
    ("output.weight.lora_a", [64, 1], 0),
    ("output.weight.lora_b", [1, 256], 0),
]
TENSORS, END = laid_out(PAIRS, SIZES)
write("gguf_adapter", "pair", gguf(3, keys(LORA_FILE), TENSORS, struct.pack("<f", 0.5) * (END // 4)))

copy("adapter_folder", "saved-modules.json", "tiny-adapters/saved-modules/adapter_config.json")
copy("bottleneck_config", "houlsby.json", "bottleneck/houlsby/adapter_config.json")
copy("bottleneck_config", "some-layers.json", "bottleneck/houlsby-some-layers/adapter_config.json")
DEFAULTS = """system_prompt = "Be brief, {{ name }}."
chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"

[sampling]
temperature = 0.7
top_p = 0.9
top_k = 40
min_p = 0.05
presence_penalty = -1.0
frequency_penalty = 0.5
repetition_penalty = 1.1
seed = 7
max_tokens = 64
stop = ["\\n\\n", "END"]
"""
write("adapter_defaults", "all.toml", DEFAULTS.encode())
write("adapter_defaults", "none.toml", b"")

copy("tokenizer_json", "byte-level.json", "tiny-tokenizer/tokenizer.json")
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
PIECES = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["\u2581", -2.0], ["\u2581Hello", -4.0]] + [[letter, -6.0 - n] for n, letter in enumerate("abcdefw")]
ADDED = [{"id": n, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for n, c in enumerate(["<unk>", "<s>", "</s>"])]
UNIGRAM = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": ADDED, "normalizer": None, "pre_tokenizer": METASPACE,
    "post_processor": None, "decoder": METASPACE, "model": {"type": "Unigram", "unk_id": 0, "vocab": PIECES, "byte_fallback": False},
}
write("tokenizer_json", "unigram.json", json.dumps(UNIGRAM).encode())
WORDS = ["[UNK]", "[CLS]", "[SEP]", "hello", "w", "##o", "##r", "7"]
WORD_PIECE = UNIGRAM | {
    "added_tokens": [ADDED[0] | {"content": "[UNK]"}],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {w: n for n, w in enumerate(WORDS)}},
}
write("tokenizer_json", "word-piece.json", json.dumps(WORD_PIECE).encode())
copy("tokenizer_config", "tiny.json", "tiny-tokenizer/tokenizer_config.json")
SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": {"__type": "AddedToken", "content": "<s>", "special": True},
    "eos_token": "</s>", "add_bos_token": True, "added_tokens_decoder": {"2": {k: v for k, v in ADDED[2].items() if k != "id"}},
    "chat_template": [{"name": "default", "template": "{{ messages[0]['content'] }}"}, {"name": "tool_use", "template": "{{ tools | tojson }}"}],
}
write("tokenizer_config", "listed.json", json.dumps(SETTINGS).encode())

TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m['role'] }}{{ m['content'] | trim }}{% endfor %}"
LETTERS = ["H", "e", "l", "o", "\u0120", "w", "He", "ll", "Hell", "Hello"]
MARKS = ["<unk>", "<s>", "</s>"]


def vocabulary(model, tokens, kinds, **others):
    fields = {"tokenizer.ggml.model": model, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    ids = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0}
    fields |= ids | {f"tokenizer.{name}": value for name, value in others.items()} | {"tokenizer.chat_template": TEMPLATE}
    return gguf(3, keys(fields), [], 0)


def named(fields):
    return {f"ggml.{name}": value for name, value in fields.items()}


MERGES = ["H e", "l l", "He ll", "Hell o"]
write("gguf_tokenizer", "byte-level", vocabulary("gpt2", MARKS + LETTERS, [3] * 3 + [1] * 10, **named({"pre": "gpt-2", "merges": MERGES})))
BYTES = [f"<0x{n:02X}>" for n in range(16)]
SCORED = MARKS + BYTES + ["\u2581", "H", "e", "l", "o", "He", "ll"]
SCORES = [-float(n) for n in range(len(SCORED))]
KINDS = [2, 3, 3] + [6] * 16 + [1] * 7
write("gguf_tokenizer", "sentence-piece", vocabulary("llama", SCORED, KINDS, **named({"scores": SCORES})))
write("gguf_tokenizer", "unigram", vocabulary("t5", SCORED, KINDS, **named({"scores": SCORES})))
PHANTOM = ["[UNK]", "[CLS]", "[SEP]", "\u2581hello", "\u2581w", "o", "r"]
write("gguf_tokenizer", "word-piece", vocabulary("bert", PHANTOM, [3] * 3 + [1] * 4, **named({"seperator_token_id": 2, "cls_token_id": 1})))

write("chat_template", "plain", TEMPLATE.encode())
TOOLS = """{%- macro call(tool) -%}{{ tool.function.name }}({{ tool.function.arguments | tojson }}){%- endmacro -%}
{%- set ns = namespace(seen=false) -%}
{%- for message in messages if message['role'] != 'system' %}
{%- if loop.first and not ns.seen %}{% set ns.seen = true %}{{ raise_exception('none') if false else '' }}{% endif %}
<|{{ message.role }}|>{{ message.content | default('', true) | replace('a', 'b') }}{{ '\\n' ~ loop.index0 }}
{%- for tool in message.tool_calls or [] %}{{ call(tool) }}{% if not loop.last %}, {% endif %}{% endfor %}
{%- endfor %}{% if tools %}{{ tools | tojson(indent=2) }}{{ tools | length }}{% endif %}{{ strftime_now('%d %b %Y')[:2] | int > 40 }}
{%- if add_generation_prompt %}{{ 'x'.strip().split('x') | join }}{{ messages[-1]['content'][0] if messages[0:1] is iterable }}{% endif %}"""
write("chat_template", "tools", TOOLS.encode())
