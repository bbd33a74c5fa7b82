# Everything runs in an environment of its own, made by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: bench demo test lint format generate pictures zipapp clean

demo: $(VENV)/.demo
	$(BIN)/python -m sqstee demo

# Compiled first: the tests start some thousand processes, which may not be allowed to keep what they compile.
# pytest itself is allowed to: otherwise each worker rewrites the assertions of every test module in every run.
test: $(VENV)/.test
	$(BIN)/python -m compileall -q sqstee tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 8 --dist worksteal

# The machine should have nothing else to do meanwhile: what it prints is in tests/bench/RESULTS.md.
# BENCH=--quick takes two minutes and keeps nothing; BENCH=shipping.py is one of them.
bench: $(VENV)/.test
	$(BIN)/python tests/bench/all.py $(BENCH)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The manual's tables, its roff and the completions, from the program itself.
generate: $(VENV)/.lint
	$(BIN)/python tests/tools/generate.py

# README's pictures, drawn anew: what the commands print on a terminal, what the board shows in Chromium.
pictures: $(VENV)/.test
	$(BIN)/python tests/tools/pictures.py
	$(BIN)/python tests/tools/web_pictures.py

# One file for each extra that is installed; all install the package itself, in place.
$(VENV)/.demo $(VENV)/.test: $(VENV)/.%: pyproject.toml sqstee/launcher
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

# With what the tests need, which are checked as well.
$(VENV)/.lint: pyproject.toml sqstee/launcher
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lint,test]'
	touch $(VENV)/.test $@

# Everything in one file, for nodes without pip.
zipapp: $(VENV)/.lint
	$(BIN)/python tests/tools/bundle.py

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
