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
import torch
from merged_model import random_ids, reference_logits, relative_error, save_merged
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from edgereason.engines.onnx import OnnxEngine
from edgereason.errors import ExportError
from edgereason.export.formats.onnx_writer import write_onnx

FILES = {"model.onnx", "model.onnx.data", "genai_config.json"}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("merged")
    save_merged(directory)
    return directory


@pytest.fixture(scope="module", params=[4, 8, 16, 32])
def written(request: pytest.FixtureRequest, merged: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    out = tmp_path_factory.mktemp("out")
    steps: list[tuple[int, int]] = []
    stored = write_onnx(merged, out, request.param, lambda done, total: steps.append((done, total)))
    assert stored["weights"] == {4: "int4", 8: "int8", 16: "float16", 32: "float32"}[request.param]
    shares = [done / total for done, total in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(steps) > (10 if request.param == 4 else 2)  # layers that are read; with 4 bits, matrices, too
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
        assert attributes.get("bits") == {4: 8 if head else 4, 8: 8, 16: None, 32: None}[bits]
        if bits < 16:
            assert (attributes["block_size"], attributes["accuracy_level"]) == (32, 4)


def test_float16_is_stored_and_float32_computed_with(merged: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    ids = random_ids(30, 300)
    files = {}
    for bits in (32, 16):
        (tmp_path / str(bits)).mkdir()
        write_onnx(merged, tmp_path / str(bits), bits)
        files[bits] = (tmp_path / str(bits) / "model.onnx.data").stat().st_size
        found = OnnxEngine(tmp_path / str(bits), 1).session().advance(ids, every=True)
        with torch.no_grad():
            if bits == 16:
                for parameter in model.parameters():
                    if parameter.ndim == 2:
                        parameter.copy_(parameter.half().float())
        assert relative_error(found, reference_logits(model, ids)) < 1e-5
    assert files[16] < 0.6 * files[32]  # tables of rotary embeddings and norms stay in float32


def test_weights_beyond_float16_need_32_bits(merged: Path, tmp_path: Path) -> None:
    large = Path(shutil.copytree(merged, tmp_path / "large"))
    tensors = load_file(large / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e6
    save_file(tensors, large / "model.safetensors", {"format": "pt"})
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match=r"beyond float16(.|\n)*--bits 32"):
        write_onnx(large, tmp_path / "out", 16)
    assert list((tmp_path / "out").iterdir()) == []


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


@pytest.mark.parametrize(("precision", "symmetric"), [("int4", True), ("int8", False)])
def test_weights_rounded_alone_are_those_that_the_builder_rounds(
    merged: Path, tmp_path: Path, precision: str, symmetric: bool
) -> None:
    bits = int(precision.removeprefix("int"))
    (tmp_path / "ours").mkdir()
    write_onnx(merged, tmp_path / "ours", bits, block_size=64, symmetric=symmetric)
    options = ["block_size=64", "accuracy_level=4", f"is_symmetric={symmetric}".lower()]
    options += ["matmul_mixed_precision=last_matmul:int8"] if bits == 4 else []
    command = ["-m", "onnxruntime_genai.models.builder", "-i", merged, "-o", tmp_path / "theirs", "-p", precision]
    command += ["-e", "cpu", "-c", tmp_path / "cache", "--extra_options", *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    ours, theirs = (onnx.load(tmp_path / name / "model.onnx").graph for name in ("ours", "theirs"))
    tensors = {each.name: each for each in ours.initializer}
    for tensor in theirs.initializer:
        found = onnx.numpy_helper.to_array(tensors[tensor.name])
        np.testing.assert_array_equal(found, onnx.numpy_helper.to_array(tensor), tensor.name)
    nodes = {each.name: each for each in ours.node}
    for node in theirs.node:
        assert (nodes[node.name].op_type, nodes[node.name].domain) == (node.op_type, node.domain)
        if node.op_type == "MatMulNBits":
            found = {each.name: each.i for each in nodes[node.name].attribute}
            assert found == {each.name: each.i for each in node.attribute}


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
