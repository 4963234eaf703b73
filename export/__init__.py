"""Adapters in, bundle out: merge, quantize, write.

from edgereason.export import export, plan

export("base/", "guidance-adapter/", "answer-adapter/", "my.bundle", format="gguf", bits=4)
"""

from edgereason.bundle import FORMATS
from edgereason.export.exporter import export, plan
from edgereason.export.settings import GGUF_TYPES, Settings

__all__ = ["FORMATS", "GGUF_TYPES", "Settings", "export", "plan"]
