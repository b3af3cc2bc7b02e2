# Every target sets up what it needs; a fresh machine with Python >= 3.11 and git is enough.
SHELL := /bin/bash
PY := .venv/bin/python
# A tool that writes no bytecode starts slowly, and so would everything that we measure.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick coverage chaos defences lint format bench clean

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

GATE := core/wire/test_address.py core/wire/test_frames.py core/text/test_heads.py core/wire/test_roster.py core/wire/test_signing.py \
	core/text/test_strictjson.py executor/test_gate.py executor/test_gpus_now.py executor/test_joining.py executor/test_rotate.py \
	executor/test_admission.py executor/test_web.py executor/test_web_noise.py executor/test_whose_run.py \
	plumbing/http/test_lying_tunnel.py plumbing/http/test_serve.py plumbing/http/test_serve_under_attack.py sender/test_sender_door.py test_doors.py
coverage: .venv/ready   ## full branch coverage of signing, the roster and the request gate; about a minute
	@scripts/bootstrap.sh test
	@$(PY) -m pytest -q -m "not slow" --cov --cov-config=tests/gate.coveragerc --cov-report=term-missing \
		$(addprefix tests/,$(GATE)) $(ARGS)

defences: .venv/ready   ## remove each defence and see its test fail; some minutes
	@scripts/bootstrap.sh test
	@$(PY) scripts/defences.py $(ARGS)

lint: .venv/ready   ## ruff, strict types, the house plan
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: .venv/ready
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format

chaos: .venv/ready  ## every crash point, a thousand random kills, ten thousand odd requests; about 40 minutes
	@scripts/bootstrap.sh test
	@$(PY) tests/chaos/crashpoints.py
	@$(PY) tests/chaos/senderpoints.py
	@$(PY) tests/chaos/storm.py $(ARGS)
	@PUSHTRAIN_TEST_DEEP=1 $(PY) -m pytest -n 2 -q -m deep

bench: .venv/ready  ## the table of docs/benchmarks.md, floor measured in the same run
	@scripts/bootstrap.sh test
	@$(PY) -m bench $(ARGS)

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
