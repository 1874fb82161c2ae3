"""Drives a server with the official `openai` package: ROOTSTOCK_URL=http://HOST:PORT/v1 python python_client.py.

Asserts results; the last line is "all checks passed". The server serves the base as `base` and the golden adapters.
"""

import os
import re
import time
import urllib.request

import openai

URL = os.environ["ROOTSTOCK_URL"]
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=300)
FRANCE = "The capital of France is"
FOX = "Once upon a time, a small fox"


def metric(name):
    text = urllib.request.urlopen(URL.removesuffix("/v1") + "/metrics", timeout=60).read().decode()
    values = re.findall(rf"^{re.escape(name)}(?:{{.*}})? ([0-9.e+]+)$", text, re.M)
    assert values, f"/metrics has no {name}"
    return sum(map(float, values))


def models():
    served = {model.id for model in client.models.list()}
    assert {"base", "r8-all", "r16-qv"} <= served, served
    assert client.models.retrieve("r8-all").id == "r8-all"


def completion():
    answer = client.completions.create(model="base", prompt=FRANCE, max_tokens=3, temperature=0)
    assert answer.choices[0].text.startswith(" Paris"), answer
    assert answer.choices[0].finish_reason == "length"
    assert answer.model == "base" and answer.object == "text_completion"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 3, 8)
    base, tenant = (client.completions.create(model=model, prompt=FOX, max_tokens=24, temperature=0) for model in ("base", "r16-qv"))
    assert tenant.choices[0].text != base.choices[0].text and tenant.model == "r16-qv"
    several = client.completions.create(model="base", prompt=[FRANCE, "One, two, three,"], max_tokens=4, n=2, seed=7, temperature=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    again = client.completions.create(model="base", prompt=[FRANCE, "One, two, three,"], max_tokens=4, n=2, seed=7, temperature=1)
    assert [choice.text for choice in several.choices] == [choice.text for choice in again.choices]


def stop():
    answer = client.completions.create(model="base", prompt="1, 2, 3, 4,", max_tokens=40, temperature=0, stop=[", 7"])
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].text == " 5, 6", answer


def chat():
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    answer = client.chat.completions.create(model="base", messages=messages, max_completion_tokens=40, temperature=0)
    assert "Paris" in answer.choices[0].message.content, answer
    assert answer.choices[0].message.role == "assistant" and answer.object == "chat.completion"
    parts = client.chat.completions.create(
        model="base", messages=messages, max_completion_tokens=40, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    text, reason, usage = "", None, None
    for part in parts:
        if part.choices:
            text += part.choices[0].delta.content or ""
            reason = part.choices[0].finish_reason or reason
        usage = part.usage or usage
    assert text == answer.choices[0].message.content and reason == answer.choices[0].finish_reason, (text, answer)
    assert usage == answer.usage or usage.completion_tokens == answer.usage.completion_tokens


def unicode_stream():
    request = dict(model="base", prompt="Emoji and accents: 🦀 é 漢字 🌳", max_tokens=60, temperature=1, seed=3, extra_body={"ignore_eos": True})
    whole = client.completions.create(**request).choices[0].text
    parts = [part.choices[0].text for part in client.completions.create(**request, stream=True) if part.choices]
    assert "".join(parts) == whole, (parts, whole)


def logprobs():
    answer = client.completions.create(model="base", prompt=FRANCE, max_tokens=2, temperature=0, logprobs=3)
    told = answer.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == 2
    assert "".join(told.tokens) == answer.choices[0].text
    assert told.tokens[0] == " Paris" and abs(told.token_logprobs[0] - -0.258) < 0.2, told
    assert len(told.top_logprobs[0]) == 3 and max(told.top_logprobs[0].values()) == told.token_logprobs[0]
    messages = [{"role": "user", "content": "Say hello."}]
    answer = client.chat.completions.create(model="base", messages=messages, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert len(content) == 3 and all(len(token.top_logprobs) == 2 for token in content)
    assert content[0].logprob == content[0].top_logprobs[0].logprob
    assert bytes(content[0].bytes).decode() == content[0].token


def echo():
    answer = client.completions.create(model="base", prompt=FRANCE, max_tokens=0, echo=True, logprobs=1)
    assert answer.choices[0].text == FRANCE
    assert answer.choices[0].logprobs.token_logprobs[0] is None and len(answer.choices[0].logprobs.tokens) == 5


def expect(kind, code, **request):
    try:
        client.completions.create(**{"model": "base", "prompt": FRANCE, "max_tokens": 1, **request})
    except kind as error:
        assert error.code == code, (error.code, code)
        assert error.message
    else:
        raise AssertionError(f"{request} was accepted")


def errors():
    expect(openai.NotFoundError, "model_not_found", model="no-such-model")
    expect(openai.BadRequestError, "context_length_exceeded", prompt=[1000] * 100_000)
    for wrong in [{"max_tokens": -1}, {"temperature": -1}, {"top_p": 2}, {"n": 0}]:
        try:
            client.completions.create(**{"model": "base", "prompt": FRANCE, "max_tokens": 1, **wrong})
        except openai.BadRequestError as error:
            assert error.code and error.param == next(iter(wrong)), (wrong, error.code, error.param)
        else:
            raise AssertionError(f"{wrong} was accepted")


def cancel():
    tokens = metric("vllm:generation_tokens_total")
    parts = client.completions.create(model="base", prompt=FRANCE, max_tokens=1500, temperature=0, stream=True, extra_body={"ignore_eos": True})
    for _ in zip(range(3), parts):
        pass
    parts.close()
    deadline = time.time() + 60
    while metric("vllm:num_requests_running") > 0:
        assert time.time() < deadline, "a cancelled request still runs"
        time.sleep(0.05)
    assert metric("vllm:generation_tokens_total") - tokens < 1500, "a cancelled request ran to its end"


for check in [models, completion, stop, chat, unicode_stream, logprobs, echo, errors, cancel]:
    check()
    print(check.__name__, "ok")
print("all checks passed")
