# `make` or `make help` is the map.
PYTHON ?= python3
VENV := .venv
NR := $(VENV)/bin/nr
PY := $(VENV)/bin/python
# The newest run, where there is one: else `nr` takes the shipped model.
CHECKPOINT ?= $(patsubst %/,%,$(dir $(shell ls -t runs/*/model.safetensors 2>/dev/null | head -n 1)))
SHARDS ?=
OUT ?=
LIMIT ?=
SOURCE ?= synthetic
REF_MODE ?= disjoint:0.5,env:0.2,none:0.3

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lowest lint shards train eval-mismatch enhance space bench results clean

help: ## this map
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/ready ## .venv with nr and what it needs

$(VENV)/ready: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -e '.[dev]'
	touch $@

demo: setup ## the whole road in minutes: shards, a short training, the table of modes, one enhanced file
	$(PY) -m cli.demo

test: setup ## the tests (a few minutes)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile

check: setup lint ## everything: linters, types, tests, slow tests
	$(PY) -m pytest -m "not lowest"

lowest: setup ## tests on the oldest versions allowed, in a folder of their own (gigabytes)
	$(PY) -m pytest -m lowest

lint: setup ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

shards: setup ## build a data set: SOURCE=synthetic|folders|pairs|voicebank-demand
	$(NR) build-shards --source $(SOURCE)

train: setup ## train on the data set under shards/: REF_MODE=..., SHARDS=..., OUT=...
	$(NR) train --ref-mode $(REF_MODE) $(if $(SHARDS),--shards $(SHARDS)) $(if $(OUT),--out $(OUT))

eval-mismatch: setup ## none, oracle, same place, same environment, mismatch: CHECKPOINT= SHARDS= OUT= LIMIT=
	$(NR) evaluate --modes none,oracle,disjoint,env,mismatch \
	  $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(SHARDS),--shards $(SHARDS)) \
	  $(if $(OUT),--out $(OUT)) $(if $(LIMIT),--limit $(LIMIT))

enhance: setup ## enhance files: FILES="a.wav b.wav" REF=clip.wav OUT=folder
	$(NR) enhance $(FILES) $(if $(REF),--ref $(REF)) --out $(or $(OUT),out)

space: ## all of a Hugging Face Space of the page (nr app), into OUT=out/space
	mkdir -p $(or $(OUT),out/space)
	cp -R space/. nrdata nrmodel $(or $(OUT),out/space)

bench: setup ## the benchmarks, into benchmarks/results/
	for b in network enhance data; do $(PY) benchmarks/$$b.py | tee benchmarks/results/$$b.txt; done

results: setup ## rebuild every table and picture in results/ from the committed rows
	$(PY) -m cli.results

clean: ## what was built here, but for .venv and data sets
	rm -rf demo out build .pytest_cache .mypy_cache .ruff_cache .hypothesis
