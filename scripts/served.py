"""A server of the binary that the verify scripts are given, and how far apart two lists of log-probabilities are."""

import json
import math
import socket
import subprocess
import time
import urllib.request


class Server:
    """`rootstock serve --activations f32`, with the adapters of a folder if there is one."""

    def __init__(self, rootstock, model, adapters=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [rootstock, "serve", "--model", model, "--served-model-name", "base", "--activations", "f32", "--port", str(port)]
        command += ["--adapters", adapters] if adapters else []
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                return urllib.request.urlopen(f"{self.url}/ready").close()
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.1)
        raise TimeoutError("the server is not ready")

    def logprobs(self, name, ids):
        body = json.dumps({"model": name, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1}).encode()
        request = urllib.request.Request(f"{self.url}/v1/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)["choices"][0]["logprobs"]["token_logprobs"][1:]

    def stop(self):
        self.process.kill()
        self.process.wait()


def apart(some, others):
    assert len(some) == len(others) and all(map(math.isfinite, some + others))
    return max(abs(a - b) for a, b in zip(some, others))
