"""Where a stage comes from: what the manifest says of base and adapters, and the checksums that identify an export."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from edgereason.export.inputs.adapter import Adapter
from edgereason.export.inputs.base_model import Base
from edgereason.export.progress_callbacks import StepProgress, silent
from edgereason.files import file_sha256
from edgereason.text.tokenizer import TOKENIZER_FILES
from edgereason.version import __version__


def describe_stage(base: Base, adapter: Adapter, progress: StepProgress = silent) -> dict[str, Any]:
    """Where a stage comes from, for the manifest: names and SHA-256 checksums, no paths.

    Args:
        base: The stage's base.
        adapter: The stage's adapter.
        progress: Called after each weight file of the base.
    """
    files: dict[str, str] = {}
    for done, file in enumerate(base.weights, start=1):
        files[file.name] = _checksum(file)
        progress(done, len(base.weights))
    return {
        "base": {
            "name": base.name,
            **({"revision": base.revision} if base.revision else {}),
            "family": base.config["model_type"],
            **({"quantized": base.quantized.method} if base.quantized else {}),
            "files": files,
        },
        "adapter": describe_adapter(adapter),
    }


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """What a stage's adapter is made of, for the manifest: names, checksums, and how several are combined."""
    described: dict[str, Any] = {"name": adapter.path.name, "sha256": _checksum(adapter.weights)}
    if blend := adapter.blend:
        others = [describe_adapter(other) for other in blend.others]
        how = {"method": blend.method, "weights": list(blend.weights), "density": blend.density, "seed": blend.seed}
        described["blend"] = {**how, "others": others}
    if extrapolation := adapter.extrapolation:
        reference = describe_adapter(extrapolation.reference)
        described["extrapolation"] = {"alpha": extrapolation.alpha, "reference": reference}
    return described


def small_file_checksums(base: Base, adapter: Adapter) -> dict[str, str]:
    """Checksums of the small files that an export depends on; those of the weights stand in `describe_stage`."""
    files = [base.path / name for name in ("config.json", "generation_config.json", *TOKENIZER_FILES)]
    for part in adapter.every:
        files += [part.path / name for name in ("adapter_config.json", "prompt.json", *TOKENIZER_FILES)]
    checksums = {f"{index}/{file.name}": file_sha256(file) for index, file in enumerate(files) if file.is_file()}
    return {"edgereason": __version__, **checksums}


def _checksum(file: Path) -> str:
    state = file.stat()
    return _known_checksum(file, state.st_size, state.st_mtime_ns)


@lru_cache
def _known_checksum(file: Path, size: int, changed: int) -> str:
    """A file's SHA-256 checksum, computed once for both stages where they have the same base."""
    return file_sha256(file)
