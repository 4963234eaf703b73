"""GGUF's quantized types, and the importance matrix that makes the small ones better."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from families import save_family
from gguf_contents import contents
from places import HELD_OUT, WORD_PROBLEMS
from random_model import save_tokenizer

from edgereason.checkpoints.llama_library import llama_library
from edgereason.engines.llama_cpp import LlamaCppEngine
from edgereason.errors import ExportError
from edgereason.export.gguf import GGML_FILE_TYPES, write_gguf
from edgereason.export.gguf.ggml_types import Importance
from edgereason.export.gguf.importance import measure_importance
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.quantization.calibration import CalibrationText
from edgereason.export.quantization.decoder_layers import DecoderLayers
from edgereason.text.prompts import GUIDANCE
from edgereason.text.tokenizer import Tokenizer

SEQUENCES = [list(range(10, 60)), list(range(200, 230))]


def opened(directory: Path, family: str, **changes: Any) -> tuple[Any, MergedWeights]:
    model = save_family(family, directory, **changes)
    save_tokenizer(directory)
    return model, merge(open_base(directory))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi3"])
def test_importance_is_the_mean_square_of_each_input(tmp_path: Path, family: str) -> None:
    model, weights = opened(tmp_path, family)
    found = measure_importance(weights, SEQUENCES)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0][0]))
    with torch.no_grad():
        for ids in SEQUENCES:
            model(torch.tensor([ids]))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], len(model.model.layers))
    assert len(found) == len(seen)
    for name, inputs in seen.items():
        expected = torch.cat(inputs).square().mean(0).numpy()
        np.testing.assert_allclose(found[f"{names.get_name(name)}.weight"], expected, rtol=1e-4)


def test_text_without_tokens_is_named(tmp_path: Path) -> None:
    _, weights = opened(tmp_path, "llama")
    with pytest.raises(ExportError, match="calibration text is empty"):
        measure_importance(weights, [[]])


def test_matrices_that_are_too_narrow_for_a_type_get_a_larger_one(tmp_path: Path) -> None:
    opened(tmp_path, "llama")  # 64 and 96 columns
    write_gguf(tmp_path, tmp_path / "model.gguf", "Q4_K_M")
    _, tensors = contents(tmp_path / "model.gguf")
    assert tensors["blk.0.attn_q.weight"][0] == gguf.GGMLQuantizationType.Q5_0


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("gguf_type", [name for name in GGML_FILE_TYPES if name != "F16"])
def test_a_file_is_what_the_quantizer_makes_of_the_float16_file(tmp_path: Path, family: str, gguf_type: str) -> None:
    # Gemma's matrices stay too narrow for the K types, which are then replaced.
    wide, narrow = {"hidden_size": 256, "intermediate_size": 512}, {"query_pre_attn_scalar": 32}
    _, weights = opened(tmp_path, family, **(narrow if family == "gemma2" else wide))
    importance = measure_importance(weights, SEQUENCES) if gguf_type in ("Q4_K_M", "IQ4_XS") else None
    write_gguf(weights, tmp_path / "ours.gguf", gguf_type, importance=importance)
    write_gguf(weights, tmp_path / "half.gguf", "F16")
    quantizer(tmp_path / "half.gguf", tmp_path / "theirs.gguf", gguf_type, importance or {})
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def quantizer(source: Path, out: Path, gguf_type: str, importance: Importance) -> None:
    """llama.cpp's own program, as a function."""
    llama_cpp = llama_library()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(GGML_FILE_TYPES[gguf_type])
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if importance:
        params.imatrix = entries
    assert llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(params)) == 0


def test_a_value_that_float16_cannot_hold_is_named(tmp_path: Path) -> None:
    _, weights = opened(tmp_path, "llama")
    name = "model.layers.1.mlp.up_proj.weight"

    def too_large(wanted: str) -> Any:
        array = weights.compute(wanted).copy()
        array.flat[-1] = 1e5 if wanted == name else array.flat[-1]
        return array

    broken = MergedWeights(weights.config, weights.shapes, weights.tokenizer, weights.base, too_large)
    with pytest.raises(ExportError, match=r"blk\.1\.ffn_up\.weight"):
        write_gguf(broken, tmp_path / "model.gguf", "Q4_0")
    assert not [*tmp_path.glob("*.gguf*"), *tmp_path.glob(".*")]


def test_the_importance_matrix_brings_the_example_closer_on_other_text(tmp_path: Path) -> None:
    adapter = open_adapter(WORD_PROBLEMS / "guidance", GUIDANCE)
    weights = merge(open_base(WORD_PROBLEMS / "base"), adapter)
    tokenizer = Tokenizer(weights.tokenizer)
    texts = held_out_texts(adapter.prompt, tokenizer)
    exact = exact_log_probabilities(weights, texts)
    importance = measure_importance(weights, CalibrationText({"guidance": adapter.prompt}).sequences(tokenizer))
    divergence = {}
    for name, matrix in (("with", importance), ("without", None)):
        write_gguf(weights, tmp_path / "model.gguf", "Q4_K_M", importance=matrix)
        divergence[name] = mean_divergence(tmp_path / "model.gguf", texts, exact)
    assert divergence["with"] < 0.95 * divergence["without"]


def held_out_texts(prompt: Any, tokenizer: Tokenizer) -> list[list[int]]:
    """Prompts and guidances of problems that are not in the calibration text."""
    rows = [json.loads(line) for line in HELD_OUT.read_text().splitlines()[:12]]
    return [tokenizer.encode(tokenizer.render(prompt.messages(row["question"])) + row["guidance"]) for row in rows]


def exact_log_probabilities(weights: MergedWeights, texts: list[list[int]]) -> list[torch.Tensor]:
    decoder = DecoderLayers(weights.config, weights)
    states = decoder.embed(texts)
    for index in range(decoder.depth):
        with decoder.layer(index):
            states = [decoder.run(index, hidden) for hidden in states]
    return [logits.log_softmax(-1) for logits in decoder.logits(states)]


def mean_divergence(model: Path, texts: list[list[int]], exact: list[torch.Tensor]) -> float:
    """The mean KL divergence of the next token's distribution, in nats."""
    engine, divergences = LlamaCppEngine(model, 1), []
    for ids, expected in zip(texts, exact, strict=True):
        found = torch.from_numpy(engine.session(len(ids)).advance(ids, every=True)).log_softmax(-1)
        divergences.append((expected.exp() * (expected - found)).sum(-1))
    engine.close()
    return float(torch.cat(divergences).mean())
