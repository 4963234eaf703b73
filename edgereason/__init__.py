"""edgereason: small language models that reason in two stages, offline, on the laptop in front of you.

from edgereason import load

with load() as reasoner:                  # or load("my.bundle")
    result = reasoner.ask("Tom has 12 apples and eats 5. How many are left?")
    print(result.guidance, result.answer, result.final, result.timings.total_s)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgereason.version import __version__

if TYPE_CHECKING:
    from edgereason.bundle import Bundle, Sampling
    from edgereason.decoding.timings import StageTimings
    from edgereason.errors import BundleError, ContextError, EdgeReasonError, EngineError, ExportError, UsageError
    from edgereason.language_model import LanguageModel, load_model
    from edgereason.pipeline.batch import Outcome
    from edgereason.pipeline.reasoner import Reasoner, load
    from edgereason.pipeline.results import Event, Result, Timings
    from edgereason.prefill.optimizations import Optimizations

# Imported on first use, so that `edgereason --help` does not wait for numpy.
_HOMES = {
    "Bundle": "bundle",
    "BundleError": "errors",
    "ContextError": "errors",
    "EdgeReasonError": "errors",
    "EngineError": "errors",
    "Event": "pipeline.results",
    "ExportError": "errors",
    "LanguageModel": "language_model",
    "Outcome": "pipeline.batch",
    "Reasoner": "pipeline.reasoner",
    "Result": "pipeline.results",
    "Sampling": "bundle",
    "StageTimings": "decoding.timings",
    "Optimizations": "prefill.optimizations",
    "Timings": "pipeline.results",
    "UsageError": "errors",
    "load": "pipeline.reasoner",
    "load_model": "language_model",
}

__all__ = [
    "Bundle",
    "BundleError",
    "ContextError",
    "EdgeReasonError",
    "EngineError",
    "Event",
    "ExportError",
    "LanguageModel",
    "Optimizations",
    "Outcome",
    "Reasoner",
    "Result",
    "Sampling",
    "StageTimings",
    "Timings",
    "UsageError",
    "__version__",
    "load",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgereason' has no attribute {name!r}")
    return getattr(import_module(f"edgereason.{_HOMES[name]}"), name)
