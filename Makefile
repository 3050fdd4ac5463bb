# Commands that set up and go: `make demo` trains until it groks and leaves a report, `make test` runs every test, and
# `make quick`, for the loop at the desk, those of the library that take little. All install a software Vulkan driver
# where the machine has none, so that they work without a GPU.

CARGO ?= cargo
# Debian's chromium brings a second, independent Vulkan driver (SwiftShader); tests use both.
SWIFTSHADER := $(wildcard /usr/lib/chromium/vk_swiftshader_icd.json)
# Mesa's device-selection layer complains without a session directory, and there is nothing to select.
export NODEVICE_SELECT ?= 1
# Nearly all the time of the tests goes into what drivers make of kernels. Mesa keeps that, here wherever HOME is.
TESTS := MESA_SHADER_CACHE_DIR=$(CURDIR)/target/shaders $(if $(SWIFTSHADER),VK_ADD_DRIVER_FILES=$(SWIFTSHADER)) $(CARGO) test

.PHONY: demo test quick test-python test-python-models setup setup-tests

# Minutes each where no driver has compiled their kernels before.
SLOW := checked_and_unchecked every_adapter_passes ops::streaming ops::linear ops::attention::tests::large \
	a_product_takes_in bench::cost instrument::

demo: setup
	$(CARGO) run --release -- run grok-quick

test: setup-tests
	$(TESTS) --all-features

# The library's tests but those of the instruments and of the longest kernels.
quick: setup
	$(TESTS) --all-features --lib -- $(foreach slow,$(SLOW),--skip $(slow))

# The wheel, installed into an environment of its own, and the package's tests with the notebook; and those that need
# PyTorch, some gigabytes.
PYTHON ?= python3
VENV := target/venv
test-python: setup $(VENV)
	rm -rf target/wheels
	$(VENV)/bin/maturin build -q --profile dev --out target/wheels
	$(VENV)/bin/pip install -q --force-reinstall --no-deps target/wheels/*.whl
	$(VENV)/bin/pip install -q "$$(echo target/wheels/*.whl)[notebook]"
	$(VENV)/bin/mypy
	MESA_SHADER_CACHE_DIR=$(CURDIR)/target/shaders $(VENV)/bin/python -m pytest

test-python-models: test-python
	$(VENV)/bin/pip install -q torch transformers "transformer-lens>=4"
	MESA_SHADER_CACHE_DIR=$(CURDIR)/target/shaders $(VENV)/bin/python -m pytest python/tests_models

$(VENV):
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q "maturin>=1.16,<2" mypy pytest nbclient ipykernel

setup:
	@tools/setup.sh vulkan

setup-tests:
	@tools/setup.sh vulkan browser
