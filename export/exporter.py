"""One export from beginning to end: checks first, then merge and write each stage, then the manifest."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

import edgereason
from edgereason.bundle import STAGES, Bundle, Stage, new_directory, record_files
from edgereason.errors import EngineError, ExportError, UsageError
from edgereason.prompts import ANSWER, GUIDANCE
from edgereason.tokenizer import TOKENIZER_FILES, Tokenizer

if TYPE_CHECKING:
    from edgereason.export.inputs import Adapter, Base

FORMATS = ("native", "gguf", "onnx")
GGUF_TYPES = {"Q4_0": 4, "Q4_K_M": 4, "Q8_0": 8, "F16": 16}
"""The GGUF types that can be written, and the bits of a weight in each."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of its steps are done, and how many there are."""

_GGUF_DEFAULTS = {4: "Q4_0", 8: "Q8_0", 16: "F16"}
_LIBRARIES = {"native": (), "gguf": ("gguf", "llama_cpp"), "onnx": ("onnx", "onnxruntime", "onnxruntime_genai")}
_DEFAULT_PROMPTS = {"guidance": GUIDANCE, "answer": ANSWER}


def export(
    base: str | Path,
    guidance_adapter: str | Path,
    answer_adapter: str | Path,
    out: str | Path,
    *,
    answer_base: str | Path | None = None,
    format: str = "native",
    bits: int = 4,
    gguf_type: str | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Merge each adapter into its base, quantize, and write a bundle.

    Args:
        base: The base model: a Hugging Face directory or a hub id.
        guidance_adapter: A PEFT LoRA directory, trained to write guidances.
        answer_adapter: A PEFT LoRA directory, trained to answer.
        out: The bundle's directory. It appears when it is complete, or not at all.
        answer_base: The answer model's base where it is another one.
        format: `native`, `gguf` or `onnx`.
        bits: 4 or 8 (quantized by groups of 32) or 16 (full precision).
        gguf_type: A name from `GGUF_TYPES`, in place of `bits`.
        replace: Replace what is at `out`.
        progress: Called as work goes on.

    Returns:
        The finished bundle, opened.

    Raises:
        UsageError: an argument is not among its choices.
        ExportError: base and adapters do not fit, or the bundle cannot be written.
        EngineError: a library that the format needs is not installed.
    """
    bits, gguf_type = _choose_bits(format, bits, gguf_type)
    _require(format)
    from edgereason.export.inputs import check_pairing, describe, open_adapter, open_base

    sources = {"guidance": base, "answer": base if answer_base is None else answer_base}
    bases = {stage: open_base(sources[stage], format) for stage in STAGES}
    paths = {"guidance": Path(guidance_adapter), "answer": Path(answer_adapter)}
    adapters = {stage: open_adapter(paths[stage], _DEFAULT_PROMPTS[stage]) for stage in STAGES}
    for stage in STAGES:
        check_pairing(bases[stage], adapters[stage])
    out = Path(out)
    _check_space(out, max(each.bytes for each in bases.values()))
    with new_directory(out, replace) as staging:
        stages: dict[str, Stage] = {}
        stored: dict[str, Any] = {}
        for stage in STAGES:
            writer = _Writer(stage, format, bits, gguf_type, progress)
            stop_ids, stored = writer.run(bases[stage], adapters[stage], staging / stage)
            stages[stage] = Stage(adapters[stage].prompt, stop_ids)
        Bundle(
            path=staging,
            format=format,
            stages=stages,
            files=record_files(staging),
            quantization={"bits": bits, **stored},
            provenance={stage: describe(bases[stage], adapters[stage]) for stage in STAGES},
            created_by=f"edgereason {edgereason.__version__}",
        ).write_manifest()
    return Bundle.open(out, verify=False)


@dataclass(frozen=True)
class _Writer:
    """Writes one stage's directory."""

    stage: str
    format: str
    bits: int
    gguf_type: str | None
    progress: Progress | None

    def run(self, base: Base, adapter: Adapter, directory: Path) -> tuple[frozenset[int], dict[str, Any]]:
        """Merge, quantize and write; returns the tokens that end this stage's text, and what was stored how."""
        from edgereason.export.merge import merge

        directory.mkdir()
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            merged = Path(temporary)
            merge(base, adapter, merged, self._report("merging"))
            stored = self._write(base, merged, directory)
            for name in (*TOKENIZER_FILES, "generation_config.json"):
                if (merged / name).is_file():
                    shutil.copyfile(merged / name, directory / name)
            return Tokenizer(merged).stop_ids(), stored

    def _write(self, base: Base, merged: Path, directory: Path) -> dict[str, Any]:
        report = self._report(f"writing {self.gguf_type or f'{self.bits}-bit {self.format}'}")
        if self.gguf_type:
            from edgereason.export.gguf import write_gguf

            write_gguf(merged, directory / "model.gguf", self.gguf_type, report)
            return {"type": self.gguf_type}
        if self.format == "onnx":
            from edgereason.export.onnx import write_onnx

            return write_onnx(merged, directory, self.bits, report)
        from edgereason.export.native import write_native

        write_native(directory, base.config, read_tensors(merged), self.bits, progress=report)
        return {"group_size": 32, "method": "rtn"} if self.bits < 16 else {"type": "f16"}

    def _report(self, what: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if self.progress:
                self.progress(f"{self.stage}: {what}", done, total)

        return report


def _choose_bits(format: str, bits: int, gguf_type: str | None) -> tuple[int, str | None]:
    """The bits per weight and, for GGUF, the type that is written."""
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}.", f"Choose one of {', '.join(FORMATS)}.")
    if gguf_type is not None:
        if format != "gguf":
            raise UsageError(f"gguf-type is for --format gguf, not for {format}.", "Leave --gguf-type out.")
        if gguf_type not in GGUF_TYPES:
            raise UsageError(f"There is no GGUF type {gguf_type!r}.", f"Choose one of {', '.join(GGUF_TYPES)}.")
        return GGUF_TYPES[gguf_type], gguf_type
    if bits not in _GGUF_DEFAULTS:
        raise UsageError(f"bits is {bits}.", "Choose 4, 8 or 16.")
    return bits, _GGUF_DEFAULTS[bits] if format == "gguf" else None


def _require(format: str) -> None:
    """Make sure that the libraries are there before any work begins."""
    for module in ("torch", "transformers", "peft", *_LIBRARIES[format]):
        if importlib.util.find_spec(module) is None:
            raise EngineError(f"Exporting to {format} needs {module}.", 'Install it: pip install "edgereason[export]"')


def _check_space(out: Path, base_bytes: int) -> None:
    """Refuse early what cannot fit: a stage's merged copy in fp32 lies beside it while it is written."""
    existing = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    # fp32 is twice a 16-bit base; the two stages written come to less than another one.
    needed, free = 3 * base_bytes, shutil.disk_usage(existing).free
    if free < needed:
        raise ExportError(
            f"{existing} has {free / 1e9:.1f} GB free, this export needs about {needed / 1e9:.1f} GB.",
            "Free some space, or give an --out on another disk.",
        )


def read_tensors(directory: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Every tensor of a merged model, one at a time."""
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  (not a dictionary)
                yield name, file.get_tensor(name)
