"""Write a model as ONNX with onnxruntime-genai's model builder, in a child process of its own.

The builder prints, looks for files on the network, and puts modules with everyday names on the import path: in a child
it is silent and offline, and its memory is given back. Its graph computes the logits of every token; a
constant is added, `logits_from`, which our engine replaces so that prefill computes the LM head only once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgereason.errors import ExportError
from edgereason.export.formats.onnx_families import check_onnx_config
from edgereason.export.formats.onnx_half import store_in_half
from edgereason.export.formats.onnx_weights import replace_weights
from edgereason.export.progress_callbacks import StepProgress, part_of, silent
from edgereason.export.settings import ONNX_BLOCK_SIZES
from edgereason.files import sync
from edgereason.kernels.packing import PackedWeight

ACCURACY_LEVEL = 4
"""The accuracy level of `MatMulNBits`: activations are quantized to int8, the fastest on CPUs."""

_PRECISIONS = {4: "int4", 8: "int8", 16: "fp32", 32: "fp32"}
_UNQUANTIZED = {16: "float16", 32: "float32"}
_FILES = ("model.onnx.data", "genai_config.json", "model.onnx")  # the graph last: it makes the others a model


def write_onnx(
    model_dir: Path | Callable[[], Path],
    out_dir: Path,
    bits: int,
    progress: StepProgress = silent,
    *,
    block_size: int = 32,
    symmetric: bool = True,
    quantized: Mapping[str, PackedWeight] | None = None,
) -> dict[str, Any]:
    """Write model.onnx, model.onnx.data and genai_config.json.

    With 4 bits, weights are int4 in blocks and the LM head is int8. With 16, matrices are stored in float16 and
    computed with in float32, as with 32 (see `onnx_half`).

    Args:
        model_dir: config.json, *.safetensors and tokenizer files, as Hugging Face writes them; or a function that
            makes such a directory, called while the builder starts.
        out_dir: An existing directory; files of these names in it are replaced when all are complete.
        bits: 4, 8, 16 or 32.
        progress: Called as the builder reads layers and quantizes weights.
        block_size: Inputs that share a scale: 32, 64 or 128.
        symmetric: Whether zero points are in the middle, instead of one for each block.
        quantized: The linear layers of all decoder layers, already quantized, by their names without `.weight`; they
            are stored as they are. Others are rounded to nearest.

    Returns:
        How the weights are stored: `{"weights": "int4" | "int8" | "float16" | "float32", ...}`.

    Raises:
        ExportError: the builder does not know the family, the quantized weights have no place, or the disk is full.
    """
    if block_size not in ONNX_BLOCK_SIZES:
        raise ExportError(f"group-size is {block_size}.", "ONNX has blocks of 32, 64 or 128.")
    if bits not in _PRECISIONS:
        raise ExportError(f"bits is {bits}.", "Choose 4, 8, 16 or 32.")
    try:
        with tempfile.TemporaryDirectory(dir=out_dir, prefix=".onnx-") as temporary, _builder(Path(temporary)) as child:
            built = Path(temporary)
            source = model_dir if isinstance(model_dir, Path) else model_dir()
            config = _read_config(source)
            check_onnx_config(config, source)
            options = _options(bits, block_size, symmetric)
            job = [str(source.resolve()), str(built.resolve()), _PRECISIONS[bits], options]
            _build(child, job, int(config["num_hidden_layers"]), progress)
            _finish(built / "model.onnx", config, quantized or {}, bits == 16)
            for name in _FILES:
                sync(built / name)
                (built / name).replace(out_dir / name)
    except OSError as error:
        raise ExportError(
            f"{out_dir} could not be written: {error.strerror or error}.",
            "Free some space, or write to another disk.",
        ) from error
    if bits in _UNQUANTIZED:
        return {"weights": _UNQUANTIZED[bits]}
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
    """The builder's options. The LM head keeps 8 bits: it loses most by fewer."""
    if bits in _UNQUANTIZED:
        return []
    options = [f"block_size={block_size}", f"accuracy_level={ACCURACY_LEVEL}", f"is_symmetric={symmetric}".lower()]
    return [*options, "matmul_mixed_precision=last_matmul:int8"] if bits == 4 else options


@contextmanager
def _builder(out: Path) -> Iterator[subprocess.Popen[str]]:
    """The builder's process, which imports its libraries until it gets a job; ended with the block, in any case."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-m", "edgereason.export.formats.onnx_builder"]
    with subprocess.Popen(command, env=environment, cwd=out, text=True, errors="replace", **pipe) as child:
        try:
            yield child
        finally:
            child.kill()  # where all went well it has ended


def _build(child: subprocess.Popen[str], job: list[Any], layers: int, progress: StepProgress) -> None:
    """Give the builder its job; it prints each layer that it reads and each weight that it has quantized."""
    assert child.stdin
    last = ""
    with suppress(BrokenPipeError):  # it has ended, and its last line says why
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.close()
    for line in child.stdout or ():
        last = line.strip() or last
        if match := re.match(r"Reading layer (\d+)", line):
            part_of(progress, 0, 2)(int(match[1]) + 1, layers + 1)
        elif match := re.match(r"Quantized (\d+) of (\d+) weights", line):
            part_of(progress, 1, 2)(int(match[1]), int(match[2]) + 1)
    if child.wait() != 0:
        raise ExportError(
            f"onnxruntime-genai's builder could not convert {job[0]}: {last}",
            "Export with --format native or --format gguf.",
        )
    part_of(progress, 1, 2)(1, 1)


def _finish(path: Path, config: dict[str, Any], quantized: Mapping[str, PackedWeight], half: bool) -> None:
    """Repair the graph, add `logits_from`, quantized weights and the model's sizes; save it, with `half` in float16."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    # The builder adds the commit of the git repository that it is installed in, if any: that may be one of the user's.
    model.producer_version = model.producer_version.partition("+")[0]
    _repair_shared_embedding(model.graph)
    replace_weights(model.graph, path.parent, quantized)
    _add_logits_from(model.graph)
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    facts = {"context_length": config["max_position_embeddings"], "head_size": head_size, "logits_from": 1}
    onnx.helper.set_model_props(model, {name: str(value) for name, value in facts.items()})
    if half:
        store_in_half(model, path)
    else:
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
