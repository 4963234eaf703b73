"""A model run layer by layer computes what transformers computes with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES, SIZES, save_family
from merged_model import random_ids
from safetensors.numpy import load_file

from edgereason.export.quantization.decoder_layers import DecoderLayers
from edgereason.files import read_json


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_layer_by_layer_has_the_logits_of_the_whole_model(name: str, tmp_path: Path) -> None:
    model = save_family(name, tmp_path)
    decoder = DecoderLayers(read_json(tmp_path / "config.json"), load_file(tmp_path / "model.safetensors"))
    sequences = [random_ids(count, SIZES["vocab_size"], seed=count) for count in (50, 3, 50)]
    states = decoder.embed(sequences)
    for index in range(decoder.depth):
        with decoder.layer(index):
            states = [decoder.run(index, hidden) for hidden in states]
    for ids, found in zip(sequences, decoder.logits(states), strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_holds_weights_only_while_it_is_at_work(tmp_path: Path) -> None:
    save_family("llama", tmp_path)
    decoder = DecoderLayers(read_json(tmp_path / "config.json"), load_file(tmp_path / "model.safetensors"))
    with decoder.layer(1) as layer:
        assert not any(parameter.is_meta for parameter in layer.parameters())
    assert all(parameter.is_meta for parameter in layer.parameters())
