"""GGUF: models for llama.cpp and the programs built on it."""

from edgereason.export.gguf.adapter_writer import write_gguf_adapter
from edgereason.export.gguf.families import GGUF_FAMILIES
from edgereason.export.gguf.ggml_types import GGML_FILE_TYPES
from edgereason.export.gguf.importance import measure_importance
from edgereason.export.gguf.writer import write_gguf

__all__ = ["GGML_FILE_TYPES", "GGUF_FAMILIES", "measure_importance", "write_gguf", "write_gguf_adapter"]
