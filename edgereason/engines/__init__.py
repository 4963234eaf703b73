"""The engines, and how one is found for a model's files."""

from __future__ import annotations

from pathlib import Path

from edgereason.bundle import FORMATS
from edgereason.engines.base import Engine
from edgereason.errors import BundleError, UsageError

ENGINES = ("native", "llama.cpp", "onnx")

# What a stage's directory holds for each engine, and the suffix by which a single file is known.
_FILES = {"native": "model.safetensors", "llama.cpp": "model.gguf", "onnx": "model.onnx"}
_SUFFIXES = {".safetensors": "native", ".gguf": "llama.cpp", ".onnx": "onnx"}
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter.gguf")


def engine_for(path: Path) -> str:
    """The engine that runs the model in a stage's directory or a single model file.

    Raises:
        BundleError: nothing is there, or nothing that an engine knows.
    """
    if path.is_file() and path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    if not path.exists():
        raise BundleError(f"{path} does not exist.", "Give the directory or file of a model.")
    for engine, file in _FILES.items():
        if (path / file).is_file() or (path / f"{file}.index.json").is_file():
            return engine
    from edgereason.checkpoints.weights import GPTQ_FILES

    if any(path.glob(GPTQ_FILES)):
        return "native"
    raise BundleError(f"{path} holds no model.", f"One of {', '.join(_FILES.values())} has to be there.")


def has_adapter(directory: Path) -> bool:
    """Whether a stage's directory holds an adapter instead of a model."""
    return any((directory / file).is_file() for file in _ADAPTER_FILES)


def open_engine(path: Path, engine: str = "auto", threads: int | None = None, gpu_layers: int | None = None) -> Engine:
    """Load a model.

    Args:
        path: A stage's directory, or a `.gguf`, `.onnx` or `.safetensors` file.
        engine: `native`, `llama.cpp`, `onnx`, or `auto` for the one that runs these files.
        threads: Threads per computation; None lets the engine choose.
        gpu_layers: Layers that llama.cpp computes on a GPU; None for all that its build can. Other engines have none.

    Raises:
        BundleError: the files are missing, broken, or for another engine.
        EngineError: the engine is not installed or does not run on this machine.
        UsageError: there is no engine of that name, or `threads` or `gpu_layers` cannot be used.
    """
    if engine not in ("auto", *ENGINES):
        raise UsageError(f"There is no engine {engine!r}.", f"Choose one of auto, {', '.join(ENGINES)}.")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}.", "Give 1 or more, or leave it out.")
    found = engine_for(path)
    if engine not in ("auto", found):
        format_name = next(name for name, runner in FORMATS.items() if runner == engine)
        raise UsageError(
            f"{path} is for the engine {found}, not for {engine}.",
            f"Leave --engine out, or export the model with --format {format_name}.",
        )
    if gpu_layers is not None and (found != "llama.cpp" or gpu_layers < 0):
        raise UsageError(
            f"gpu-layers is {gpu_layers} for the engine {found}.",
            "Only llama.cpp uses a GPU: give it 0 or more layers.",
        )
    if found == "native":
        from edgereason.engines.native import NativeEngine

        return NativeEngine(path, threads)
    if found == "llama.cpp":
        from edgereason.engines.llama_cpp import LlamaCppEngine

        return LlamaCppEngine(path, threads, gpu_layers)
    from edgereason.engines.onnx import OnnxEngine

    return OnnxEngine(path, threads)
