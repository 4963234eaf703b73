"""What several tests of evaluations ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgereason import Reasoner, load


@pytest.fixture(scope="package")
def reasoner() -> Iterator[Reasoner]:
    """The default model."""
    with load() as opened:
        yield opened
