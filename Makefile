# Everything happens in .venv, with the versions in constraints.txt. GNU make 3.81 or later and a plain sh.

PYTHON = python3
VENV   = .venv
JOBS   = 3
PY     = $(VENV)/bin/python
PIP    = $(PY) -m pip install --disable-pip-version-check --retries 5 -c constraints.txt

.PHONY: help demo test faults unit bench pictures recording lint edge clean

help:
	@echo "make demo         the whole loop on this machine; ONCE=1 ends when it has closed"
	@echo "make test         all tests, with a real broker and a real database; ARGS='...' go to pytest"
	@echo "make faults       every row of docs/faults.md at full length: hours; ONLY=A3 N=50 SEED=7 make it shorter"
	@echo "make faults BROKEN=1   each fault test fails with a program that is broken on purpose"
	@echo "make unit         the tests that need no server: seconds"
	@echo "make bench        every figure of docs/benchmarks.md; ONLY=name runs one, WRITE=1 writes the page's table"
	@echo "make pictures     the form's pages as they look now, into docs/form"
	@echo "make recording    three taps to a stored verdict, step by step, into build/recording"
	@echo "make lint         style, types, who may import whom"
	@echo "make edge         the edge extra alone, installed into an empty environment, runs"
	@echo "make clean        removes what these made, except $(VENV)"

demo: $(VENV)/.ready-demo
	@$(PY) -m simulators demo $(if $(ONCE),--once)

# The fixed seed: workers must find the same tests in the same order.
test: $(VENV)/.ready
	@PYTHONHASHSEED=0 $(PY) -m pytest -n $(JOBS) $(ARGS)

faults: $(VENV)/.ready
	@$(PY) -m tests.faults $(if $(BROKEN),--broken) $(if $(ONLY),--only $(ONLY)) $(if $(N),--number $(N)) $(if $(SEED),--seed $(SEED)) $(ARGS)

unit: $(VENV)/.ready
	@$(PY) -m pytest tests/unit $(ARGS)

bench: $(VENV)/.ready
	@$(PY) -m tests.bench $(ONLY) $(if $(WRITE),--write)

pictures: $(VENV)/.ready
	@$(PY) -m tests.services.pictures docs/form $(ONLY)

recording: $(VENV)/.ready
	@PDM_RECORD=build/recording $(PY) -m pytest -q tests/services/test_phone.py -k three_taps
	@echo "look at it: $(VENV)/bin/playwright show-trace build/recording/three-taps.zip"

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

edge: $(VENV)/.made
	rm -rf build/edge && $(PY) -m venv build/edge
	build/edge/bin/pip install --quiet --disable-pip-version-check -c constraints.txt '.[edge]'
	build/edge/bin/edge-agent run --once --config docs/examples/csv.toml
	build/edge/bin/edge-agent status --config docs/examples/csv.toml
	@! build/edge/bin/pip list 2>/dev/null | grep -iE '^(fastapi|psycopg|scikit-learn|skl2onnx|dbos) ' || (echo "the edge extra pulls in the server's" >&2; exit 1)

clean:
	rm -rf .demo .demo.lock build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name $(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo needs no tools, so its environment is made without them and the tests add theirs.
$(VENV)/.ready-demo: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing the demo's packages into $(VENV) (a few minutes the first time)"
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.ready: $(VENV)/.ready-demo
	@echo "installing the tests' packages into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@

# A python3 that is too old may have a newer one beside it. Debian keeps a part of venv in a package of its own.
$(VENV)/.made:
	@new_enough='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if $(PY) -c "$$new_enough" 2>/dev/null && $(PY) -m pip --version >/dev/null 2>&1; then touch $@; exit 0; fi; \
	for python in $(PYTHON) python3.14 python3.13 python3.12 python3.11 none; do \
		if $$python -c "$$new_enough" 2>/dev/null; then break; fi; \
	done; \
	if [ $$python = none ]; then \
		echo "Python 3.11 or later is needed; $(PYTHON) is: `$(PYTHON) --version 2>&1`" >&2; \
		echo "if there is another one: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with `$$python --version`"; \
	if $$python -c 'import ensurepip' 2>/dev/null; then $$python -m venv --clear $(VENV); \
	elif $$python -m virtualenv --version >/dev/null 2>&1; then $$python -m virtualenv --quiet --clear $(VENV); \
	else echo "Python's venv is not complete. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; fi && \
	touch $@
