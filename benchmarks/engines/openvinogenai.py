"""OpenVINO GenAI: int4 from optimum-intel's exporter (nncf). Needs an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

_GROUP_SIZE = 64
_OPTIONS = ["--weight-format", "int4", "--sym", "--group-size", str(_GROUP_SIZE), "--ratio", "1.0"]


def convert(checkpoint: Path, out: Path) -> int:
    """Write the engine's files into `out`; returns the bytes that one decoded token reads."""
    program = str(Path(sys.executable).with_name("optimum-cli"))
    task = ["--task", "text-generation-with-past", "--disable-convert-tokenizer"]
    subprocess.run([program, "export", "openvino", "--model", str(checkpoint), *task, *_OPTIONS, str(out)], check=True)
    return (out / "openvino_model.bin").stat().st_size


class Model:
    """A loaded model."""

    def __init__(self, directory: Path, threads: int, capacity: int) -> None:
        # Activations are quantized in groups as large as the weights' rather than of 32: a fifth more in prefill.
        quantization = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP_SIZE}
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **quantization}
        self._pipeline = openvino_genai.LLMPipeline(str(directory), "CPU", **settings)

    def generate(self, ids: Sequence[int], count: int, on_token: Callable[[int], None]) -> None:
        """Read `ids` from an empty cache and generate `count` tokens, greedily; `on_token` hears each at once."""
        config = openvino_genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        tokens = np.array([ids], np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(tokens), openvino.Tensor(np.ones_like(tokens)))
        self._pipeline.generate(inputs, config, _Listener(on_token))


class _Listener(openvino_genai.StreamerBase):
    def __init__(self, on_token: Callable[[int], None]) -> None:
        super().__init__()
        self._on_token = on_token

    def write(self, token: int | list[int]) -> openvino_genai.StreamingStatus:
        for each in token if isinstance(token, list) else [token]:
            self._on_token(each)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


def about() -> dict[str, str]:
    """What else the results should name."""
    return {"version": openvino_genai.__version__}
