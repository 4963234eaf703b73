"""The choice of an instruction set, and the pool of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import edgereason.kernels.cpu as cpu


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("name", cpu.isas())
def test_the_environment_chooses_the_instruction_set(name):
    done = run_python("import edgereason.kernels.cpu as cpu; print(cpu.isa())", EDGEREASON_ISA=name)
    assert done.stdout.strip() == name


@pytest.mark.parametrize("name", sorted({"mmx", "amx", "i8mm"} - set(cpu.isas())))
def test_an_instruction_set_that_is_not_there_is_refused(name):
    done = run_python("import edgereason.kernels.cpu as cpu; cpu.isa()", EDGEREASON_ISA=name)
    assert f'this machine has no instruction set "{name}"' in done.stderr
    assert "scalar" in done.stderr


def test_scalar_is_always_there_and_last():
    assert cpu.isas()[-1] == "scalar"


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="needs Linux")  # noqa: PTH110
def test_features_are_those_that_the_kernel_reports():
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        flags = next((line.split() for line in file if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("this processor has no flags")
    names = (
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "amx_tile",
        "amx_int8",
    )
    assert {name for name in names if name in flags} == {name for name in names if name in cpu.cpu_features()}


@pytest.fixture
def product():
    """A call that is large enough to be split, and its result."""
    generator = np.random.default_rng(0)
    weight = cpu.prepare(cpu.quantize(generator.standard_normal((512, 256)).astype(np.float32), 4))
    x = generator.standard_normal((5, 256)).astype(np.float32)
    return lambda: cpu.linear(x, weight)


def test_results_do_not_depend_on_the_number_of_threads(product):
    expected = product()
    try:
        for count in (1, 2, 3, 7):
            cpu.set_threads(count)
            assert cpu.threads() == count
            np.testing.assert_array_equal(product(), expected)
    finally:
        cpu.set_threads(None)


def test_several_python_threads_may_call_at_once(product):
    expected, wrong = product(), []

    def call() -> None:
        for _ in range(200):
            if not np.array_equal(product(), expected):
                wrong.append(1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes():
    code = """
import os, numpy as np
import edgereason.kernels.cpu as cpu
cpu.set_threads(3)
weight = cpu.prepare(cpu.quantize(np.ones((512, 256), np.float32), 4))
x = np.ones((5, 256), np.float32)
expected = cpu.linear(x, weight)
child = os.fork()
same = np.array_equal(cpu.linear(x, weight), expected)
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""
    assert run_python(code).returncode == 0


def test_zero_threads_are_refused():
    with pytest.raises(ValueError, match="count"):
        cpu.set_threads(0)
