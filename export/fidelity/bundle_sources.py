"""Base and adapters of a bundle, opened and compared with what its manifest records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgereason.bundle import STAGES, Bundle
from edgereason.errors import UsageError
from edgereason.export.fidelity.references import StageSource
from edgereason.export.inputs.adapter_arguments import AdapterSource, open_stage_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.provenance import describe_adapter
from edgereason.export.settings import Settings
from edgereason.text.prompts import DEFAULT_PROMPTS


def open_sources(
    bundle: Bundle,
    base: str,
    guidance_adapter: AdapterSource,
    answer_adapter: AdapterSource,
    answer_base: str | None = None,
    reference_adapters: Mapping[str, str | Path] | None = None,
) -> dict[str, StageSource]:
    """Open base and adapters of a bundle.

    The bundle's manifest records how several adapters were combined, and how far a model was extrapolated.

    Args:
        bundle: The bundle.
        base: A Hugging Face directory or a hub id.
        guidance_adapter, answer_adapter: A directory, or the weights of several by their directories.
        answer_base: The answer model's base where it is another one.
        reference_adapters: By stage, the reference adapter of an extrapolation.

    Raises:
        ExportError: something is missing or damaged, or does not fit.
        UsageError: an adapter is not the one that the manifest records, or has another weight.
    """
    named = {"guidance": guidance_adapter, "answer": answer_adapter}
    opened = {}
    for stage in STAGES:
        of_stage = open_base(base if stage == "guidance" or answer_base is None else answer_base)
        recorded = bundle.provenance[stage]["adapter"]
        reference = (reference_adapters or {}).get(stage)
        adapter = open_stage_adapter(named[stage], reference, DEFAULT_PROMPTS[stage], _settings(recorded))
        if _checksums(describe_adapter(adapter)) != _checksums(recorded):
            raise UsageError(
                f"{_in_words(named[stage])} is not what the {stage} model of {bundle.path} was made from: "
                f"{_recorded(recorded)}.",
                f"Give that, in this order: {_example(recorded)}.",
            )
        opened[stage] = StageSource(of_stage, adapter, None if bundle.shared else merge(of_stage, adapter))
    return opened


def _settings(recorded: Mapping[str, Any]) -> Settings:
    """The options of an export that combine adapters."""
    options: dict[str, Any] = {}
    if blend := recorded.get("blend"):
        options = {"combine": blend["method"], "density": blend["density"], "seed": blend["seed"]}
    if extrapolation := recorded.get("extrapolation"):
        options["extrapolate"] = extrapolation["alpha"]
    return Settings(**options)


def _checksums(described: Any) -> Any:
    """A description without names: directories may have been renamed."""
    if isinstance(described, Mapping):
        return {key: _checksums(value) for key, value in described.items() if key != "name"}
    return [_checksums(each) for each in described] if isinstance(described, list) else described


def _in_words(source: AdapterSource) -> str:
    if not isinstance(source, Mapping):
        return str(source)
    return ", ".join(str(path) if weight == 1 else f"{path}:{weight:g}" for path, weight in source.items())


def _parts(recorded: Mapping[str, Any]) -> list[str]:
    """The names of a stage's adapters, with their weights where they have some."""
    if "blend" not in recorded:
        return [str(recorded["name"])]
    blend = recorded["blend"]
    names = [recorded["name"], *(other["name"] for other in blend["others"])]
    return [f"{name}:{weight:g}" for name, weight in zip(names, blend["weights"], strict=True)]


def _recorded(recorded: Mapping[str, Any]) -> str:
    made = " and ".join(_parts(recorded))
    if extrapolation := recorded.get("extrapolation"):
        made += f", away from {extrapolation['reference']['name']}"
    return f"{made} (SHA-256 {str(recorded['sha256'])[:12]})"


def _example(recorded: Mapping[str, Any]) -> str:
    reference = recorded.get("extrapolation", {}).get("reference")
    return ",".join(_parts(recorded)) + (f" and --reference-adapter {reference['name']}" if reference else "")
