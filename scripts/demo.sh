#!/usr/bin/env bash
# Fetches MODEL and serves it with the two demo adapters until Ctrl-C.
#   scripts/demo.sh MODEL [FLAGS OF serve...]
set -euo pipefail
cd "$(dirname "$0")/.."

model=$1
shift
port=8000
previous=
for argument in "$@"; do
    case $argument in --port=*) port=${argument#--port=} ;; esac
    [ "$previous" = --port ] && port=$argument
    previous=$argument
done

cargo run --quiet --release --locked -- pull "$model"
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
exec cargo run --quiet --release --locked -- serve --model "$model" --adapters models/demo "$@"
