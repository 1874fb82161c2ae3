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
    return head + bytes(-len(head) % 32) + bytes(data)


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
