"""ONNX files: what is written, that onnxruntime-genai opens it, and the sentence when nothing can be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from merged_model import random_ids, save_merged

from edgereason.engines.onnx import OnnxEngine
from edgereason.errors import ExportError
from edgereason.export.onnx import write_onnx

FILES = {"model.onnx", "model.onnx.data", "genai_config.json"}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("merged")
    save_merged(directory)
    return directory


@pytest.fixture(scope="module", params=[4, 8, 16])
def written(request: pytest.FixtureRequest, merged: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    out = tmp_path_factory.mktemp("out")
    steps: list[tuple[int, int]] = []
    stored = write_onnx(merged, out, request.param, lambda done, total: steps.append((done, total)))
    assert stored["weights"] == {4: "int4", 8: "int8", 16: "float32"}[request.param]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    return out, request.param


def test_only_the_models_files_are_left(written: tuple[Path, int]) -> None:
    assert {path.name for path in written[0].iterdir()} == FILES


def test_every_matrix_has_the_bits_that_were_asked_for(written: tuple[Path, int]) -> None:
    out, bits = written
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    products = [node for node in graph.node if node.op_type in ("MatMul", "MatMulNBits")]
    assert len(products) == 2 * 5 + 1  # q, k and v are one
    for node in products:
        attributes = {each.name: each.i for each in node.attribute}
        head = node.name.startswith("/lm_head/")
        assert attributes.get("bits") == {4: 8 if head else 4, 8: 8, 16: None}[bits]
        if bits < 16:
            assert (attributes["block_size"], attributes["accuracy_level"]) == (32, 4)


def test_onnxruntime_genai_writes_the_same_text(written: tuple[Path, int], merged: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(written[0], tmp_path / "out"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(merged / name, out)
    prompt, count = random_ids(10, 300), 20
    script = (
        "import json, sys, onnxruntime_genai as og; path, prompt, length = json.loads(sys.argv[1]);"
        "model = og.Model(path); params = og.GeneratorParams(model);"
        "params.set_search_options(max_length=length, do_sample=False); generator = og.Generator(model, params);"
        "generator.append_tokens(prompt)\n"
        "while not generator.is_done(): generator.generate_next_token()\n"
        "print(json.dumps([int(each) for each in generator.get_sequence(0)]))"
    )
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", script, json.dumps([str(out), prompt, len(prompt) + count])]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    theirs = json.loads(child.stdout)[len(prompt) :]
    session = OnnxEngine(out, 2).session()
    ours, logits = [], session.advance(prompt)
    while len(ours) < len(theirs):
        ours.append(int(np.argmax(logits[-1])))
        logits = session.advance(ours[-1:])
    assert theirs == ours


def test_the_same_model_gives_the_same_bytes(written: tuple[Path, int], merged: Path, tmp_path: Path) -> None:
    out, bits = written
    if bits != 4:
        pytest.skip("one kind is enough")
    elsewhere = shutil.copytree(merged, tmp_path / "elsewhere")
    write_onnx(elsewhere, tmp_path, bits)
    assert all((tmp_path / name).read_bytes() == (out / name).read_bytes() for name in FILES)


def test_a_family_that_the_builder_does_not_know_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    save_merged(tmp_path / "in")
    config = json.loads((tmp_path / "in/config.json").read_text())
    (tmp_path / "in/config.json").write_text(json.dumps({**config, "architectures": ["NoSuchForCausalLM"]}))
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="could not convert"):
        write_onnx(tmp_path / "in", tmp_path / "out", 16)
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_arguments_are_named(merged: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="bits is 5"):
        write_onnx(merged, tmp_path, 5)
    with pytest.raises(ExportError, match=r"config\.json cannot be read"):
        write_onnx(tmp_path, tmp_path, 16)
