#!/usr/bin/env bash
# Every check, cheapest first; fetches what the tests need through cargo's, pip's and npm's own configuration.
#   scripts/test.sh [check]     `check` stops before the tests
set -euo pipefail
cd "$(dirname "$0")/.."
export ROOTSTOCK_MODELS_DIR=${ROOTSTOCK_MODELS_DIR:-$PWD/.rootstock/models}
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

timings=()
step() {
    local name=$1 from=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    timings+=("$(printf '%5d s  %s' $((SECONDS - from)) "$name")")
}
report() {
    printf '\n== timings\n'
    printf '%s\n' "${timings[@]}" "$(printf '%5d s  altogether' "$SECONDS")"
}
trap report EXIT

step "formatting" cargo fmt --all --check
step "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
if command -v cargo-deny >/dev/null; then
    step "dependencies" cargo deny --offline check licenses bans sources
fi
[ "${1:-}" = check ] && exit

step "clients for the tests" scripts/setup-clients.sh
step "model for the tests" cargo run --quiet --locked -- pull smollm2-135m-instruct
# Under Gemma's terms (https://ai.google.dev/gemma/terms), which the tests of that family take: fetched, never distributed.
step "second model for the tests" cargo run --quiet --locked -- pull gemma3-270m --accept-licence
step "tests" cargo test --workspace --locked --quiet --no-fail-fast
