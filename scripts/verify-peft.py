"""Adapters go back and forth between `rootstock finetune` and the real peft, and mean the same to both; models go to transformers.

    scripts/verify-peft.py ROOTSTOCK        (torch 2.15, transformers 5.23, peft 0.21)

Ours: trained here, loaded in peft. Theirs: made by peft, trained further here (`--adapter`), loaded in peft again. Each time the
log-probabilities of peft are held against those that `rootstock serve --activations f32` gives for the same adapter. Prints a table, and
fails where they are more than 1e-3 apart. Then every tiny checkpoint is trained whole here (`--method full`), and what was written is
loaded in transformers and held against what is served.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from served import Server, apart
from transformers import AutoModelForCausalLM, AutoTokenizer

warnings.filterwarnings("ignore")
ROOTSTOCK = pathlib.Path(sys.argv[1]).resolve()
FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "tests" / "fixtures"
BOUND, LENGTH = 1e-3, 64
PATTERNS = {"rank_pattern": {"down_proj": 8}, "alpha_pattern": {"1.self_attn.q_proj": 3}}
OURS = {
    "LoRA": [],
    "DoRA": ["--use-dora", "true"],
    "rsLoRA, patterns": ["--use-rslora", "true", "--rank-pattern", "down_proj=8", "--alpha-pattern", "1.self_attn.q_proj=3"],
    "LoRA, modules_to_save": ["--target-modules", "q_proj", "v_proj", "--modules-to-save", "lm_head", "input_layernorm"],
    "PiSSA": ["--init-lora-weights", "pissa"],
    "PiSSA, rsLoRA": ["--init-lora-weights", "pissa_niter_8", "--use-rslora", "true"],
}
THEIRS = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "rsLoRA, patterns": {"use_rslora": True} | PATTERNS,
    "LoRA, modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
}
TEXTS = [f"Mail {n} says {word}: {word * (n % 3 + 1)}" for n in range(16) for word in ("ham", "spam")]


def finetune(model, output, rows, flags):
    command = [ROOTSTOCK, "finetune", "--model", model, "--data-name", rows, "--output", output, "--precision", "f32", "--eval-share", "0",
               "--max-length", "128", "--max-steps", "20", "--learning-rate", "1e-2", "--per-device-train-batch-size", "4", *flags]
    outcome = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def peft_adapter(model, output, fields):
    """As peft saves it; random A and B, so that every tensor matters."""
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | fields)))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if p.requires_grad and "magnitude" not in name:
                p.add_(torch.randn_like(p) * 0.05)
    adapted.save_pretrained(output)


@torch.no_grad()
def peft_logprobs(model, adapter, ids):
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    logits = loaded.eval()(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [logits[at, token].item() for at, token in enumerate(ids[1:])]


def tiny(arch, to):
    shutil.copytree(FIXTURES / "tiny" / arch, to, ignore=shutil.ignore_patterns("adapter", "expected.safetensors"))
    shutil.copytree(FIXTURES / "tiny-tokenizer", to, dirs_exist_ok=True)


def full(work, ids):
    """Models of every architecture with all their weights trained."""
    print("\n| model, trained whole | largest distance to transformers | distance to its beginning |\n|---|---|---|")
    worst = 0.0
    for arch in sorted(folder.name for folder in (FIXTURES / "tiny").iterdir()):
        base, output = work / arch, work / f"{arch}-trained"
        tiny(arch, base)
        finetune(base, output, work / "rows.jsonl", ["--method", "full", "--save-dtype", "f32", "--report-samples", "0"])
        AutoTokenizer.from_pretrained(output / "model")
        begin, theirs = ([value for text in ids for value in peft_logprobs(model, None, text)] for model in (base, output / "model"))
        server = Server(ROOTSTOCK, output)
        try:
            ours = [value for text in ids for value in server.logprobs("base", text)]
        finally:
            server.stop()
        distance, moved = apart(ours, theirs), apart(theirs, begin)
        print(f"| {arch} | {distance:.1e} | {moved:.2f} |", flush=True)
        assert moved > 0.1, f"{arch} learned nothing"
        worst = max(worst, distance)
    assert worst < BOUND, f"{worst} is not below {BOUND}"


def make(work):
    """Every adapter, by the name of its folder: what it is, and the adapter that it began as."""
    model, adapters, rows = work / "model", work / "adapters", work / "rows.jsonl"
    tiny("llama3-rope", model)
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    adapters.mkdir()
    made = {}
    for index, (name, flags) in enumerate(OURS.items()):
        finetune(model, adapters / f"ours-{index}", rows, ["--lora-r", "4", "--lora-alpha", "8", *flags])
        made[f"ours-{index}"] = (f"{name}, trained here", None)
    for index, (name, fields) in enumerate(THEIRS.items()):
        start = work / "peft" / str(index)
        peft_adapter(model, start, fields)
        finetune(model, adapters / f"theirs-{index}", rows, ["--adapter", start])
        made[f"theirs-{index}"] = (f"{name}, peft's, trained further here", start)
    return model, adapters, made


def main(work):
    model, adapters, made = make(work)
    # As the tiny tokenizer writes a text: bytes after three special tokens.
    ids = [[byte + 3 for byte in text.encode()] for text in TEXTS[:4]]
    flat = lambda logprobs: [value for text in ids for value in logprobs(text)]
    begin = {None: flat(lambda text: peft_logprobs(model, None, text))}
    server = Server(ROOTSTOCK, model, adapters)
    print("| adapter | largest distance to peft | distance to its beginning | mean loss, from | to |\n|---|---|---|---|---|")
    worst = 0.0
    try:
        for folder, (name, start) in made.items():
            if start not in begin:
                begin[start] = flat(lambda text: peft_logprobs(model, start, text))
            theirs = flat(lambda text: peft_logprobs(model, adapters / folder, text))
            ours = flat(lambda text: server.logprobs(folder, text))
            mean = lambda logprobs: -sum(logprobs) / len(logprobs)
            distance, moved = apart(ours, theirs), apart(theirs, begin[start])
            print(f"| {name} | {distance:.1e} | {moved:.2f} | {mean(begin[start]):.3f} | {mean(theirs):.3f} |", flush=True)
            assert moved > 0.1 and mean(theirs) < mean(begin[start]), f"{name} learned nothing"
            worst = max(worst, distance)
    finally:
        server.stop()
    assert worst < BOUND, f"{worst} is not below {BOUND}"
    full(work, ids)


with tempfile.TemporaryDirectory() as work:
    main(pathlib.Path(work))
