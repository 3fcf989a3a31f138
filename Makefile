# Two commands from a fresh clone: `make demo` and `make test`. Both build .venv once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test slow check format docs bench clean

help:
	@echo "make demo    small against large batches on real digits, then which is soonest: about a minute and a half"
	@echo "make test    run all tests (slow studies: make slow)"
	@echo "make check   formatter, linter and type checker"
	@echo "make format  let the formatter and the linter mend what they can"
	@echo "make docs    README and docs/ as a site, in build/site"
	@echo "make bench   run every benchmark and write its table to docs/results (about two hours)"
	@echo "make clean   remove .venv and caches; runs and data stay"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; try: make PYTHON=python3.12 demo"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python has no venv module here; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Setting up $(VENV) (about 5 GB and a few minutes; later only what has changed) ..."
	@{ $(BIN)/python -m pip -V >/dev/null 2>&1 && [ "$$($(BIN)/python -V)" = "$$($(PYTHON) -V)" ]; } || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	@BIN=$(BIN) sh benchmarks/demo.sh

test: $(READY)
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

slow: $(READY)
	@$(BIN)/python -m pytest -m slow

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --clean
	@echo "Open build/site/index.html in a browser; its search wants a server: $(BIN)/python -m http.server -d build/site"

bench: $(READY)
	@BIN=$(BIN) sh benchmarks/all.sh

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
