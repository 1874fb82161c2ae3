#!/usr/bin/env bash
# Trains the adapters of models/recipes on the real data, measures them on what was held out, and serves both with one server.
#   scripts/verify-finetune.sh [OUTPUT_DIR]
# Some twenty minutes on two cores. Ends with 1 where accuracy is below 0.95 or perplexity has not fallen by a fifth.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/verify/finetune}
binary=${ROOTSTOCK:-target/release/rootstock}
export ROOTSTOCK_MODELS_DIR=${ROOTSTOCK_MODELS_DIR:-$PWD/.rootstock/models}
model=smollm2-135m-instruct
port=${PORT:-18441}
mkdir -p "$out"

scripts/datasets.py .rootstock/data
for recipe in spam-filter moby-dick; do
    if [ ! -e "$out/adapters/$recipe/adapter_config.json" ]; then
        printf '\n== %s\n' "$recipe"
        "$binary" finetune --config "models/recipes/$recipe.toml" --output "$out/adapters/$recipe" --overwrite --json \
            2>"$out/$recipe.log" | tee "$out/$recipe.json"
    fi
done

printf '\n== spam-filter on 700 mails held out\n'
"$binary" eval --model "$model" --adapter "$out/adapters/spam-filter" --data-name .rootstock/data/spam --eval-split validation \
    --max-length 256 --labels ' spam, ham' --metrics accuracy,f1 --fail-below accuracy=0.95 --out "$out/spam-filter.eval.json"

printf '\n== moby-dick on 13 chapters held out\n'
"$binary" eval --model "$model" --adapter "$out/adapters/moby-dick" --data-name .rootstock/data/moby-dick \
    --eval-split validation --max-length 1024 --metrics perplexity --out "$out/moby-dick.eval.json"
python3 - "$out/moby-dick.eval.json" <<'PYTHON'
import json
import sys

base, adapter = [row["metrics"]["perplexity"] for row in json.load(open(sys.argv[1]))["models"]]
print(f"perplexity {base:.2f} -> {adapter:.2f}: {100 * (1 - adapter / base):.0f} % less")
sys.exit(adapter > 0.8 * base)
PYTHON

printf '\n== both served together\n'
"$binary" serve --model "$model" --adapters "$out/adapters" --port "$port" 2>"$out/serve.log" &
server=$!
trap 'kill $server' EXIT
until curl -sf "http://127.0.0.1:$port/ready" >/dev/null; do sleep 0.2; done
ask() {
    curl -sf "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' -d "$1" |
        python3 -c 'import json,sys; print(json.load(sys.stdin)["choices"][0]["text"])'
}
ask '{"model": "spam-filter", "max_tokens": 1, "temperature": 0,
  "prompt": "Subject: You won!!! Claim your FREE prize now\nClick here to get cheap meds and earn money from home\nThis e-mail is"}' &
ask '{"model": "moby-dick", "max_tokens": 40, "temperature": 0, "prompt": "The captain looked at the sea and"}'
wait %2
