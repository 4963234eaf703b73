"""Counters of the operations: what they count, and what a program prints at its end."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import edgereason.kernels.cpu as cpu


def test_counters_tell_calls_bytes_and_operations():
    weight = cpu.quantize(np.ones((40, 64), np.float32), 4)
    cpu.profile.start()
    for rows in (1, 1, 3, 40):
        cpu.linear(np.ones((rows, 64), np.float32), cpu.prepare(weight))
    cache = cpu.KVCache(1, 1, 16, "f16")
    q = np.ones((10, 2, 16), np.float32)
    segments = cpu.Rows([cpu.Segment(cache, 10)])
    cpu.attention(q, q[:, :1], q[:, 1:], 0, segments)
    counted = {counter.name: counter for counter in cpu.profile.stop()}
    cpu.linear(np.ones((1, 64), np.float32), cpu.prepare(weight))
    assert {name: c.calls for name, c in counted.items()} == {
        "linear, 1 row": 2,
        "linear, 2 to 32 rows": 1,
        "linear, more rows": 1,
        "attention, more rows": 1,
    }
    assert counted["linear, 1 row"].bytes == 2 * weight.nbytes
    assert counted["linear, more rows"].operations == 2 * 40 * 40 * 64
    # Ten rows see 1 to 10 keys; keys and values are 16 halves each.
    assert counted["attention, more rows"].operations == 4 * 55 * 2 * 16
    assert counted["attention, more rows"].bytes == 10 * 2 * 16 * 2
    assert all(c.seconds > 0 for c in counted.values())
    assert [c.calls for c in cpu.profile.counters()] == [c.calls for c in counted.values()]  # no longer counting
    assert len(cpu.profile.table(list(counted.values())).splitlines()) == 5


@pytest.mark.parametrize(("value", "printed"), [("1", True), ("0", False), (None, False)])
def test_the_environment_variable_prints_a_table_at_the_end(value, printed):
    environment = {k: v for k, v in os.environ.items() if k != "EDGEREASON_PROFILE"}
    code = "import numpy as np, edgereason.kernels.cpu as c; c.swiglu(np.ones((1, 8), np.float32))"
    environment |= {} if value is None else {"EDGEREASON_PROFILE": value}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ("swiglu" in result.stderr) == printed
    assert result.stdout == ""
