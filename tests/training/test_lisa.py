"""LISA: which layers are trained when, interruptions, and that the adapter does what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from places import HELD_OUT, WORD_PROBLEMS
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from edgereason import load
from edgereason.errors import UsageError
from edgereason.export import export
from edgereason.training.lisa import LayerSampling, LisaSettings
from edgereason.training.recipes import supervised
from edgereason.training.recipes.guidance import train_guidance
from edgereason.training.trainer import Schedule
from edgereason.training.training_base import TrainingBase, open_training_base
from edgereason.training.training_progress import LossProgress
from edgereason.training.weight_difference import as_adapter, factors

SCHEDULE = Schedule(steps=8, batch_size=3, learning_rate=5e-4, save_every=3)
LISA = LisaSettings(layers=2, period=3, error=0.1)


@pytest.fixture(scope="module")
def base() -> TrainingBase:
    return open_training_base(WORD_PROBLEMS / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text("".join(HELD_OUT.read_text(encoding="utf-8").splitlines(keepends=True)[:24]))
    return path


class Watch(TrainerCallback):  # type: ignore[misc]
    """Which layers' weights each step has changed, and of which AdamW keeps moments after it."""

    def __init__(self) -> None:
        self.changed: list[set[int]] = []
        self.kept: list[set[int]] = []
        self.others: set[str] = set()
        self._before: dict[str, torch.Tensor] = {}

    def on_step_begin(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        self._before = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def on_step_end(self, *_: Any, model: torch.nn.Module, optimizer: torch.optim.Optimizer, **__: Any) -> None:
        weights = dict(model.named_parameters())
        changed = {name for name, weight in weights.items() if not torch.equal(weight, self._before[name])}
        self.changed.append({int(name.split(".")[2]) for name in changed})
        self.kept.append({int(name.split(".")[2]) for name, weight in weights.items() if weight in optimizer.state})
        self.others |= {name for name in changed if not name.endswith("_proj.weight")}


@pytest.fixture(scope="module")
def trained(base: TrainingBase, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch, Any]:
    """An adapter, what was seen while its layers were trained, and the model as it was trained."""
    out, watch, seen = tmp_path_factory.mktemp("lisa") / "guidance", Watch(), []
    with pytest.MonkeyPatch.context() as patched:
        begin = LayerSampling.__init__

        def watched(self: LayerSampling, model: Any, *rest: Any) -> None:
            seen.append(model)
            begin(self, model, *rest)

        fit = supervised.fit
        patched.setattr(LayerSampling, "__init__", watched)
        patched.setattr(supervised, "fit", lambda trainer, *rest: (trainer.add_callback(watch), fit(trainer, *rest)))
        train_guidance(data, base, out, SCHEDULE, LISA)
    return out, watch, seen[0]


def test_a_step_trains_the_drawn_layers_and_keeps_their_moments_alone(trained: tuple[Path, Watch, Any]) -> None:
    _, watch, _ = trained
    assert [len(kept) for kept in watch.kept] == [2] * SCHEDULE.steps
    assert watch.changed == [set(), *watch.kept[1:]]  # warming up begins at a learning rate of zero
    for first in range(0, SCHEDULE.steps, LISA.period):
        period = watch.kept[first : first + LISA.period]
        assert all(kept == period[0] for kept in period)
    assert len({frozenset(kept) for kept in watch.kept}) > 1
    assert not watch.others


def test_every_layer_has_its_turn(base: TrainingBase) -> None:
    sampling = LayerSampling(base.load(), LISA, seed=0)
    counts = np.zeros(6)
    for period in range(300):
        counts[list(sampling.sampled(LISA.period * period))] += 1
    assert counts.sum() == 600
    assert counts.min() > 70  # 100 each on average


def test_the_loss_falls_and_the_adapter_is_close_to_what_was_trained(
    trained: tuple[Path, Watch, Any], base: TrainingBase
) -> None:
    out, _, model = trained
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert np.mean(losses[-3:]) < np.mean(losses[:2])
    merged = PeftModel.from_pretrained(base.load(), str(out)).merge_and_unload().state_dict()
    before, after = base.load().state_dict(), model.state_dict()
    lacking = change = 0.0
    for name, weight in after.items():
        lacking += float((merged[name] - weight).square().sum())
        change += float((before[name] - weight).square().sum())
    report = json.loads((out / "difference.json").read_text(encoding="utf-8"))
    assert (lacking / change) ** 0.5 == pytest.approx(report["error"], rel=0.02)
    assert report["error"] < LISA.error
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        wanted, start = model.eval()(ids).logits, base.load()(ids).logits
        found = PeftModel.from_pretrained(base.load(), str(out))(ids).logits
    assert (found - wanted).norm() < 0.2 * (start - wanted).norm()


def test_an_interrupted_training_goes_on_to_the_same_adapter(
    trained: tuple[Path, Watch, Any], base: TrainingBase, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "guidance"
    with monkeypatch.context() as patched:
        patched.setattr(LossProgress, "on_step_end", interrupt_after(5), raising=False)
        with pytest.raises(KeyboardInterrupt):
            train_guidance(data, base, out, SCHEDULE, LISA)
    train_guidance(data, base, out, SCHEDULE, LISA, resume=True)
    resumed, whole = (load_file(each / "adapter_model.safetensors") for each in (out, trained[0]))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def interrupt_after(steps: int) -> Callable[..., None]:
    def on_step_end(_: LossProgress, __: object, state: Any, ___: object, **____: object) -> None:
        if state.global_step == steps:
            raise KeyboardInterrupt

    return on_step_end


@pytest.mark.parametrize("layout", ["merged", "shared"])
def test_both_layouts_take_an_adapter_whose_ranks_differ(
    trained: tuple[Path, Watch, Any], base: TrainingBase, tmp_path: Path, layout: str
) -> None:
    export(base.path, trained[0], WORD_PROBLEMS / "answer", tmp_path / "bundle", layout=layout, bits=16, verify=False)
    with load(tmp_path / "bundle") as reasoner:
        asked = reasoner.ask("Tom has 12 apples and eats 5. How many are left?", max_new_tokens=40, answer=False)
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), str(trained[0]))
    assert merged.active_peft_config.rank_pattern
    assert asked.guidance.startswith("Asked:")


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.001, 0.9), st.integers(0, 99))
def test_factors_are_the_smallest_that_are_close_enough(rows: int, columns: int, error: float, seed: int) -> None:
    """The witness: numpy's decomposition, and every smaller rank fails."""
    change = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    b, a = factors(change, error)
    values = np.linalg.svd(change.double().numpy(), compute_uv=False)
    lacking = [np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()) for rank in range(len(values) + 1)]
    rank = a.shape[0]
    assert b.shape == (rows, rank)
    assert float((change - b @ a).norm() / change.norm()) == pytest.approx(lacking[rank], abs=1e-5)
    assert lacking[rank] <= error * (1 + 1e-5) or rank == len(values)
    assert rank == 1 or lacking[rank - 1] > error * (1 - 1e-5)


def test_what_cannot_be_trained_or_was_not_is_refused(base: TrainingBase) -> None:
    with pytest.raises(UsageError, match="7 layers cannot be trained at a time, the base has 6"):
        LayerSampling(base.load(), LisaSettings(layers=7), seed=0)
    with pytest.raises(UsageError, match="LISA cannot train 0 layers"):
        LisaSettings(layers=0)
    with pytest.raises(UsageError, match="Training has changed nothing"):
        as_adapter(base.load(), base.load(), 0.1)
