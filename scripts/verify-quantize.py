#!/usr/bin/env python3
"""What `rootstock quantize` loses beside llama.cpp's llama-quantize at the same size, and that llama.cpp loads it.

    scripts/verify-quantize.py ROOTSTOCK DATA_DIR MODEL...

MODEL are GGUF files; each is written in f32 first, and both quantize that. DATA_DIR is what scripts/datasets.py makes: both calibrate on
the same tokens of the training chapters of Moby Dick, and the KL from the source is measured on chapters that are held out. Prints a table
per model, and fails where ours is further from the source than llama-quantize's of the same type and calibration, or where llama-server's
greedy tokens differ from ours by more than a near-tie.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import llama
from served import Server

ROOTSTOCK = pathlib.Path(sys.argv[1]).resolve()
DATA = pathlib.Path(sys.argv[2])
MODELS = [pathlib.Path(model).resolve() for model in sys.argv[3:]]
TYPES = {"q4_0": "Q4_0", "q4_k": "Q4_K_S", "q5_k": "Q5_K_S"}
WINDOW, CHUNKS, TOKENS = 512, 16, 4096
TIE, LENGTH = 0.75, 32
PROMPTS = ["The captain looked at the sea and", "To make bread, one needs", "In the year 1851", "def fibonacci(n):"]


def run(*command):
    outcome = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert outcome.returncode == 0, f"{command}\n{outcome.stderr[-2000:]}"
    return outcome.stdout


def text(work, name):
    rows = (DATA / "moby-dick" / f"{name}.jsonl").read_text().splitlines()
    path = work / f"{name}.txt"
    path.write_text("\n\n".join(json.loads(row)["text"] for row in rows))
    return path


def files(work, model, tools, calibration):
    """Every quantized file with what it is, the source first."""
    source = work / f"{model.stem}.f32.gguf"
    run(ROOTSTOCK, "quantize", "--model", model, "--output", source, "--type", "f32")
    imatrix = work / f"{model.stem}.imatrix.gguf"
    run(tools / "llama-imatrix", "-m", source, "-f", calibration, "-o", imatrix, "-c", WINDOW, "--chunks", CHUNKS)
    yield source, None, "source"
    calibrated = ["--calibration", calibration, "--calibration-tokens", WINDOW * CHUNKS, "--calibration-length", WINDOW]
    for ours, theirs in TYPES.items():
        ways = {
            "llama-quantize": [tools / "llama-quantize"],
            "llama-quantize, importance": [tools / "llama-quantize", "--imatrix", imatrix],
            "nearest": [],
            "nearest, importance": [*calibrated, "--method", "nearest"],
            "nearest, scaled inputs": [*calibrated, "--method", "nearest", "--scale-inputs"],
            "GPTQ": calibrated,
        }
        for index, (way, command) in enumerate(ways.items()):
            output = work / f"{model.stem}.{ours}.{index}.gguf"
            if way.startswith("llama"):
                run(*command, source, output, theirs)
            else:
                same = [flag for name, kind in tensors(work / f"{model.stem}.{ours}.0.gguf") for flag in ("--tensor-type", f"{name}={kind}")]
                run(ROOTSTOCK, "quantize", "--model", source, "--output", output, "--type", ours, *same, *command)
            yield output, ours, way


def tensors(path):
    """Names and types of a file's matrices: ours get those that llama-quantize has chosen."""
    report = json.loads(run(ROOTSTOCK, "inspect", path, "--tensors", "--json"))
    return [(tensor["name"], tensor["type"].lower()) for tensor in report["tensors"] if len(tensor["shape"]) == 2]


def compared(paths, held_out):
    command = [ROOTSTOCK, "compare", *paths, "--text", held_out, "--tokens", TOKENS, "--length", WINDOW, "--no-speed", "--json"]
    return json.loads(run(*command))["models"]


def table(model, rows):
    print(f"\n{model.stem}: KL from the source on {TOKENS} tokens held out, in nats per token\n")
    print("| type | MiB | llama-quantize | with importance | ours, nearest | with importance | scaled inputs | GPTQ |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in TYPES:
        of = {way: measured for (_, known, way), measured in rows if known == kind}
        kls = [f"{measured['kl']['mean']:.4f}" for measured in of.values()]
        sizes = {round(measured["bytes"] / 2**20, 1) for measured in of.values()}
        print(f"| {kind} | {'-'.join(map(str, sorted(sizes)))} | {' | '.join(kls)} |", flush=True)
        kl = {way: measured["kl"]["mean"] for way, measured in of.items()}
        assert kl["nearest"] <= kl["llama-quantize"] * 1.02, (kind, kl)
        assert kl["nearest, importance"] <= kl["llama-quantize, importance"] * 1.02, (kind, kl)
        assert kl["GPTQ"] < kl["nearest, importance"] < kl["nearest"], (kind, kl)


def loaded(tools, paths):
    print("\n| file | greedy tokens alike | log-probability between the first two that differ |\n|---|---|---|")
    for path in paths:
        ours = Server(ROOTSTOCK, path)
        try:
            prompts = [llama.post(f"{ours.url}/tokenize", {"model": "base", "prompt": prompt})["tokens"] for prompt in PROMPTS]
            theirs = llama.greedy(tools / "llama-server", path, prompts, LENGTH)
            alike, gaps = llama.agreement(ours, "base", prompts, theirs, LENGTH)
        finally:
            ours.stop()
        print(f"| {path.name} | {alike} of {LENGTH * len(PROMPTS)} | {', '.join(f'{gap:.3f}' for gap in gaps)} |", flush=True)
        assert all(gap < TIE for gap in gaps), f"{path}: {gaps}"


with tempfile.TemporaryDirectory() as folder:
    work = pathlib.Path(folder)
    tools = llama.tools(work)
    calibration, held_out = text(work, "train"), text(work, "valid")
    for model in MODELS:
        made = list(files(work, model, tools, calibration))
        measured = compared([path for path, _, _ in made], held_out)
        table(model, list(zip(made, measured)))
        loaded(tools, [path for path, kind, way in made if kind and way == "GPTQ"])
        for path, _, _ in made:
            path.unlink()
