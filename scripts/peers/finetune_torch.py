"""Speed and memory of LoRA fine-tuning with torch + peft, for the comparison in BENCHMARKS.md.

    python scripts/peers/finetune_torch.py MODEL.gguf [--dtype float32|bfloat16] [--checkpointing] [--steps N]

Rank 8 on all linear layers, sequences of 256 random tokens, batches of 4, AdamW. Needs torch, transformers, peft and gguf.
Prints one JSON object: tokens per second (median step), peak resident memory in MiB.
"""

import argparse
import json
import os
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--dtype", default="bfloat16")
parser.add_argument("--checkpointing", action="store_true")
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--length", type=int, default=256)
parser.add_argument("--batch", type=int, default=4)
arguments = parser.parse_args()

torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
kind = {"gguf_file": os.path.basename(arguments.model)} if arguments.model.endswith(".gguf") else {}
folder = os.path.dirname(arguments.model) if kind else arguments.model
model = AutoModelForCausalLM.from_pretrained(folder, **kind, dtype=getattr(torch, arguments.dtype))
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
if arguments.checkpointing:
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
times = []
for step in range(arguments.steps):
    ids = torch.randint(0, model.config.vocab_size, (arguments.batch, arguments.length))
    start = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.perf_counter() - start)
rate = arguments.batch * arguments.length / statistics.median(times[2:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"dtype": arguments.dtype, "checkpointing": arguments.checkpointing, "tokens_per_second": round(rate, 1),
                  "peak_mib": round(peak), "loss": round(loss.item(), 4)}))
