# Each target makes .venv/ when there is none. `make demo` and `make test` are the two commands of the README.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all test-lowest lint docs dist bench clean

demo: $(READY)
	$(BIN)/bitfuse demo --out demo

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

test-all: test
	$(BIN)/python -m pip install -qq -c constraints.txt --editable ".[all]"
	$(BIN)/python -m pytest -q -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Our dependencies at the lowest versions that pyproject.toml allows; warnings of old versions are no failures.
test-lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install -qq --upgrade "pip>=25.1"
	.venv-lowest/bin/python scripts/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install -qq -c .venv-lowest/lowest.txt --editable ".[clip,faiss,milvus,onnx,parquet,remote,serve,tune]" --group dev
	.venv-lowest/bin/python -m pytest -q -n 2 --dist worksteal -m "not slow" -W default

docs: $(READY)
	$(BIN)/python -m pip install -qq -c constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site

# The sdist and the wheel, and that the wheel works alone in an empty environment.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m pytest -q tests/test_release.py

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf .venv .venv-lowest demo dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -qq -c constraints.txt torch
	$(BIN)/python -m pip install -qq -c constraints.txt --editable ".[clip,faiss,milvus,onnx,parquet,remote,serve,tune]" --group dev
	touch $(READY)
