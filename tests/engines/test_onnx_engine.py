"""onnxruntime: how far quantized graphs are off, files that are not whole, and that nothing is told to anybody."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from merged_model import random_ids, reference_logits, save_merged

from edgereason.engines.onnx import OnnxEngine
from edgereason.engines.probe import MICRO_MODELS
from edgereason.errors import BundleError, EngineError
from edgereason.export.formats.onnx_writer import write_onnx


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("merged"), tmp_path_factory.mktemp("stage")
    save_merged(source)
    write_onnx(source, out, 4)
    return out


@pytest.fixture
def copy(stage: Path, tmp_path: Path) -> Path:
    """The stage's files, free to be broken."""
    return Path(shutil.copytree(stage, tmp_path / "copy"))


@pytest.mark.parametrize(("tied", "bits", "least"), [(True, 8, 0.999), (True, 4, 0.93), (False, 4, 0.93)])
def test_quantized_graphs_stay_close_to_full_precision(tmp_path: Path, tied: bool, bits: int, least: float) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 352, "initializer_range": 0.02}
    model = save_merged(tmp_path, tie_word_embeddings=tied, **sizes)
    write_onnx(tmp_path, tmp_path, bits)
    engine = OnnxEngine(tmp_path, 2)
    ids = random_ids(64, engine.vocab_size)
    found = engine.session().advance(ids, every=True)
    assert np.corrcoef(found.ravel(), reference_logits(model, ids).ravel())[0, 1] > least


def test_a_graph_as_the_builder_writes_it_runs_too(copy: Path) -> None:
    ids = [5, 6, 7, 8]
    ours = OnnxEngine(copy, 1)
    expected = ours.session(8).advance(ids, every=True)
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    cut = next(node for node in model.graph.node if node.name == "logits_from/Slice")
    head = next(node for node in model.graph.node if cut.output[0] in node.input)
    head.input[0] = cut.input[0]
    model.graph.node.remove(cut)
    for constant in [each for each in model.graph.initializer if each.name.startswith("logits_from")]:
        model.graph.initializer.remove(constant)
    del model.metadata_props[:]
    onnx.save(model, copy / "model.onnx")
    plain = OnnxEngine(copy, 1)
    assert (plain.slices_logits, plain.context_length) == (False, ours.context_length)
    np.testing.assert_array_equal(plain.session(8).advance(ids, every=True), expected)
    np.testing.assert_array_equal(plain.session(8).advance(ids), expected[-1:])


def test_closed_engines_refuse() -> None:
    engine = OnnxEngine(MICRO_MODELS / "model.onnx", 1)
    session = engine.session(8)
    engine.close()
    engine.close()
    with pytest.raises(EngineError):
        session.advance([1])
    with pytest.raises(EngineError):
        engine.session(8)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx does not exist"):
        OnnxEngine(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(copy: Path, name: str, keep: float) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(BundleError, match=r"model\.onnx"):
        OnnxEngine(copy)


def test_a_missing_data_file_is_refused(copy: Path) -> None:
    (copy / "model.onnx.data").unlink()
    with pytest.raises(BundleError):
        OnnxEngine(copy)


def test_a_graph_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [])
    graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]))
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="is not a language model"):
        OnnxEngine(tmp_path)


def test_the_runtime_keeps_no_device_id_and_no_queue_of_events(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from edgereason.engines.onnx import OnnxEngine;"
        "OnnxEngine(Path(sys.argv[1])).session(8).advance([1, 2])"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", script, str(MICRO_MODELS / "model.onnx")]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []
