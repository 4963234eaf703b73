"""Write a model as ONNX with onnxruntime-genai's model builder, in a child process of its own.

The builder prints, looks for files on the network, and puts modules with everyday names on the import path: in a child
it is silent and offline, and its memory is given back. The graph that it makes computes the logits of every token; a
constant is added to it, `logits_from`, which our engine replaces so that a prompt costs the output head only once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgereason.errors import ExportError
from edgereason.export import onnx_families
from edgereason.export.onnx_weights import carry
from edgereason.export.settings import ONNX_BLOCK_SIZES
from edgereason.files import sync
from edgereason.kernels.packing import PackedWeight

Progress = Callable[[int, int], None]
"""Called with the steps that are done and the steps that there are."""

ACCURACY_LEVEL = 4
"""Of `MatMulNBits`: activations are quantized to int8, the fastest that CPUs do."""

_PRECISIONS = {4: "int4", 8: "int8", 16: "fp32"}
_FILES = ("model.onnx.data", "genai_config.json", "model.onnx")  # the graph last: it makes the others a model


def write_onnx(
    model_dir: Path,
    out_dir: Path,
    bits: int,
    progress: Progress | None = None,
    *,
    block_size: int = 32,
    symmetric: bool = True,
    quantized: Mapping[str, PackedWeight] | None = None,
) -> dict[str, Any]:
    """Write model.onnx, model.onnx.data and genai_config.json.

    With 4 bits, weights are int4 in blocks and the output head is int8. With 16, weights are float32:
    onnxruntime's CPU kernels have no float16 attention, and compute other float16 operations in float32 anyway.

    Args:
        model_dir: config.json, *.safetensors and tokenizer files, as Hugging Face writes them.
        out_dir: An existing directory; files of these names in it are replaced when all are complete.
        bits: 4, 8 or 16.
        progress: Called as layers are read.
        block_size: Inputs that share a scale: 32, 64 or 128.
        symmetric: Whether zero points are in the middle, instead of one for each block.
        quantized: The linear layers of all decoder layers, rounded already, by their names without `.weight`: they are
            stored as they are. Those that are not in it are rounded to nearest.

    Returns:
        How the weights are stored: `{"weights": "int4" | "int8" | "float32", ...}`.

    Raises:
        ExportError: the builder does not know the family, the rounded weights have no place, or the disk is full.
    """
    if block_size not in ONNX_BLOCK_SIZES:
        raise ExportError(f"group-size is {block_size}.", "ONNX has blocks of 32, 64 or 128.")
    if bits not in _PRECISIONS:
        raise ExportError(f"bits is {bits}.", "Choose 4, 8 or 16.")
    config = _read_config(model_dir)
    onnx_families.check(config, model_dir)
    try:
        with tempfile.TemporaryDirectory(dir=out_dir, prefix=".onnx-") as temporary:
            built = Path(temporary)
            job = [
                str(model_dir.resolve()),
                str(built.resolve()),
                _PRECISIONS[bits],
                _options(bits, block_size, symmetric),
            ]
            _build(job, built, int(config["num_hidden_layers"]), progress or (lambda done, total: None))
            _finish(built / "model.onnx", config, quantized or {})
            for name in _FILES:
                sync(built / name)
                (built / name).replace(out_dir / name)
    except OSError as error:
        raise ExportError(
            f"{out_dir} could not be written: {error.strerror or error}.",
            "Free some space, or write to another disk.",
        ) from error
    if bits == 16:
        return {"weights": "float32"}
    stored = {"weights": _PRECISIONS[bits], "block_size": block_size, "accuracy_level": ACCURACY_LEVEL}
    return {**stored, **({} if symmetric else {"symmetric": False}), "output_head": "int8"}


def _read_config(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config["num_hidden_layers"], config["max_position_embeddings"]
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{path} cannot be read: {error}", "Give a complete model.") from error
    return config


def _options(bits: int, block_size: int, symmetric: bool) -> list[str]:
    """The builder's options. The output head keeps 8 bits: it is what low bits hurt most."""
    if bits == 16:
        return []
    options = [f"block_size={block_size}", f"accuracy_level={ACCURACY_LEVEL}", f"is_symmetric={symmetric}".lower()]
    return [*options, "matmul_mixed_precision=last_matmul:int8"] if bits == 4 else options


def _build(job: list[Any], out: Path, layers: int, report: Progress) -> None:
    """Run the builder in a child process; it names each layer that it reads, which is where progress comes from."""
    total = layers + 1
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", __name__, json.dumps(job)]
    last = ""
    with subprocess.Popen(
        command, env=environment, cwd=out, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        for line in child.stdout or ():
            last = line.strip() or last
            if match := re.match(r"Reading layer (\d+)", line):
                report(int(match[1]) + 1, total)
    if child.returncode != 0:
        raise ExportError(
            f"onnxruntime-genai's builder could not convert {job[0]}: {last}",
            "See which families it knows, or export with --format native or --format gguf.",
        )
    report(total, total)


def _run_builder(model_dir: str, out: str, precision: str, options: list[str]) -> None:
    """What the child does."""
    from onnxruntime_genai.models import builder

    cache = str(Path(out) / "cache")
    extra = builder.parse_extra_options(model_dir, model_dir, out, precision, "cpu", cache, options)
    builder.create_model(model_dir, model_dir, out, precision, "cpu", cache, **extra)
    shutil.rmtree(cache, ignore_errors=True)


def _finish(path: Path, config: dict[str, Any], quantized: Mapping[str, PackedWeight]) -> None:
    """Repair the graph, let it compute the logits that are wanted alone, and put rounded weights and the model's own
    facts into it."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    # The builder adds the commit of the git repository that it is installed in, if any: that may be one of the user's.
    model.producer_version = model.producer_version.partition("+")[0]
    _repair_shared_embedding(model.graph)
    carry(model.graph, path.parent, quantized)
    _add_logits_from(model.graph)
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    facts = {"context_length": config["max_position_embeddings"], "head_size": head_size, "logits_from": 1}
    onnx.helper.set_model_props(model, {name: str(value) for name, value in facts.items()})
    onnx.save(model, path)


def _repair_shared_embedding(graph: Any) -> None:
    """Where an 8-bit head serves as embedding, too, the builder's default quantizer gives it other names than the
    embedding asks for (seen in 0.18)."""
    constants = {each.name for each in graph.initializer}
    names = {f"lm_head.MatMul.weight_Q8G{size}": "lm_head.MatMul.weight_Q8" for size in ONNX_BLOCK_SIZES} | {
        "lm_head.MatMul.weight_scale": "lm_head.MatMul.weight_scales",
        "lm_head.MatMul.weight_zp": "lm_head.MatMul.weight_zero_points",
    }
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name not in constants and names.get(name) in constants:
                node.input[index] = names[name]


def _add_logits_from(graph: Any) -> None:
    """Let the graph compute logits from position `logits_from` on: a constant int64 `[1]`, here before the first.

    onnxruntime lets a program replace a constant when it loads a model; other programs run the graph as it was.
    """
    from onnx import helper, numpy_helper

    head = next(node for node in graph.node if node.name.startswith("/lm_head/MatMul"))
    # Far below zero rather than zero: with that, onnxruntime would drop the slice as one that does nothing.
    arrays = {
        "logits_from": np.array([-(1 << 31)]),
        "logits_from/end": np.array([np.iinfo(np.int64).max]),
        "logits_from/axis": np.array([1]),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    cut = helper.make_node("Slice", [head.input[0], *arrays], ["logits_from/output"], "logits_from/Slice")
    graph.node.insert(list(graph.node).index(head), cut)
    head.input[0] = cut.output[0]
    logits = next(output for output in graph.output if output.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_param = "logits_length"


if __name__ == "__main__":
    _run_builder(*json.loads(sys.argv[1]))
