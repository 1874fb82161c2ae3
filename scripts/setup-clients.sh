#!/usr/bin/env bash
# Installs what tests/clients needs: the official openai packages of Python (.venv) and JavaScript (tests/clients/js/node_modules).
# Goes by pip's and npm's own configuration, so it works behind a package mirror. Does nothing where all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tests/clients/requirements.txt
if ! cmp -s "$requirements" .venv/installed.txt; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" .venv/installed.txt
fi

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "the client tests need node 20 or newer with npm" >&2
    exit 1
fi
if ! cmp -s tests/clients/js/package-lock.json tests/clients/js/node_modules/installed.json; then
    npm ci --prefix tests/clients/js --no-audit --no-fund --loglevel=error
    cp tests/clients/js/package-lock.json tests/clients/js/node_modules/installed.json
fi
