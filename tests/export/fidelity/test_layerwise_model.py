"""A reference that reads its weights layer by layer is the one in memory, and takes the memory of a layer."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_variants import VARIANTS, of_new_tokens
from families import FAMILIES, SIZES, save_family
from merged_model import random_ids
from random_model import save_base, save_variant
from safetensors.numpy import load_file

from edgereason.bundle import Bundle
from edgereason.errors import BundleError
from edgereason.export.fidelity import parse_thresholds
from edgereason.export.fidelity.distance import make_texts
from edgereason.export.fidelity.layerwise_model import LayerwiseModel
from edgereason.export.fidelity.measure import measure_bundle
from edgereason.export.fidelity.reference_model import ReferenceModel, uninitialized_model
from edgereason.export.fidelity.references import unmerged_layerwise_model, unmerged_model
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.skeleton import placeholder_model
from edgereason.files import read_json
from edgereason.text.prompts import ANSWER

PROMPTS = [random_ids(length, 280, length) for length in (9, 30, 17)]


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    """PEFT warns of tied weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def assert_same(streamed: ReferenceModel, resident: ReferenceModel) -> None:
    written = resident.continue_greedily(PROMPTS, frozenset([2]), 6)
    assert streamed.continue_greedily(PROMPTS, frozenset([2]), 6) == written
    texts = make_texts(PROMPTS, written)
    found, expected = dict(streamed.logits(texts)), dict(resident.logits(texts))
    assert sorted(found) == sorted(expected) == [0, 1, 2]
    for index, rows in expected.items():
        assert found[index].shape == (len(texts[index].ids), rows.shape[1])
        assert np.abs(found[index] - rows).max() < 1e-5 * np.ptp(rows)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "with biases"])
def test_base_and_unmerged_adapter(tmp_path: Path, variant: str, tied: bool) -> None:
    if "bias" in variant and tied:
        pytest.skip("this base has no biases")
    save_base(tmp_path / "base", attention_bias=not tied, mlp_bias=not tied, tie_word_embeddings=tied)
    save_variant(tmp_path / "base", tmp_path / "adapter", **VARIANTS[variant])
    base, adapter = open_base(tmp_path / "base"), open_adapter(tmp_path / "adapter", ANSWER)
    config = merge(base, adapter).config
    assert_same(unmerged_layerwise_model(base, adapter, config), unmerged_model(base, adapter, config))


@pytest.mark.parametrize(
    ("way", "saved"),
    [
        *(
            (way, saved)
            for way in ("saved tables", "the new tokens", "other tokens of the head")
            for saved in ("auto", False)
        ),
        ("both tables", "auto"),
    ],
)
def test_new_tokens(tmp_path: Path, way: str, saved: Any) -> None:
    save_base(tmp_path / "base")
    base = open_base(tmp_path / "base")
    old = base.config["vocab_size"]
    options = of_new_tokens([old, old + 1])[way]
    save_variant(tmp_path / "base", tmp_path / "adapter", old + 2, save_embedding_layers=saved, **options)
    adapter = open_adapter(tmp_path / "adapter", ANSWER)
    config = merge(base, adapter).config
    streamed = unmerged_layerwise_model(base, adapter, config)
    assert_same(streamed, unmerged_model(base, adapter, config))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_and_every_change_of_weights(tmp_path: Path, name: str) -> None:
    save_family(name, tmp_path / "model", vocab_size=SIZES["vocab_size"])
    config, weights = read_json(tmp_path / "model/config.json"), load_file(tmp_path / "model/model.safetensors")
    other = {name: tensor * np.float32(1.1 if "up" in name else 1) for name, tensor in weights.items()}
    streamed, resident = LayerwiseModel(placeholder_model(config)), ReferenceModel(uninitialized_model(config))
    assert streamed.fill(weights.__getitem__) == {}
    resident.fill(weights.__getitem__)
    assert_same(streamed, resident)
    changes, expected = streamed.fill(other.__getitem__), resident.fill(other.__getitem__)
    assert changes.keys() == expected.keys()
    for each, value in expected.items():
        assert changes[each] == pytest.approx(value, abs=1e-6)
        assert value == pytest.approx(0.1 if "up" in each else 0, abs=1e-6)
    assert_same(streamed, resident)
    with pytest.raises(BundleError, match="transformers expects"):
        streamed.fill(lambda name: weights[name][:-1])


@pytest.mark.parametrize("which", ["native_bundle", "shared_bundle"])
def test_the_ladder_is_the_same(which: str, trio: dict[str, Path], tmp_path: Path, request: Any) -> None:
    from edgereason.export.fidelity.bundle_sources import open_sources

    bundle = Bundle.open(request.getfixturevalue(which))
    (tmp_path / "questions.txt").write_text("Tom has 12 apples.\nHow many are left?")
    against = open_sources(bundle, str(trio["base"]), trio["guidance"], trio["answer"])
    options = {"prompts": tmp_path / "questions.txt", "thresholds": parse_thresholds(["quantized.kl=9"])}
    for sources in (against, None):
        streamed = measure_bundle(bundle, sources, memory=0, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReferenceModel, "new_tokens", LayerwiseModel.new_tokens)  # all else is equal
            resident = measure_bundle(bundle, sources, **options)
        for stage, report in resident.stages.items():
            rungs = zip(report.rungs, streamed.stages[stage].rungs, strict=True)
            for expected, found in rungs:
                assert found.name == expected.name
                assert found.measures == pytest.approx(expected.measures, rel=1e-3, abs=1e-7)


def test_it_takes_the_memory_of_a_layer(tmp_path: Path) -> None:
    """In a process of its own, which tells the peak of what it has allocated."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc/self/status")
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "tie_word_embeddings": False}
    save_base(tmp_path / "base", **sizes)
    save_variant(tmp_path / "base", tmp_path / "adapter", use_dora=True)
    script = """
import sys, threading, time, torch
from pathlib import Path
from edgereason.export.fidelity.distance import make_texts
from edgereason.export.fidelity.references import unmerged_layerwise_model, unmerged_model
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.text.prompts import ANSWER

def anonymous():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.001)

torch.set_num_threads(1)
base, adapter = open_base(sys.argv[1]), open_adapter(Path(sys.argv[2]), ANSWER)
config = merge(base, adapter).config
before = peak = anonymous()
threading.Thread(target=watch, daemon=True).start()
for make in (unmerged_layerwise_model, unmerged_model):
    peak = before
    model = make(base, adapter, config)
    prompts = [list(range(10, 40))]
    written = model.continue_greedily(prompts, frozenset(), 3)
    list(model.logits(make_texts(prompts, written)))
    print(peak - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "base"), str(tmp_path / "adapter")]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    streamed, resident = map(int, done.stdout.split()) if done.returncode == 0 else pytest.fail(done.stderr)
    assert resident > 160e6
    assert streamed < 60e6  # a layer has 16 MB, and DoRA computes a second one of the same size
