# Two commands: `make demo` runs the whole path on a toy web, `make test` checks the code. The rest serves them.

VENV ?= .venv
PY := $(VENV)/bin/python
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)

.PHONY: demo install test test-all lint constraints peers clean

demo: install
	$(PY) -m dsmath_jax.main --config=configs/tiny.py --workdir=runs/tiny

install: $(VENV)/.installed

# A file's tests stay together: they share what they compile.
PYTEST := $(PY) -m pytest -n auto --maxprocesses=4 --dist=loadfile

# make test ROOM=rl runs the tests of dsmath_jax/rl alone.
test: lint
	$(PYTEST) $(addprefix tests/,$(ROOM))

test-all: lint
	$(PYTEST) -m ''

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/codespell dsmath_jax benchmarks configs launch docs *.md
	! grep -rnwIE --exclude-dir=toy "$(NOT_OUR_WORDS)" dsmath_jax benchmarks configs launch docs tests README.md CHANGELOG.md

# CONTRIBUTING.md says what to write instead.
NOT_OUR_WORDS := mend(s|ed|ing)?|anew|nursery|parted|goes on|has no meaning|is none of|tells of|what became of|lies (in|beside)|so many

# A stamp appears only after pip has succeeded, so an interrupted installation is taken up again.
$(VENV)/.installed: setup.py constraints.txt | $(VENV)/bin/pip
	$(PY) -m pip install -e '.[all]' -c constraints.txt
	@touch $@

$(VENV)/.installed-dev: setup.py constraints.txt | $(VENV)/bin/pip
	$(PY) -m pip install -e '.[dev]' -c constraints.txt
	@touch $(VENV)/.installed $@

$(VENV)/bin/pip:
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "dsmath-jax needs Python 3.11, 3.12 or 3.13: install one and name it, make PYTHON=/path/to/python" >&2; \
		exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)

# One pin per package, or one per range of Python versions; the markers for Linux on x86-64 itself are left out. All
# extras are resolved together, so that any of them can be installed with these pins; then every Python is tried.
constraints: | $(VENV)/bin/pip
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --quiet --universal --python-version=3.11 --all-extras --upgrade \
		--no-annotate --no-header --output-file=$(VENV)/constraints.txt setup.py
	{ echo "# The versions that were tested, on Python 3.11 to 3.13. Refresh them with: make constraints"; \
		sed -E -e "s/( and)? (platform_machine|sys_platform|implementation_name) == '(x86_64|linux|cpython)'//g" \
			-e "s/( and)? python_full_version < '3.14'//; s/ ;$$//; s/; and /; /" $(VENV)/constraints.txt; \
	} > $(VENV)/constraints.new
	for version in 3.11 3.12 3.13; do \
		$(PY) -m uv pip compile --quiet --all-extras --constraint=$(VENV)/constraints.new setup.py \
			--python-version=$$version --python-platform=x86_64-manylinux_2_31 >/dev/null || exit; \
	done
	mv $(VENV)/constraints.new constraints.txt

# The libraries that benchmarks and tests compare with, in a second environment: its pins and ours conflict.
peers: $(VENV)-peers/.installed

$(VENV)-peers/.installed: constraints-peers.txt | $(VENV)/bin/pip
	$(PY) -m venv --clear $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --no-deps -r constraints-peers.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
