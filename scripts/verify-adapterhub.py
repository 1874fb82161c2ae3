"""Bottleneck adapters go back and forth between `rootstock finetune` and AdapterHub's library, and mean the same to both.

    scripts/verify-adapterhub.py ROOTSTOCK        (torch 2.15, transformers 4.57, adapters 1.3)

As scripts/verify-peft.py: ours are trained here and loaded there, theirs are made there, trained further here and loaded there again. Prints
a table, and fails where log-probabilities are more than 1e-3 apart.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import adapters
import torch
from served import Server, apart
from transformers import AutoConfig, AutoModelForCausalLM

warnings.filterwarnings("ignore")
ROOTSTOCK = pathlib.Path(sys.argv[1]).resolve()
FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "tests" / "fixtures"
BOUND = 1e-3
OURS = {
    "Houlsby": ["--method", "houlsby"],
    "Houlsby, GELU, layer 1 left out": ["--method", "houlsby", "--non-linearity", "gelu_new", "--leave-out", "1"],
    "Pfeiffer": ["--method", "pfeiffer", "--reduction-factor", "4"],
}
THEIRS = {
    "Houlsby": ("double_seq_bn", {}),
    "Pfeiffer, widths by layer": ("seq_bn", {"reduction_factor": {"1": 3.0, "default": 16.0}}),
    "Pfeiffer, both blocks, scaled": ("seq_bn", {"mh_adapter": True, "scaling": 0.5}),
}
TEXTS = [f"Mail {n} says {word}: {word * (n % 3 + 1)}" for n in range(16) for word in ("ham", "spam")]


def finetune(model, output, rows, flags):
    command = [ROOTSTOCK, "finetune", "--model", model, "--data-name", rows, "--output", output, "--precision", "f32", "--eval-share", "0",
               "--max-length", "128", "--max-steps", "20", "--learning-rate", "1e-2", "--per-device-train-batch-size", "4", *flags]
    outcome = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def base_model(folder):
    """The checkpoint is of transformers 5, which keeps everything about rotary positions together."""
    config, rope = AutoConfig.from_pretrained(folder), json.loads((folder / "config.json").read_text())["rope_parameters"]
    config.rope_theta, config.rope_scaling = rope["rope_theta"], rope
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager")
    adapters.init(model)
    return model.eval()


def library_adapter(model, output, kind, fields):
    """As the library saves it; random weights, so that every tensor matters."""
    torch.manual_seed(3)
    adapted = base_model(model)
    adapted.add_adapter("theirs", config=adapters.ADAPTER_CONFIG_MAP[kind].replace(**fields))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if ".theirs." in name:
                p.add_(torch.randn_like(p) * 0.1)
    output.mkdir(parents=True)
    adapted.save_adapter(output, "theirs", with_head=False, use_safetensors=True)


@torch.no_grad()
def library_logprobs(model, adapter, ids):
    loaded = base_model(model)
    if adapter:
        loaded.load_adapter(str(adapter), set_active=True, with_head=False, use_safetensors=True)
    logits = loaded.eval()(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [logits[at, token].item() for at, token in enumerate(ids[1:])]


def make(work):
    """Every adapter, by the name of its folder: what it is, and the adapter that it began as."""
    model, folder, rows = work / "model", work / "adapters", work / "rows.jsonl"
    shutil.copytree(FIXTURES / "tiny" / "llama3-rope", model, ignore=shutil.ignore_patterns("adapter", "expected.safetensors"))
    shutil.copytree(FIXTURES / "tiny-tokenizer", model, dirs_exist_ok=True)
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    folder.mkdir()
    made = {}
    for index, (name, flags) in enumerate(OURS.items()):
        finetune(model, folder / f"ours-{index}", rows, flags)
        made[f"ours-{index}"] = (f"{name}, trained here", None)
    for index, (name, (kind, fields)) in enumerate(THEIRS.items()):
        start = work / "library" / str(index)
        library_adapter(model, start, kind, fields)
        finetune(model, folder / f"theirs-{index}", rows, ["--adapter", start])
        made[f"theirs-{index}"] = (f"{name}, the library's, trained further here", start)
    return model, folder, made


def main(work):
    model, folder, made = make(work)
    # As the tiny tokenizer writes a text: bytes after three special tokens.
    ids = [[byte + 3 for byte in text.encode()] for text in TEXTS[:4]]
    flat = lambda logprobs: [value for text in ids for value in logprobs(text)]
    mean = lambda logprobs: -sum(logprobs) / len(logprobs)
    server, worst = Server(ROOTSTOCK, model, folder), 0.0
    print("| adapter | largest distance to the library | mean loss, from | to |\n|---|---|---|---|")
    try:
        for name, (what, start) in made.items():
            before = flat(lambda text: library_logprobs(model, start, text))
            theirs = flat(lambda text: library_logprobs(model, folder / name, text))
            distance = apart(flat(lambda text: server.logprobs(name, text)), theirs)
            print(f"| {what} | {distance:.1e} | {mean(before):.3f} | {mean(theirs):.3f} |", flush=True)
            assert apart(theirs, before) > 0.1 and mean(theirs) < mean(before), f"{what} learned nothing"
            worst = max(worst, distance)
    finally:
        server.stop()
    assert worst < BOUND, f"{worst} is not below {BOUND}"


with tempfile.TemporaryDirectory() as work:
    main(pathlib.Path(work))
