"""GPTQ through whole models: every family, every order, the same after an interruption, and closer than rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, SIZES, save_family
from merged_model import Array, random_ids, reference_logits, relative_error
from safetensors.numpy import load_file
from torch import nn

from edgereason import load_model
from edgereason.errors import BundleError, ExportError
from edgereason.export.formats.native_writer import write_native
from edgereason.export.quantization.decoder_layers import DecoderLayers
from edgereason.export.quantization.gptq import GptqOptions
from edgereason.export.quantization.layer_store import LayerStore
from edgereason.export.quantization.layerwise import quantize_layers
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.files import read_json
from edgereason.kernels.packing import PackedWeight

CALIBRATION = [random_ids(48, SIZES["vocab_size"], seed) for seed in range(8)]
IDS = random_ids(60, SIZES["vocab_size"], seed=100)
METHOD = GptqOptions(group_size=32)


def run(
    model: Path, store: Path, method: GptqOptions = METHOD, stop_after: int | None = None
) -> dict[str, PackedWeight]:
    """Quantize a Hugging Face directory into a store; its weights by name."""

    decoder = DecoderLayers(read_json(model / "config.json"), load_file(model / "model.safetensors"))

    def progress(done: int, total: int) -> None:
        if stop_after is not None and done * decoder.depth == stop_after * total:
            raise KeyboardInterrupt

    quantize_layers(decoder, CALIBRATION, method, LayerStore(store), progress)
    return LayerStore(store).all_weights({})


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_with_the_weights_that_were_chosen(name: str, tmp_path: Path) -> None:
    model = save_family(name, tmp_path / "model")
    linear = {n: m for n, m in model.model.layers.named_modules() if isinstance(m, nn.Linear)}
    quantized = run(tmp_path / "model", tmp_path / "store")
    assert set(quantized) == {f"model.layers.{n}" for n in linear}
    weights = load_file(tmp_path / "model/model.safetensors")
    config = read_json(tmp_path / "model/config.json")
    write_native(tmp_path / "out", config, weights, Rounding(8), quantized)
    for n, module in linear.items():
        module.weight.data = torch.from_numpy(quantized[f"model.layers.{n}"].dequantize())
    expected = reference_logits(model, IDS)
    with load_model(tmp_path / "out") as engine:
        # Activations have 8 bits, whose errors such wide random weights amplify.
        assert relative_error(engine.logits(IDS), expected) < 8e-2


@pytest.mark.parametrize("changes", [{}, {"static_groups": False}, {"symmetric": False}, {"group_size": None}])
def test_what_is_chosen_beats_rounding_to_nearest(changes: dict[str, object], tmp_path: Path) -> None:
    model = save_family("llama", tmp_path / "model")
    exact = reference_logits(model, IDS)
    method = GptqOptions(**{"group_size": 32, **changes})  # type: ignore[arg-type]
    quantized = run(tmp_path / "model", tmp_path / "store", method)
    rounding = Rounding(4, method.group_size, method.symmetric)
    config, weights = read_json(tmp_path / "model/config.json"), load_file(tmp_path / "model/model.safetensors")
    errors = []
    for name, weight in (("gptq", quantized), ("nearest", {})):
        write_native(tmp_path / name, config, weights, rounding, weight)
        with load_model(tmp_path / name) as engine:
            errors.append(divergence(engine.logits(IDS), exact))
    assert errors[0] < errors[1]


def divergence(found: Array, expected: Array) -> float:
    """Mean KL of the next token's distribution."""
    p, q = (torch.from_numpy(np.array(logits)).log_softmax(-1) for logits in (expected, found))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_groups_whose_members_lie_apart_reach_the_file_and_the_engine(tmp_path: Path) -> None:
    save_family("llama", tmp_path / "model")
    quantized = run(tmp_path / "model", tmp_path / "store", GptqOptions(group_size=32, static_groups=False))
    config, weights = read_json(tmp_path / "model/config.json"), load_file(tmp_path / "model/model.safetensors")
    write_native(tmp_path / "out", config, weights, Rounding(4), quantized)
    tensors = load_file(tmp_path / "out/model.safetensors")
    order = tensors["model.layers.0.self_attn.qkv_proj.order"]
    assert sorted(order) == list(range(64)) != list(order)
    damage(tmp_path / "out/model.safetensors", order.tobytes())
    with pytest.raises(BundleError, match="order"):
        load_model(tmp_path / "out")


def damage(file: Path, order: bytes) -> None:
    """Let a stored order name its first input twice."""
    content = file.read_bytes()
    assert content.count(order) == 1
    file.write_bytes(content.replace(order, order[4:8] + order[4:]))


def test_after_an_interruption_finished_layers_are_kept_and_the_rest_is_as_it_would_have_been(tmp_path: Path) -> None:
    save_family("qwen2", tmp_path / "model")
    run(tmp_path / "model", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "model", tmp_path / "store", stop_after=2)
    stamps = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").iterdir()}
    assert len(stamps) == 2
    run(tmp_path / "model", tmp_path / "store")
    assert all((tmp_path / "store" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "store" / file.name).read_bytes()


def test_no_text_is_refused(tmp_path: Path) -> None:
    save_family("llama", tmp_path)
    decoder = DecoderLayers(read_json(tmp_path / "config.json"), load_file(tmp_path / "model.safetensors"))
    with pytest.raises(ExportError, match="empty"):
        quantize_layers(decoder, [], METHOD, LayerStore(tmp_path / "store"), lambda done, total: None)


def test_progress_comes_with_every_sequence_of_every_step(tmp_path: Path) -> None:
    save_family("llama", tmp_path)
    decoder = DecoderLayers(read_json(tmp_path / "config.json"), load_file(tmp_path / "model.safetensors"))
    shares: list[float] = []
    quantize_layers(
        decoder, CALIBRATION, METHOD, LayerStore(tmp_path / "store"), lambda done, total: shares.append(done / total)
    )
    steps = 4 + 1  # the Hessians of qkv, o, gate and up, down; and the forward pass of the quantized layer
    assert len(shares) >= decoder.depth * steps * len(CALIBRATION)
    assert shares == sorted(shares)
    assert shares[-1] == 1
