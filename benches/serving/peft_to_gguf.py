"""Turns PEFT LoRA folders for SmolLM2-135M into GGUF adapters, so that llama-server can be measured on the same ones.

    python peft_to_gguf.py FOLDER_OF_ADAPTERS OUTPUT_FOLDER        (needs: pip install gguf numpy)

For plain LoRA with one rank and one alpha, which is what `make-adapters` writes. llama.cpp's own convert_lora_to_gguf.py does more, and needs torch.
"""

import json
import pathlib
import sys

import gguf
import numpy as np

HEADS, KV_HEADS = 9, 3
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensors(path):
    """Name and f32 values of each tensor of a safetensors file."""
    file = path.read_bytes()
    start = 8 + int.from_bytes(file[:8], "little")
    for name, entry in json.loads(file[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = (start + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(file[first:last], np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(file[first:last], {"F32": np.float32, "F16": np.float16}[entry["dtype"]]).astype(np.float32)
        yield name, values.reshape(entry["shape"])


def permuted(values, heads):
    """Rows in the order of llama.cpp's rotary embedding: pairs side by side instead of in halves."""
    rows = values.shape[0]
    return values.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def convert(folder, target):
    config = json.loads((folder / "adapter_config.json").read_text())
    for field in ["use_rslora", "use_dora", "rank_pattern", "alpha_pattern"]:
        assert not config.get(field), f"{folder}: {field} is not supported"
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for name, values in tensors(folder / "adapter_model.safetensors"):
        layer, _, module = name.removeprefix("base_model.model.model.layers.").partition(".")
        module, half = module.removesuffix(".weight").split(".lora_")
        if half == "B" and module in ("self_attn.q_proj", "self_attn.k_proj"):
            values = permuted(values, HEADS if module.endswith("q_proj") else KV_HEADS)
        writer.add_tensor(f"blk.{layer}.{NAMES[module]}.weight.lora_{half.lower()}", np.ascontiguousarray(values, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


source, output = map(pathlib.Path, sys.argv[1:3])
output.mkdir(parents=True, exist_ok=True)
for folder in sorted(path for path in source.iterdir() if path.is_dir()):
    convert(folder, output / f"{folder.name}.gguf")
    print(folder.name)
