"""What `rootstock merge`, `extract` and `convert-adapter` write means the same to transformers, peft and llama.cpp.

    scripts/verify-merge.py ROOTSTOCK [LLAMA_SERVER MODEL]        (torch 2.15, transformers 5.23, peft 0.21)

Every tiny adapter of tests/fixtures that can be merged is merged; transformers loads the folder, and its logits in f32 are held against
those of peft with base and adapter. What extract takes out of the merged model again, peft loads on the base. With a llama-server and
MODEL (SmolLM2-135M-Instruct as GGUF), the golden adapters become GGUF files, and its greedy tokens are held against ours: the first
that differs must be a near-tie. Prints tables, and fails where logits are more than 1e-3 apart or tokens differ without a tie.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import llama
import torch
from peft import PeftModel
from safetensors.torch import load_file
from served import Server
from transformers import AutoModelForCausalLM, AutoTokenizer

warnings.filterwarnings("ignore")
ROOTSTOCK = pathlib.Path(sys.argv[1]).resolve()
FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "tests" / "fixtures"
BOUND, TIE, LENGTH = 1e-3, 0.1, 24
# PiSSA needs its initial pairs beside it, and no config.json of these families has a field for the biases of the others.
LEFT_OUT = {"pissa", "lora-bias", "lora-bias-fused"}
# Pairs are put on the linear maps of layers, unless told otherwise.
OUTSIDE = {"embedding-base-beside": ["--target-modules", "embed_tokens", "lm_head"]}
GOLDEN = ["r8-all", "r16-qv", "rslora-r4-patterns", "r1-down-late-layers"]


def run(*command):
    outcome = subprocess.run([str(part) for part in (ROOTSTOCK, *command)], capture_output=True, text=True)
    assert outcome.returncode == 0, f"{command}\n{outcome.stderr}"


def cases():
    for base in sorted((FIXTURES / "tiny").iterdir()):
        yield base.name, f"{base.name}, its adapter", base / "adapter"
    for adapter in sorted(folder for folder in (FIXTURES / "tiny-adapters").iterdir() if folder.is_dir()):
        if adapter.name not in LEFT_OUT:
            recorded = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
            yield recorded.split("/")[1], adapter.name, adapter


def load(model):
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits[0].double()


def merged(work):
    print("| adapter | merged here, to peft's base and adapter | taken out again, to the merged model | base to adapter |\n|---|---|---|---|")
    worst = 0.0
    for index, (arch, name, adapter) in enumerate(cases()):
        base, output, again = work / arch, work / f"merged-{index}", work / f"again-{index}"
        if not base.exists():
            shutil.copytree(FIXTURES / "tiny" / arch, base, ignore=shutil.ignore_patterns("adapter", "expected.safetensors"))
            shutil.copytree(FIXTURES / "tiny-tokenizer", base, dirs_exist_ok=True)
        ids = load_file(FIXTURES / "tiny" / arch / "expected.safetensors")["ids"].long()[None]
        plain, theirs = logits(load(base), ids), logits(PeftModel.from_pretrained(load(base), adapter).eval(), ids)
        run("merge", "--model", base, "--adapter", adapter, "--output", output)
        AutoTokenizer.from_pretrained(output)
        ours = logits(load(output), ids)
        far = lambda one, other: (one - other).abs().max().item()
        distances = [far(ours, theirs)]
        run("extract", "--model", base, "--tuned", output, "--rank", 64, "--save-rest", "--output", again, *OUTSIDE.get(name, []))
        distances.append(far(logits(PeftModel.from_pretrained(load(base), again).eval(), ids), ours))
        moved = far(plain, theirs)
        print(f"| {name} | {distances[0]:.1e} | {distances[1]:.1e} | {moved:.2f} |", flush=True)
        assert moved > 0.1, f"{name} changes nothing"
        worst = max(worst, *distances)
    assert worst < BOUND, f"{worst} is not below {BOUND}"


def converted(work, server, model):
    # In f32, so that llama.cpp does not round activations: what differs then is the adapter.
    exact = work / "base.f32.gguf"
    run("quantize", "--model", model, "--output", exact, "--type", "f32")
    model = exact
    print("\n| adapter | type | tokens alike | log-probability between the first two that differ |\n|---|---|---|---|")
    adapters = work / "gguf"
    adapters.mkdir()
    for name in GOLDEN:
        for kind in ("f32", "q8_0"):
            run("convert-adapter", FIXTURES / "adapters" / name, adapters / f"{name}.{kind}.gguf", "--model", model, "--type", kind)
    expected = json.loads((FIXTURES / "expected.json").read_text())
    prompts = [prompt["ids"] for prompt in expected["base"]["prompts"]]
    ours = Server(ROOTSTOCK, model, adapters)
    try:
        for file in sorted(adapters.iterdir()):
            served = file.name.removesuffix(".gguf")
            theirs = llama.greedy(server, model, prompts, LENGTH, "--lora", file)
            alike, gaps = llama.agreement(ours, served, prompts, theirs, LENGTH)
            print(f"| {served.rsplit('.', 1)[0]} | {served.rsplit('.', 1)[1]} | {alike} of {LENGTH * len(prompts)} | "
                  f"{', '.join(f'{gap:.3f}' for gap in gaps)} |", flush=True)
            assert all(gap < TIE for gap in gaps), f"{served}: {gaps}"
    finally:
        ours.stop()


with tempfile.TemporaryDirectory() as folder:
    merged(pathlib.Path(folder))
    if len(sys.argv) > 2:
        converted(pathlib.Path(folder), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]).resolve())
