"""onnxruntime-genai: int4 in blocks of 32 from its model builder, accuracy level 4 (activations in int8)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime_genai

_OPTIONS = ["block_size=32", "accuracy_level=4"]


def convert(checkpoint: Path, out: Path) -> int:
    """Write the engine's files into `out`; returns the bytes that one decoded token reads."""
    from onnxruntime_genai.models import builder

    cache = out / "cache"
    source, target = str(checkpoint), str(out)
    extra = builder.parse_extra_options(source, source, target, "int4", "cpu", str(cache), _OPTIONS)
    builder.create_model(source, source, target, "int4", "cpu", str(cache), **extra)
    return _bytes_per_token(out / "model.onnx")


def _bytes_per_token(path: Path) -> int:
    """The weights of all products: tables that rows are looked up in are not read as a whole."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    total = 0
    for tensor in graph.initializer:
        if any(operation.startswith("MatMul") for operation in readers.get(tensor.name, ())):
            sizes = {entry.key: entry.value for entry in tensor.external_data}
            total += int(sizes.get("length", len(tensor.raw_data)))
    return total


class Model:
    """A loaded model."""

    def __init__(self, directory: Path, threads: int, capacity: int) -> None:
        config = onnxruntime_genai.Config(str(directory))
        session = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": session}}))
        self._model = onnxruntime_genai.Model(config)
        self._capacity = capacity

    def generate(self, ids: Sequence[int], count: int, on_token: Callable[[int], None]) -> None:
        """Read `ids` from an empty cache and generate `count` tokens, greedily; `on_token` hears each at once."""
        params = onnxruntime_genai.GeneratorParams(self._model)
        # A least length keeps a chance end token from ending the measurement.
        params.set_search_options(max_length=self._capacity, min_length=self._capacity, do_sample=False)
        generator = onnxruntime_genai.Generator(self._model, params)
        generator.append_tokens(list(ids))
        for _ in range(count):
            generator.generate_next_token()
            on_token(int(generator.get_next_tokens()[0]))


def about() -> dict[str, str]:
    """What else the results should name."""
    return {"version": onnxruntime_genai.__version__}
