# Everything runs in .venv. `serve` and `demo` install the base package only; the other verbs add the development extras.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev
CPP := $(wildcard native/*.cc native/*.h native/*.inc native/tiers/*)
BUILD_INPUTS := pyproject.toml CMakeLists.txt native/CMakeLists.txt $(CPP)
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
LINTED := src tests scripts examples benchmarks
TARGETS = $(BIN)/python -m benchmarks.targets --page docs/speed.md
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup serve demo test check format bench bench-avx2 bench-accuracy bench-busy bench-kv bench-peers wheel docs clean

help:  ## Show the verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  make %-14s %s\n", $$1, $$2}'

# The build tools live in .venv so that a rebuild finds the same paths again: only what changed is compiled.
$(BASE): $(BUILD_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "penstock needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". hint: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing penstock into $(VENV)" >&2
	@$(PIP) 'scikit-build-core>=0.11' 'nanobind>=2.4' $$(command -v cmake >/dev/null || echo 'cmake>=3.21') $$(command -v ninja >/dev/null || echo ninja)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --editable .
	@touch $@

$(DEV): $(BASE)
	@echo "installing the development extras" >&2
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

setup: $(DEV)  ## Make .venv with the penstock command and the development extras

serve: $(BASE)  ## Serve the bundled model on 127.0.0.1:8000 (ARGS="--port 9000" adds flags)
	@$(BIN)/penstock serve $(ARGS)

demo: $(BASE)  ## Serve the bundled model, ask it one question, print the answer and its speed
	@$(BIN)/python examples/demo.py

test: $(DEV)  ## Run the whole test suite (ARGS="tests/kv -x" narrows it)
	@$(BIN)/python -m pytest $(ARGS)

check: $(DEV)  ## Lint, types, layers, sizes and C++ format
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports
	$(BIN)/python scripts/size.py
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(DEV)  ## Rewrite Python and C++ in the project's format
	$(BIN)/ruff format $(LINTED)
	$(BIN)/clang-format -i $(CPP)

bench: $(DEV)  ## Measure this machine, which should be idle: kernels, engine, start-up, loading, HTTP under load, the load generator
	@for name in kernels engine_cpu engine_loop startup load storm client; do echo "== $$name"; \
	  case $$name in load) page=models;; client) page=benchmarking;; *) page=speed;; esac; \
	  $(BIN)/python benchmarks/$$name.py --json benchmarks/records/$$name.json --page docs/$$page.md || exit 1; done
	@$(TARGETS)

bench-avx2: $(DEV)  ## Measure the engine on the AVX2 tier, against that tier's limits
	@$(BIN)/python benchmarks/engine_cpu.py --tier avx2 --json benchmarks/records/engine_cpu_avx2.json --page docs/speed.md $(ARGS)

bench-accuracy: $(DEV)  ## Measure what packed types cost in accuracy, here and in llama.cpp (in PEERS_VENV or build/peers/venv)
	@$(BIN)/python benchmarks/accuracy.py --peer "$${PEERS_VENV:-build/peers/venv}/bin/python" --json benchmarks/records/accuracy.json --page docs/models.md $(ARGS)

bench-kv: $(DEV)  ## Measure what rounded keys and values cost in quality (ARGS="--text FILE --model MODEL")
	@$(BIN)/python benchmarks/kv_quality.py --json benchmarks/records/kv_quality.json --page docs/models.md $(ARGS)

bench-busy: $(DEV)  ## Measure one stream while another process keeps a core busy, beside llama-server
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.peers.busy --json benchmarks/records/busy.json --page docs/speed.md $(ARGS)
	@$(TARGETS)

bench-peers: $(DEV)  ## Measure penstock beside other engines, which are installed below build/peers (ARGS="--quick" tries it)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.peers $(ARGS)
	@$(TARGETS)

wheel: $(BASE)  ## Build a wheel into dist/
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

docs: $(DEV)  ## Check that every link in the documents leads somewhere
	@$(BIN)/python scripts/check_docs.py

clean:  ## Remove .venv, build and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
