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

.PHONY: demo test quick setup setup-tests

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

setup:
	@tools/setup.sh vulkan

setup-tests:
	@tools/setup.sh vulkan browser
