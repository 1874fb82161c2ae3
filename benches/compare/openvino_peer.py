"""OpenVINO GenAI as a peer: one JSON request per line on standard input, one JSON answer per line on standard output.

    python openvino_peer.py MODEL.gguf THREADS

{"prefill": TOKENS} -> {"value": prompt tokens per second}. {"decode": SEQUENCES, "prompt": TOKENS, "tokens": TOKENS} ->
{"value": generated tokens per second}: a run's time less that of the same prompts with one token. Prompts are random ids, all distinct;
there is no prefix cache. The precision is OpenVINO's own choice for the machine unless OPENVINO_PRECISION names one.
"""

import json
import os
import sys
import time

import numpy as np
import openvino as ov
import openvino_genai as genai

model, threads = sys.argv[1], int(sys.argv[2])
scheduler = genai.SchedulerConfig()
scheduler.cache_size = 2
scheduler.max_num_seqs = 64
scheduler.max_num_batched_tokens = 1024
scheduler.enable_prefix_caching = False
properties = {"INFERENCE_NUM_THREADS": threads}
if os.environ.get("OPENVINO_PRECISION"):
    properties["INFERENCE_PRECISION_HINT"] = os.environ["OPENVINO_PRECISION"]
pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
random = np.random.default_rng(0)


def seconds(sequences, prompt, tokens):
    config = genai.GenerationConfig()
    config.do_sample = False
    config.ignore_eos = True
    config.min_new_tokens = config.max_new_tokens = tokens
    prompts = [ov.Tensor(random.integers(1000, 40000, size=(1, prompt)).astype(np.int64)) for _ in range(sequences)]
    start = time.perf_counter()
    results = pipeline.generate(prompts, [config] * sequences)
    elapsed = time.perf_counter() - start
    assert all(len(result.m_generation_ids[0]) == tokens for result in results), "an answer of another length"
    return elapsed


def answer(request):
    if "prefill" in request:
        return request["prefill"] / min(seconds(1, request["prefill"], 1) for _ in range(3))
    sequences, prompt, tokens = request["decode"], request["prompt"], request["tokens"]
    first = seconds(sequences, prompt, 1)
    return sequences * (tokens - 1) / (seconds(sequences, prompt, tokens) - first)


# The first runs compile and find memory.
seconds(1, 512, 2)
seconds(1, 512, 2)
print(json.dumps({"ready": genai.__version__}), flush=True)
for line in sys.stdin:
    print(json.dumps({"value": answer(json.loads(line))}), flush=True)
