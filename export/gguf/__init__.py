"""GGUF: models for llama.cpp and the programs that are made of it."""

from edgereason.export.gguf.adapter import write_gguf_adapter
from edgereason.export.gguf.families import FAMILIES
from edgereason.export.gguf.importance import measure_importance
from edgereason.export.gguf.quantize import GGUF_TYPES
from edgereason.export.gguf.writer import write_gguf

__all__ = ["FAMILIES", "GGUF_TYPES", "measure_importance", "write_gguf", "write_gguf_adapter"]
