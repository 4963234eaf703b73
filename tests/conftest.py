"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before any library is imported: no test reaches for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


@pytest.fixture
def rows_as_if_alone() -> Iterator[None]:
    """Many rows are computed exactly as each alone, so that results do not depend on how they are batched."""
    import edgereason.kernels.cpu as cpu

    cpu.use_spans(False)
    yield
    cpu.use_spans(True)


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random base with two random adapters: `base`, `guidance`, `answer`."""
    from random_model import save_trio

    return save_trio(tmp_path_factory.mktemp("trio"))


@pytest.fixture(scope="session")
def native_bundle(trio: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random trio as a native int4 bundle. Copy it before changing it."""
    from edgereason.export import export

    out = tmp_path_factory.mktemp("bundles") / "native"
    export(trio["base"], trio["guidance"], trio["answer"], out, verify=False)
    return out


@pytest.fixture(scope="session")
def shared_bundle(trio: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one base and two adapters. Copy it before changing it."""
    from edgereason.export import export

    out = tmp_path_factory.mktemp("bundles") / "shared"
    export(trio["base"], trio["guidance"], trio["answer"], out, layout="shared", verify=False)
    return out
