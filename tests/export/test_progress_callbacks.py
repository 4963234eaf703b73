"""Progress never goes back, reaches its total, and is fine enough for a line every few seconds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from random_model import save_base
from transformers import AutoModelForCausalLM

from edgereason.export.fidelity.distance import make_texts
from edgereason.export.fidelity.layerwise_model import LayerwiseModel
from edgereason.export.fidelity.reference_model import ReferenceModel, parameters
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.skeleton import placeholder_model
from edgereason.export.progress_callbacks import for_stage, part_of

LAYERS = 3
PROMPTS = [[5, 6, 7], [8, 9, 10, 11]]


class Record:
    """The shares that were reported."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def __call__(self, done: int, total: int) -> None:
        self.shares.append(done / total)

    def check(self, at_least: int) -> None:
        assert all(before <= after for before, after in pairwise(self.shares))
        assert self.shares[-1] == 1
        assert len(set(self.shares)) >= at_least


@pytest.fixture(params=["resident", "layerwise"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> ReferenceModel:
    save_base(tmp_path, num_hidden_layers=LAYERS)
    if request.param == "layerwise":
        base = open_base(tmp_path)
        return LayerwiseModel(placeholder_model(base.config), base.read)
    return ReferenceModel(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval())


def test_parts_report_within_the_whole() -> None:
    record = Record()
    for index in range(4):
        for done in range(1, 6):
            part_of(record, index, 4)(done, 5)
    assert record.shares == [step / 20 for step in range(1, 21)]
    part_of(part_of(record, 1, 2), 1, 2)(1, 2)
    assert record.shares[-1] == pytest.approx(0.875, abs=0.01)


def test_a_part_without_work_is_no_error() -> None:
    record = Record()
    part_of(record, 0, 2)(0, 0)
    assert record.shares == [0]


def test_a_stage_is_named() -> None:
    steps: list[tuple[str, int, int]] = []
    progress: Callable[[str, int, int], None] = lambda *step: steps.append(step)  # noqa: E731
    for_stage(progress, "answer")("writing", 1, 2)
    assert steps == [("answer: writing", 1, 2)]


def test_logits_report_every_decoder_layer_and_text(model: ReferenceModel) -> None:
    record = Record()
    texts = make_texts(PROMPTS, [[1, 2], [3]])
    assert len(list(model.logits(texts, record))) == len(texts)
    record.check(at_least=LAYERS + len(texts))


def test_decoding_reports_every_decoder_layer_of_every_token(model: ReferenceModel) -> None:
    record = Record()
    model.continue_greedily(PROMPTS, frozenset(), 4, record)
    record.check(at_least=LAYERS * 4)


def test_filling_reports_every_parameter(model: ReferenceModel, tmp_path: Path) -> None:
    record = Record()
    model.fill(open_base(tmp_path).read, record)
    record.check(at_least=len(parameters(model.model)))
