# The two commands of the README, and what they need. Everything is made in .venv and build/, nothing elsewhere.

PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := build/demo
ASAN := build/asan
ASAN_TESTS := tests/kernels $(wildcard tests/engines/test_native*.py)
ARM_CXX ?= aarch64-linux-gnu-g++
ARM_RUN ?= qemu-aarch64
Q ?= Tom has 12 apples. He buys 3 more and gives 5 to Anna. How many apples does Tom have now?

# Built by GCC 12 on a CPU with AMX, llama.cpp crashes in its first decode; without these instructions it does not.
ifneq ($(filter x86_64 amd64,$(shell uname -m)),)
LLAMA_FLAGS := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
endif

NATIVE_SOURCES := CMakeLists.txt $(shell find kernels -name '*.cpp' -o -name '*.h')
NATIVE_TESTS := $(wildcard tests/kernels/*.cpp tests/kernels/*.h)
MODEL := examples/word_problems
MODEL_FILES := $(shell find $(MODEL) -type f)
EXPORT_FILES := $(shell find export -type f -not -name '*.pyc')
EXPORT := $(BIN)/edgereason export --base $(MODEL)/base --guidance-adapter $(MODEL)/guidance \
	--answer-adapter $(MODEL)/answer --force

.PHONY: demo test lint types imports build/typed docs pytest accuracy results default-bundle bench-peers bench-peers-avx2 conformance \
	test-arm test-asan clean

demo: $(DEMO)/native/bundle.json $(DEMO)/shared/bundle.json $(DEMO)/gguf/bundle.json $(DEMO)/onnx/bundle.json
	@$(BIN)/python examples/compare.py "$(Q)" $(DEMO)/native $(DEMO)/shared $(DEMO)/gguf $(DEMO)/onnx

test: lint pytest

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(filter-out CMakeLists.txt,$(NATIVE_SOURCES)) $(NATIVE_TESTS)
	$(MAKE) --no-print-directory types imports

types: .venv/.dependencies build/typed
	MYPYPATH=build/typed $(BIN)/mypy --package edgereason

# Which room imports which: the contracts of pyproject.toml. Python runs without .pth files, and so without the import hook.
imports: .venv/.dependencies build/typed
	cd build/typed && PYTHONPATH="$$($(CURDIR)/$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		$(CURDIR)/$(BIN)/python -S -c 'from importlinter.cli import lint_imports_command as main; main()' \
		$(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.import_linter_cache

# mypy and import-linter do not see the import hook that puts export/ and kernels/ into the package: they get a tree of
# links that has them.
build/typed:
	@rm -rf $@ && mkdir -p $@/edgereason
	@ln -s $(CURDIR)/edgereason/* $(CURDIR)/export $(CURDIR)/kernels $@/edgereason

pytest: .venv/.installed
	$(BIN)/python -m pytest

# How many of the 500 held-out problems each int4 bundle answers right.
accuracy: $(DEMO)/native/bundle.json $(DEMO)/gguf/bundle.json $(DEMO)/onnx/bundle.json
	$(BIN)/edgereason eval $(DEMO)/native $(DEMO)/gguf $(DEMO)/onnx --data $(MODEL)/held_out.jsonl

# The manual's page of results; RESULTS="--tables stages" and the like go to the program.
results: .venv/.installed
	$(BIN)/python benchmarks/results.py $(RESULTS)

# The bundle that ships inside the package: the native int4 export of the default model, one base with two adapters.
default-bundle: $(DEMO)/shared/bundle.json
	rm -rf edgereason/default_bundle
	cp -r $(DEMO)/shared edgereason/default_bundle
	rm -rf edgereason/default_bundle/cache

$(DEMO)/shared/bundle.json: .venv/.installed $(MODEL_FILES) $(EXPORT_FILES)
	$(EXPORT) --layout shared --out $(@D)

$(DEMO)/%/bundle.json: .venv/.installed $(MODEL_FILES) $(EXPORT_FILES)
	$(EXPORT) --format $* --out $(@D)

# Our engine beside those that one can pip-install; BENCH="--shape qwen2.5-1.5b" and the like go to the program.
bench-peers: .venv/.installed build/peers/openvino/.installed
	$(BIN)/python benchmarks/peers.py --json build/bench/peers.json $(BENCH)

# Both held to AVX2: llama.cpp is compiled for it, which takes some minutes, and ours told.
bench-peers-avx2: .venv/.installed build/peers/llama-avx2/.installed
	EDGEREASON_ISA=avx2 $(BIN)/python benchmarks/peers.py --json build/bench/peers-avx2.json --engines native llama.cpp \
		--python llama.cpp=build/peers/llama-avx2/$(notdir $(BIN))/python $(BENCH)

# optimum-intel asks for torchvision and does not need it; the one that comes does not fit a torch without CUDA.
build/peers/openvino/.installed: benchmarks/engines/openvinogenai.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/$(notdir $(BIN))/python -m pip --disable-pip-version-check install --quiet --requirement $<
	$(@D)/$(notdir $(BIN))/python -m pip --disable-pip-version-check uninstall --quiet --yes torchvision
	touch $@

# Without pip's cache, which would take this build for the one in .venv.
build/peers/llama-avx2/.installed: constraints.txt
	$(PYTHON) -m venv $(@D)
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON" \
		$(@D)/$(notdir $(BIN))/python -m pip --disable-pip-version-check install --quiet --no-cache-dir --no-binary \
		llama-cpp-python --constraint constraints.txt llama-cpp-python
	touch $@

# Against programs that are not part of the environment: llama.cpp's converter comes with the source of llama-cpp-python.
conformance: .venv/.installed build/conformance/.downloaded build/conformance/bitsandbytes \
		build/conformance-gptqmodel/.installed build/conformance-optimum/.installed
	EDGEREASON_CONVERTER="$$(find $(CURDIR)/build/conformance -name convert_hf_to_gguf.py)" \
		EDGEREASON_BITSANDBYTES="$(CURDIR)/build/conformance/bitsandbytes" \
		EDGEREASON_GPTQMODEL="$(CURDIR)/build/conformance-gptqmodel/$(notdir $(BIN))/python" \
		EDGEREASON_OPTIMUM="$(CURDIR)/build/conformance-optimum/$(notdir $(BIN))/python" \
		$(BIN)/python -m pytest -m conformance -rs

build/conformance/.downloaded: constraints.txt
	mkdir -p $(@D)
	$(PIP) download --quiet --no-binary :all: --no-deps --no-build-isolation --constraint constraints.txt \
		--dest $(@D) llama-cpp-python
	cd $(@D) && tar -xzf llama_cpp_python-*.tar.gz
	touch $@

# Beside the environment: PEFT would import it wherever it finds it.
build/conformance/bitsandbytes:
	$(PIP) install --quiet --no-deps --target $@ "bitsandbytes>=0.48"

build/conformance-gptqmodel/.installed: tests/export/formats/gptqmodel_needs.txt tests/export/formats/gptqmodel.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/$(notdir $(BIN))/python -m pip --disable-pip-version-check install --quiet --requirement $<
	$(@D)/$(notdir $(BIN))/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation \
		--requirement $(word 2,$^)
	touch $@

build/conformance-optimum/.installed: tests/export/formats/optimum.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/$(notdir $(BIN))/python -m pip --disable-pip-version-check install --quiet --requirement $<
	touch $@

# The ARM kernels under an emulator: with i8mm, with dot products only, and with neither.
test-arm:
	@command -v cmake >/dev/null && command -v $(ARM_CXX) >/dev/null && command -v $(ARM_RUN) >/dev/null || \
		{ echo "test-arm needs cmake, $(ARM_CXX) and $(ARM_RUN): apt-get install cmake g++-aarch64-linux-gnu qemu-user"; exit 1; }
	cmake -S . -B build/arm -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(ARM_CXX) \
		-DCMAKE_EXE_LINKER_FLAGS=-static -DEDGEREASON_PYTHON=OFF -DEDGEREASON_AGREEMENT=ON
	cmake --build build/arm
	$(ARM_RUN) -cpu max build/arm/agreement --expect i8mm,neon,scalar
	$(ARM_RUN) -cpu neoverse-n1 build/arm/agreement --expect neon,scalar
	$(ARM_RUN) -cpu cortex-a72 build/arm/agreement --expect scalar

# The kernels and the native engine under AddressSanitizer and UBSan, with the checks of a debug build. Python itself is
# not built so: the sanitizer's library has to be there before it, and what Python keeps until its end is no leak.
# Two tests of memory in use are left out: AddressSanitizer holds freed memory back. Pytest runs elsewhere than here,
# where `import edgereason` would find the sources instead of the installed package.
test-asan: $(ASAN)/.installed
	$(ASAN)/cmake/agreement
	cd $(ASAN) && PYTHONDONTWRITEBYTECODE=1 ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		$(CURDIR)/$(ASAN)/env/bin/python -m pytest -p no:cacheprovider -k "not no_memory_behind" $(ASAN_TESTS:%=$(CURDIR)/%)

# An environment with our package alone, which borrows everything else from .venv.
$(ASAN)/.installed: .venv/.dependencies $(NATIVE_SOURCES) $(NATIVE_TESTS) $(shell find edgereason export kernels -name '*.py')
	test -x $(ASAN)/env/bin/python || $(BIN)/python -m venv --without-pip $(ASAN)/env
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$($(ASAN)/env/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	CXX=$(CXX) $(ASAN)/env/bin/python -m pip --disable-pip-version-check install --quiet --ignore-installed \
		--no-build-isolation --no-deps --config-settings build-dir=$(ASAN)/cmake \
		--config-settings cmake.build-type=Debug --config-settings cmake.define.CMAKE_CXX_FLAGS_DEBUG="-g -O1" \
		--config-settings cmake.define.EDGEREASON_SANITIZE=ON --config-settings cmake.define.EDGEREASON_AGREEMENT=ON .
	touch $@

# The pages that are written from the program.
docs: .venv/.installed
	$(BIN)/python docs/commands.py

clean:
	rm -rf build .venv

# Dependencies change rarely, our own extension often: each has its stamp, and a second run finds both up to date.
.venv/.dependencies: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgereason needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet --constraint constraints.txt scikit-build-core nanobind ninja
	CFLAGS="$$CFLAGS $(LLAMA_FLAGS)" CXXFLAGS="$$CXXFLAGS $(LLAMA_FLAGS)" \
		$(PIP) install --quiet --constraint constraints.txt "llama-cpp-python>=0.3.36"
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

.venv/.installed: .venv/.dependencies $(NATIVE_SOURCES)
	$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	touch $@
