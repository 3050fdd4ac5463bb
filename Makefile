# Two commands that set up and go: `make demo` trains until it groks and leaves a report, `make test` runs
# every test. Both install a software Vulkan driver where the machine has none, so that they work without
# a GPU.

CARGO ?= cargo
# Debian's chromium brings a second, independent Vulkan driver (SwiftShader); tests use both.
SWIFTSHADER := $(wildcard /usr/lib/chromium/vk_swiftshader_icd.json)
# Mesa's device-selection layer complains without a session directory, and there is nothing to select.
export NODEVICE_SELECT ?= 1

.PHONY: demo test setup setup-tests

demo: setup
	$(CARGO) run --release -- run grok-quick

test: setup-tests
	$(if $(SWIFTSHADER),VK_ADD_DRIVER_FILES=$(SWIFTSHADER)) $(CARGO) test --all-features

setup:
	@tools/setup.sh vulkan

setup-tests:
	@tools/setup.sh vulkan browser
