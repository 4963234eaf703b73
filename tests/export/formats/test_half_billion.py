"""How close quantized models of Qwen2.5-0.5B's shape are: ours beside GPTQModel's, and llama.cpp's with and without an
importance matrix. `make conformance` runs it; with `-s` it prints what it finds. EDGEREASON_LAYERS takes a model of
fewer layers than 24, which is quicker.

The divergences are to be compared with each other only: drawn weights suffer more from rounding than trained ones.
"""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_model import save_drawn
from gptq_checkpoint import dequantized
from places import WORD_PROBLEMS
from test_gptqmodel import gptqmodel
from transformers import AutoModelForCausalLM

from edgereason.engines.llama_cpp import LlamaCppEngine
from edgereason.export.fidelity.distance import ComparedText, Logits, make_texts, measure_distance, predict
from edgereason.export.fidelity.reference_model import ReferenceModel
from edgereason.export.formats.gptq_writer import write_gptq
from edgereason.export.gguf import write_gguf
from edgereason.export.gguf.importance import measure_importance
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.quantization.calibration import CalibrationText
from edgereason.export.quantization.decoder_layers import DecoderLayers
from edgereason.export.quantization.gptq import GptqOptions
from edgereason.export.quantization.layer_store import LayerStore
from edgereason.export.quantization.layerwise import quantize_layers
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.export.settings import Settings
from edgereason.problems.arithmetic.generator import arithmetic_problems
from edgereason.text.prompts import ANSWER
from edgereason.text.tokenizer import Tokenizer

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.timeout(4 * 3600),
    pytest.mark.skipif("EDGEREASON_GPTQMODEL" not in os.environ, reason="an hour long: make conformance runs it"),
]

LAYERS = int(os.environ.get("EDGEREASON_LAYERS", "24"))
CALIBRATION_TOKENS, HELD_OUT = 8192, 16


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Not one thread, as the other tests of this directory have it."""
    torch.set_num_threads(os.cpu_count() or 1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("drawn") / "model"
    save_drawn(directory, LAYERS)
    return directory


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    """Calibration text of both quantizers."""
    found, count = [], 0
    for ids in CalibrationText({"answer": ANSWER}).sequences(Tokenizer(WORD_PROBLEMS / "base")):
        found.append(ids)
        count += len(ids)
        if count > CALIBRATION_TOKENS:
            break
    return found


@pytest.fixture(scope="module")
def texts() -> list[ComparedText]:
    """Problems with answers that are not in the calibration text."""
    tokenizer = Tokenizer(WORD_PROBLEMS / "base")
    held_out = list(islice(arithmetic_problems("measured"), HELD_OUT))
    prompts = [tokenizer.encode(tokenizer.render(ANSWER.messages(p.question, p.guidance))) for p in held_out]
    return make_texts(prompts, [tokenizer.encode(p.answer) for p in held_out])


def divergences(drawn: Path, texts: list[ComparedText], others: dict[str, Any]) -> dict[str, float]:
    """Mean KL divergence from the drawn model in fp32, nats, of models given as weights by name or as their logits."""
    witness = ReferenceModel(AutoModelForCausalLM.from_pretrained(drawn, dtype=torch.float32).eval())
    reference = [predict(texts[index], rows) for index, rows in sorted(witness.logits(texts))]
    found = {}
    for name, other in others.items():
        if isinstance(other, Path):
            linear = {
                key: weight for key, weight in dequantized(other).items() if ".layers." in key and weight.ndim == 2
            }
            assert len(linear) == 7 * LAYERS
            witness.model.load_state_dict(linear, strict=False)
            logits = witness.logits(texts)
        else:
            logits = other
        found[name] = measure_distance(texts, reference, reference, logits)[0].kl
    return found


def test_our_gptq_is_as_close_as_gptqmodels(
    drawn: Path, sequences: list[list[int]], texts: list[ComparedText], tmp_path: Path
) -> None:
    (tmp_path / "text.json").write_text(json.dumps({"sequences": sequences, "group_size": 128}))
    gptqmodel("quantize", drawn, tmp_path / "text.json", tmp_path / "theirs")
    weights, store = merge(open_base(drawn)), LayerStore(tmp_path / "store")
    quantize_layers(DecoderLayers(weights.config, weights), sequences, GptqOptions(), store, lambda done, total: None)
    for name, quantized in (("ours", store.all_weights({})), ("nearest", {})):
        (tmp_path / name).mkdir()
        settings = Settings(format="gptq", group_size=128)
        write_gptq(
            tmp_path / name, weights, settings, Rounding.of_settings(settings), quantized, lambda done, total: None
        )
    found = divergences(drawn, texts, {name: tmp_path / name for name in ("nearest", "theirs", "ours")})
    print(found)
    assert found["ours"] <= found["theirs"]
    assert found["ours"] < 0.7 * found["nearest"]


def test_the_importance_matrix_brings_q4_k_m_closer(
    drawn: Path, sequences: list[list[int]], texts: list[ComparedText], tmp_path: Path
) -> None:
    weights = merge(open_base(drawn))
    importance = measure_importance(weights, sequences)
    logits: dict[str, list[tuple[int, Logits]]] = {}
    for name, matrix in (("without", None), ("with", importance)):
        write_gguf(weights, tmp_path / "model.gguf", "Q4_K_M", importance=matrix)
        engine = LlamaCppEngine(tmp_path / "model.gguf", os.cpu_count() or 1)
        logits[name] = [
            (index, np.array(engine.session(len(text.ids)).advance(text.ids, every=True)))
            for index, text in enumerate(texts)
        ]
        engine.close()
    found = divergences(drawn, texts, logits)
    print(found)
    assert found["with"] < found["without"]
