# `make demo` to try it, `make test` to check it. Everything that is fetched goes below this folder.

MODEL := smollm2-135m-instruct
export ROOTSTOCK_MODELS_DIR ?= $(CURDIR)/.rootstock/models

.PHONY: help demo build model gemma test check verify-full clean

help:
	@echo "make demo         build, fetch the model, train two adapters (minutes, the first time) and serve them;"
	@echo "                  ARGS=--ready takes the adapters of models/demo in their place"
	@echo "make test         every check and every test; fetches what they need"
	@echo "make check        formatting, lints and documentation only"
	@echo "make build        target/release/rootstock"
	@echo "make model        fetch the model of the demo and the tests into .rootstock/models"
	@echo "make gemma        fetch Gemma 3 270M for its tests; making it accepts https://ai.google.dev/gemma/terms"
	@echo "make verify-full  the long tests and the load measurements"
	@echo "make clean        remove what was built and fetched"

# Further flags: make demo ARGS='--ready --port 8001'
demo:
	cargo build --release --locked
	scripts/demo.sh $(MODEL) $(ARGS)

build:
	cargo build --release --locked

model:
	cargo run --quiet --locked -- pull $(MODEL)

# Under terms of its own, so that it is neither the default nor fetched by anything else than this.
gemma:
	cargo run --quiet --locked -- pull gemma3-270m --accept-licence

test:
	scripts/test.sh

check:
	scripts/test.sh check

verify-full: model
	scripts/setup-clients.sh
	scripts/verify-full.sh

clean:
	cargo clean
	rm -rf .rootstock .venv tests/clients/js/node_modules
