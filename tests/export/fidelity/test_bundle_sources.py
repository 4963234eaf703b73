"""What a bundle of several adapters was made from: measured when that is given, refused when it is something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from random_model import save_adapter

from edgereason.bundle import Bundle
from edgereason.errors import UsageError
from edgereason.export import export
from edgereason.export.fidelity.bundle_sources import open_sources
from edgereason.export.fidelity.limits import parse_thresholds
from edgereason.export.fidelity.measure import measure_bundle
from edgereason.text.prompts import ANSWER

Trio = dict[str, Path]
COMBINED = {"combine": "dare_linear", "density": 0.8, "seed": 3}
# Untrained models are unsure between many tokens.
LENIENT = parse_thresholds(["quantized.top1=0.9", "engine.top1=0.9", "quantized.greedy=0", "engine.greedy=0"])


@pytest.fixture(scope="module")
def other(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third adapter of the same base."""
    path = tmp_path_factory.mktemp("adapters") / "other"
    save_adapter(trio["base"], path, ANSWER, seed=7)
    return path


@pytest.fixture(scope="module")
def bundle(trio: Trio, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A guidance model of two adapters, and an answer model that goes beyond its own."""
    blend = {str(trio["guidance"]): 0.7, str(other): 0.4}
    out = tmp_path_factory.mktemp("bundle") / "out"
    references = {"answer": other}
    return export(
        trio["base"],
        blend,
        trio["answer"],
        out,
        bits=8,
        verify=False,
        reference_adapters=references,
        extrapolate=0.3,
        **COMBINED,
    )


def test_a_blend_and_an_extrapolation_are_their_own_when_the_manifest_says_how(
    bundle: Bundle, trio: Trio, other: Path, tmp_path: Path
) -> None:
    (tmp_path / "questions.txt").write_text("Tom has 12 apples.\nHow many are left?")
    blend = {str(trio["guidance"]): 0.7, str(other): 0.4}
    against = open_sources(bundle, str(trio["base"]), blend, trio["answer"], reference_adapters={"answer": other})
    report = measure_bundle(bundle, against, prompts=tmp_path / "questions.txt", thresholds=LENIENT)
    assert report.finding is None
    guidance = {rung.name: rung.measures for rung in report.stages["guidance"].rungs}
    assert guidance["merged"]["kl"] < 1e-6  # PEFT's combination, unmerged, is what was merged


def test_something_else_is_refused_and_the_manifests_words_are_given(bundle: Bundle, trio: Trio, other: Path) -> None:
    answer = (trio["answer"], None, {"answer": other})
    right = re.escape("guidance:0.7 and other:0.4")
    for wrong in (
        trio["guidance"],
        {str(trio["guidance"]): 0.4, str(other): 0.7},
        {str(other): 0.4, str(trio["guidance"]): 0.7},
    ):
        with pytest.raises(UsageError, match=right) as caught:
            open_sources(bundle, str(trio["base"]), wrong, *answer)
        assert "guidance:0.7,other:0.4" in (caught.value.cure or "")
    blend = {str(trio["guidance"]): 0.7, str(other): 0.4}
    with pytest.raises(UsageError, match="away from other"):
        open_sources(bundle, str(trio["base"]), blend, trio["answer"])
