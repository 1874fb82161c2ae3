// Drives a server with the official `openai` package: ROOTSTOCK_URL=http://HOST:PORT/v1 node client.mjs.
// Asserts results; the last line is "all checks passed". The server serves the base as `base` and the golden adapters.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

const url = process.env.ROOTSTOCK_URL;
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0, timeout: 300_000 });
const france = "The capital of France is";

async function metric(name) {
  const text = await (await fetch(url.replace(/\/v1$/, "/metrics"))).text();
  const lines = text.split("\n").filter((line) => line.startsWith(name + "{") || line.startsWith(name + " "));
  assert.ok(lines.length > 0, `/metrics has no ${name}`);
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

const checks = {
  async models() {
    const served = new Set();
    for await (const model of client.models.list()) served.add(model.id);
    assert.ok(served.has("base") && served.has("r8-all"), [...served].join());
  },

  async completion() {
    const answer = await client.completions.create({ model: "base", prompt: france, max_tokens: 3, temperature: 0 });
    assert.ok(answer.choices[0].text.startsWith(" Paris"));
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.deepEqual([answer.usage.prompt_tokens, answer.usage.completion_tokens], [5, 3]);
    const told = async (model) => {
      const prompt = "Once upon a time, a small fox";
      return (await client.completions.create({ model, prompt, max_tokens: 24, temperature: 0 })).choices[0].text;
    };
    assert.notEqual(await told("r16-qv"), await told("base"));
  },

  async chatAndStream() {
    const request = {
      model: "base",
      messages: [{ role: "user", content: "What is the capital of France? Answer in one sentence." }],
      max_completion_tokens: 40,
      temperature: 0,
    };
    const answer = await client.chat.completions.create(request);
    assert.match(answer.choices[0].message.content, /Paris/);
    let text = "", reason = null, usage = null;
    const parts = await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
    for await (const part of parts) {
      text += part.choices[0]?.delta?.content ?? "";
      reason = part.choices[0]?.finish_reason ?? reason;
      usage = part.usage ?? usage;
    }
    assert.equal(text, answer.choices[0].message.content);
    assert.equal(reason, answer.choices[0].finish_reason);
    assert.equal(usage.completion_tokens, answer.usage.completion_tokens);
    const final = await client.chat.completions.stream(request).finalChatCompletion();
    assert.equal(final.choices[0].message.content, text);
  },

  async logprobs() {
    const answer = await client.completions.create({ model: "base", prompt: france, max_tokens: 2, temperature: 0, logprobs: 3 });
    const told = answer.choices[0].logprobs;
    assert.equal(told.tokens[0], " Paris");
    assert.equal(told.token_logprobs.length, 2);
    assert.equal(Object.keys(told.top_logprobs[0]).length, 3);
    assert.equal(told.tokens.join(""), answer.choices[0].text);
  },

  async errors() {
    const request = { model: "base", prompt: france, max_tokens: 1 };
    await assert.rejects(client.completions.create({ ...request, model: "no-such-model" }), (error) => {
      return error instanceof OpenAI.NotFoundError && error.status === 404 && error.code === "model_not_found";
    });
    await assert.rejects(client.completions.create({ ...request, max_tokens: -1 }), (error) => {
      return error instanceof OpenAI.BadRequestError && error.param === "max_tokens" && Boolean(error.code);
    });
  },

  async cancel() {
    const tokens = await metric("vllm:generation_tokens_total");
    const parts = await client.completions.create({
      model: "base", prompt: france, max_tokens: 1500, temperature: 0, stream: true, ignore_eos: true,
    });
    let seen = 0;
    for await (const part of parts) {
      assert.ok(part);
      if (++seen === 3) break;
    }
    parts.controller.abort();
    const deadline = Date.now() + 60_000;
    while ((await metric("vllm:num_requests_running")) > 0) {
      assert.ok(Date.now() < deadline, "a cancelled request still runs");
      await sleep(50);
    }
    assert.ok((await metric("vllm:generation_tokens_total")) - tokens < 1500, "a cancelled request ran to its end");
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(name, "ok");
}
console.log("all checks passed");
