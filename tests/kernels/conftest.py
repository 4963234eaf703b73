"""Fixtures of the kernels' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import edgereason.kernels.cpu as cpu


@pytest.fixture(params=cpu.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set of this machine."""
    cpu.use_isa(request.param)
    yield request.param
    cpu.use_isa(None)
