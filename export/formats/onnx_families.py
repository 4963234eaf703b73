"""What onnxruntime-genai's model builder can write, as measured: tests/export/formats/test_onnx_families.py.

The builder accepts configurations that it does not compute correctly; those are refused before it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgereason.errors import ExportError

ONNX_FAMILIES = ("gemma2", "granite", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""Values of `model_type`. Of SmolLM3 and Gemma 3 the builder of 0.18 stops in an error of its own."""


def check_onnx_config(config: dict[str, Any], model_dir: Path) -> None:
    """Make sure that the builder computes a configuration correctly.

    Raises:
        ExportError: it does not; the message names the field.
    """
    for reason in _reasons(config):
        raise ExportError(
            f"{model_dir} cannot be written as ONNX: {reason}.", "Export with --format native or --format gguf."
        )


def _reasons(config: dict[str, Any]) -> Iterator[str]:
    family, longest = config.get("model_type"), config["max_position_embeddings"]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" and (family, kind) != ("llama", "llama3"):
        yield f'onnxruntime-genai\'s builder does not compute RoPE of the type "{kind}"'
    window = config.get("sliding_window")
    if family in ("mistral", "phi3") and window is not None and window < longest:
        yield f"onnxruntime-genai's builder does not compute this family's sliding_window ({window})"
    if family == "phi3" and config.get("original_max_position_embeddings", longest) != longest:
        yield "onnxruntime-genai's builder stops at Phi-3 whose original_max_position_embeddings is another length"
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if size % 16:
        yield f"onnxruntime's attention takes heads of 16 elements and multiples, these have {size}"
