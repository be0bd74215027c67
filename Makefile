# Every target makes what it needs: the environment in .venv, pinned by requirements/*.txt, on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check
OUT    ?= out
# Test processes side by side, one thread each: two that spin on the same cores are ten times slower.
WORKERS ?= auto
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: help demo test test-fast test-vlm test-serve lint bench docs lock text-model vlm-model clean
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.runtime ## measure the bundled MoE and every policy on it; writes out/demo/report.html
	$(BIN)/evenmoe demo --out $(OUT)/demo

test: $(VENV)/.dev ## the whole suite
	$(PYTEST)

test-fast: $(VENV)/.dev ## the suite without the tests marked slow
	$(PYTEST) -m "not slow"

test-serve: $(OUT)/serve_env/.ready ## the tests that need vLLM, in an environment of its own
	HF_HUB_OFFLINE=1 $(OUT)/serve_env/bin/python -m pytest -m serve -n 2 --dist loadfile tests/serve

test-vlm: $(VENV)/.dev ## the tests that need lmms-eval and VLMEvalKit, each in an environment of its own
	BASE=$(VENV) sh tools/vlm_env/lmms_eval.sh $(OUT)/vlm_env/lmms_eval
	HF_HUB_OFFLINE=1 $(OUT)/vlm_env/lmms_eval/bin/python -m pytest -m vlm tests/vlm/test_lmms_eval.py
	BASE=$(VENV) sh tools/vlm_env/vlmevalkit.sh $(OUT)/vlm_env/vlmevalkit
	HF_HUB_OFFLINE=1 $(OUT)/vlm_env/vlmevalkit/bin/python -m pytest -m vlm tests/vlm/test_vlmevalkit.py

# Like the others, but with vLLM and the transformers that it wants. Compiled side by side, and once: every start of a
# server imports vLLM three times, and some environments never keep what an import compiles.
# A package may hold files for other Pythons, which do not compile; nothing imports those.
$(OUT)/serve_env/.ready: requirements/serve.txt pyproject.toml
	$(PYTHON) -m venv --clear $(OUT)/serve_env
	$(OUT)/serve_env/bin/pip --disable-pip-version-check install -q --no-compile -r requirements/serve.txt
	$(OUT)/serve_env/bin/python -m compileall -q -j 0 $(OUT)/serve_env/lib >/dev/null || true
	$(OUT)/serve_env/bin/pip --disable-pip-version-check install -q --no-deps -e .
	@touch $@

lint: $(VENV)/.dev ## format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.runtime ## time the routing policies beside a plain top-k
	$(BIN)/evenmoe bench routing --json $(OUT)/bench-routing.json

docs: $(VENV)/.docs ## the documentation as a site, in site/
	$(BIN)/mkdocs build --strict --quiet

text-model: $(VENV)/.runtime ## rebuild the bundled text model from its sources (about an hour on 2 cores)
	MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 MALLOC_MMAP_MAX_=0 \
		$(BIN)/python -m tools.text_model --work $(OUT)/text_model --out $(OUT)/text_model/export

vlm-model: $(VENV)/.dev ## rebuild the bundled vision-language model from its sources (under an hour on 2 cores)
	$(BIN)/python -m tools.vlm_model --work $(OUT)/vlm_model --out $(OUT)/vlm_model/export

lock: ## resolve pyproject.toml again into requirements/*.txt
	$(PYTHON) -m venv $(OUT)/lock-venv
	$(OUT)/lock-venv/bin/pip install -q pip-tools
	LOCK_COMPILER="$(OUT)/lock-venv/bin/pip-compile" sh requirements/compile.sh

clean: ## remove the environment and everything generated
	rm -rf $(VENV) $(OUT) site build

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evenmoe needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	@echo "Setting up $(VENV) (once, about two minutes) ..."
	$(PIP) install -q -r requirements/runtime.txt
	$(PIP) install -q --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	$(PIP) install -q -r requirements/dev.txt
	@touch $@

$(VENV)/.docs: requirements/docs.txt $(VENV)/.runtime
	$(PIP) install -q -r requirements/docs.txt
	@touch $@
