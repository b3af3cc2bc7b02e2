# Every target sets up what it needs; a fresh machine with Python >= 3.11 and git is enough.
SHELL := /bin/bash
PY := .venv/bin/python
# A tool that writes no bytecode starts slowly, and so would everything that we measure.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick lint format bench clean

.venv/ready: pyproject.toml uv.lock scripts/bootstrap.sh
	@scripts/bootstrap.sh

demo: .venv/ready   ## watch a push train a model and come back as a commit
	@.venv/bin/pushtrain demo $(ARGS)

test: .venv/ready   ## every check: lint, types, house plan, tests
	@scripts/bootstrap.sh test
	@$(PY) -m pytest -n 2 --dist worksteal -q $(ARGS)

quick: .venv/ready  ## a contributor's subset, at most 90 s
	@scripts/bootstrap.sh test
	@$(PY) -m pytest -n 2 --dist worksteal -q -m "not slow" $(ARGS)

lint: .venv/ready   ## ruff, strict types, the house plan
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: .venv/ready
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format

bench: .venv/ready  ## the table of docs/benchmarks.md, floor measured in the same run
	@scripts/bootstrap.sh test
	@$(PY) -m bench $(ARGS)

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
