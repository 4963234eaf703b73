"""Adapters in, bundle out: merge, quantize, write.

    from edgereason.export import export

    export("base/", "guidance-adapter/", "answer-adapter/", "my.bundle", format="gguf", bits=4)
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import edgereason
from edgereason.bundle import STAGES, Bundle, Stage, new_directory, record_files
from edgereason.errors import ExportError, UsageError
from edgereason.prompts import ANSWER, GUIDANCE
from edgereason.tokenizer import TOKENIZER_FILES, Tokenizer

FORMATS = ("native", "gguf", "onnx")
GGUF_TYPES = {"Q4_0": 4, "Q4_K_M": 4, "Q8_0": 8, "F16": 16}
"""The GGUF types that can be written, and the bits of a weight in each."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of its steps are done, and how many there are."""

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

    bases = {"guidance": open_base(base), "answer": open_base(answer_base if answer_base is not None else base)}
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
            with _work_directory(staging) as merged:
                report = _reporter(progress, f"{stage}: merge")
                from edgereason.export.merge import merge

                merge(bases[stage], adapters[stage], merged, report)
                directory = staging / stage
                directory.mkdir()
                report = _reporter(progress, f"{stage}: write {gguf_type or f'{format} {bits}-bit'}")
                stored = _write(format, merged, directory, bases[stage].config, bits, gguf_type, report)
                stages[stage] = Stage(adapters[stage].prompt, _stop_ids(merged))
                for name in (*TOKENIZER_FILES, "generation_config.json"):
                    if (merged / name).is_file():
                        shutil.copyfile(merged / name, directory / name)
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
