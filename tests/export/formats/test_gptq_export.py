"""Bundles of GPTQ weights: what the engine computes from them, targets of size and divergence, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gptq_checkpoint import dequantized, float_logits
from merged_model import random_ids, relative_error
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from edgereason import load, load_model
from edgereason.bundle import Bundle
from edgereason.checkpoints.weights import Weights
from edgereason.errors import EdgeReasonError, ExportError, UsageError
from edgereason.export import export
from edgereason.export.settings import Settings, parse_size
from edgereason.kernels.packing import PackedWeight

Trio = dict[str, Path]
IDS = random_ids(60, 300)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Little text, for the sake of time."""
    file = tmp_path_factory.mktemp("calibration") / "few.jsonl"
    problem = {"guidance": "Asked: the apples.", "answer": "12 + 30 = 42\n#### 42"}
    lines = [json.dumps({"question": f"Tom has {n} apples and buys 30 more.", **problem}) for n in range(8)]
    file.write_text("\n".join(lines))
    return file


def run(trio: Trio, out: Path, calibration: Path, **options: Any) -> Bundle:
    values = {"method": "gptq", "calibration_text": calibration, "verify": False, **options}
    return export(trio["base"], trio["guidance"], trio["answer"], out, **values)


CHECKPOINTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "asymmetric": {"symmetric": False, "group_size": 32},
    "members apart": {"static_groups": False, "group_size": 32},
    "one group": {"group_size": -1},
    "8 bits": {"bits": 8, "group_size": 64},
    "rounded to nearest": {"method": "rtn", "group_size": 32},
    "as the paper has it": {"act_order": False, "clip_search": False, "group_size": 32},
}


@pytest.mark.parametrize("variant", CHECKPOINTS)
def test_a_gptq_checkpoint_has_the_logits_of_its_weights(
    variant: str, trio: Trio, calibration: Path, tmp_path: Path
) -> None:
    options = CHECKPOINTS[variant]
    run(trio, tmp_path / "out", calibration, format="gptq", **options)
    stage = tmp_path / "out/answer"
    with load_model(stage) as model:
        assert relative_error(model.logits(IDS), float_logits(stage, IDS)) < 4e-2
    config = json.loads((stage / "config.json").read_text())["quantization_config"]
    assert config == json.loads((stage / "quantize_config.json").read_text())
    g_idx = load_file(stage / "model.safetensors")["model.layers.0.mlp.down_proj.g_idx"]
    assert config["desc_act"] == bool((np.diff(g_idx) < 0).any()) == (variant == "members apart")


def test_both_formats_have_the_same_weights(trio: Trio, calibration: Path, tmp_path: Path) -> None:
    for format in ("native", "gptq"):
        run(trio, tmp_path / format, calibration, format=format)
    for name, rows, columns in (("self_attn.qkv_proj", (64, 32, 32), 64), ("mlp.down_proj", 64, 128)):
        found = [
            Weights(tmp_path / format / "answer").linear(f"model.layers.1.{name}", rows, columns)
            for format in ("native", "gptq")
        ]
        assert isinstance(found[0], PackedWeight)
        assert isinstance(found[1], PackedWeight)
        np.testing.assert_array_equal(found[0].dequantize(), found[1].dequantize())


def test_what_is_not_a_linear_layer_stays_as_it_was(trio: Trio, calibration: Path, tmp_path: Path) -> None:
    run(trio, tmp_path / "out", calibration, format="gptq")
    base = AutoModelForCausalLM.from_pretrained(trio["base"], dtype=torch.float32).state_dict()
    found = dequantized(tmp_path / "out/answer")
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        torch.testing.assert_close(found[name], base[name], rtol=1e-3, atol=1e-6)


def test_a_bundle_of_gptq_checkpoints_answers(trio: Trio, calibration: Path, tmp_path: Path) -> None:
    bundle = run(trio, tmp_path / "out", calibration, format="gptq")
    assert (bundle.format, bundle.engine) == ("gptq", "native")
    assert bundle.quantization == {
        "bits": 4,
        "group_size": 128,
        "method": "gptq",
        "act_order": True,
        "static_groups": True,
        "damping": 0.01,
    }
    with load(tmp_path / "out") as reasoner:
        assert isinstance(reasoner.ask("How many?", max_new_tokens=4).answer, str)


def test_a_shared_base_is_quantized_too(trio: Trio, calibration: Path, tmp_path: Path) -> None:
    run(trio, tmp_path / "out", calibration, layout="shared")
    with load(tmp_path / "out") as reasoner:
        assert isinstance(reasoner.ask("How many?", max_new_tokens=4).answer, str)


def test_other_calibration_text_gives_other_weights(trio: Trio, calibration: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("A text about something else altogether, which goes on for a while. " * 20)
    first, again, second = (
        run(trio, tmp_path / name, text).files["answer/model.safetensors"].sha256
        for name, text in (("first", calibration), ("again", calibration), ("second", other))
    )
    assert first == again
    assert first != second


def test_a_target_size_is_kept_and_used(trio: Trio, calibration: Path, tmp_path: Path) -> None:
    sizes = {
        bits: run(trio, tmp_path / str(bits), calibration, bits=bits).files["answer/model.safetensors"].bytes
        for bits in (4, 8)
    }
    target = (sizes[4] + sizes[8]) // 2
    bundle = run(trio, tmp_path / "out", calibration, target_size=target)
    layers = bundle.quantization["layers_of_8_bits"]
    assert 0 < len(layers) < 14
    assert sizes[4] < bundle.files["answer/model.safetensors"].bytes <= target
    with load_model(tmp_path / "out/answer") as model:
        assert np.isfinite(model.logits(IDS)).all()
    with pytest.raises(ExportError, match="larger than the target size"):
        run(trio, tmp_path / "small", calibration, target_size=sizes[4] // 2)


def test_a_lower_target_of_divergence_takes_8_bits_in_more_layers(
    trio: Trio, calibration: Path, tmp_path: Path
) -> None:
    def layers(target: float) -> list[str]:
        bundle = run(trio, tmp_path / f"{target}", calibration, target_kl=target, group_size=32)
        found: list[str] = bundle.quantization["layers_of_8_bits"]
        return found

    counts = [len(layers(target)) for target in (10.0, 2e-3, 3e-4)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] > 0
    with pytest.raises(ExportError, match="8 bits in every layer"):
        layers(1e-9)


def test_an_interrupted_export_goes_on_at_the_last_finished_layer(
    trio: Trio, calibration: Path, tmp_path: Path
) -> None:
    whole = run(trio, tmp_path / "whole", calibration)

    def stop(step: str, done: int, total: int) -> None:
        if step == "answer: quantizing" and done / total == 1 / 2:  # of two layers
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(trio, tmp_path / "out", calibration, resume=True, progress=stop)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("layer-*.safetensors")}
    assert [file.name for file in kept] == ["layer-0000.safetensors"]
    seen: list[int] = []

    def look(step: str, done: int, total: int) -> None:
        seen.extend(file.stat().st_mtime_ns for file in kept if file.exists())

    assert run(trio, tmp_path / "out", calibration, resume=True, progress=look).files == whole.files
    assert set(seen) == set(kept.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "awq"}, "no method"),
        ({"method": "gptq", "bits": 16}, "method gptq needs"),
        ({"method": "gptq", "format": "gguf"}, "method gptq needs"),
        ({"format": "gptq", "method": "rtn", "bits": 16}, "stores 4 or 8"),
        ({"group_size": 48}, "group-size is 48"),
        ({"dampening": -1.0}, "dampening is"),
        ({"calibration_text": Path("nowhere.jsonl")}, "nowhere.jsonl does not exist"),
        ({"target_size": 100}, "--method gptq"),
        ({"method": "gptq", "target_size": 100, "target_kl": 0.1}, "exclude each other"),
        ({"method": "gptq", "target_size": 0}, "positive"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings.of(options)


@pytest.mark.parametrize(
    ("text", "size"), [("1500", 1500), ("400MB", 400_000_000), ("1.5 GB", 1_500_000_000), ("2KiB", 2048), ("3k", 3000)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3MB", "3 TB", "1e9"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(EdgeReasonError, match="not a size"):
        parse_size(text)
