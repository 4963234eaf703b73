"""A stage's adapter as arguments name it: one, several with weights, or one to extrapolate beyond."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgereason.errors import UsageError
from edgereason.export.inputs.adapter import Adapter, Blend, Extrapolation, open_adapter
from edgereason.export.settings import Settings
from edgereason.text.prompts import Prompt

AdapterSource = str | Path | Mapping[str, float] | Mapping[Path, float]
"""An adapter's directory, or the weights of several by their directories."""


def open_stage_adapter(
    source: AdapterSource, reference: str | Path | None, default_prompt: Prompt, settings: Settings
) -> Adapter:
    """Open a stage's adapter.

    Args:
        source: One adapter, or several with weights; prompt and tokenizer are those of the first.
        reference: The reference adapter of `settings.extrapolate`; None without extrapolation.
        default_prompt: For adapters that bring none.
        settings: How several are combined, and how far to extrapolate.

    Raises:
        UsageError: no adapter is named, or a weight is not a number.
        ExportError: an adapter cannot be opened.
    """
    weights = dict(source) if isinstance(source, Mapping) else {source: 1.0}
    if not weights or not all(math.isfinite(weight) for weight in weights.values()):
        raise UsageError(f"Adapters with weights {list(weights.values())} cannot be combined.", "Give finite weights.")
    first, *others = [open_adapter(Path(path), default_prompt) for path in weights]
    if others or set(weights.values()) != {1.0}:
        blend = Blend(tuple(weights.values()), tuple(others), settings.combine, settings.density, settings.seed)
        first = replace(first, blend=blend)
    if reference is not None and settings.extrapolate is not None:
        opened = open_adapter(Path(reference), default_prompt)
        first = replace(first, extrapolation=Extrapolation(settings.extrapolate, opened))
    return first


def parse_adapters(values: list[str]) -> dict[str, float]:
    """The adapters and weights in `DIR:WEIGHT` strings; a `DIR` alone has the weight 1.

    A string that names a directory as it stands is that directory, whatever its name ends with.

    Raises:
        UsageError: a directory is named twice.
    """
    weights: dict[str, float] = {}
    for value in values:
        path, weight = _split_weight(value)
        if path in weights:
            raise UsageError(f"The adapter {path} is given twice.", "Give it once, with one weight.")
        weights[path] = weight
    return weights


def _split_weight(value: str) -> tuple[str, float]:
    path, _, number = value.rpartition(":")
    if Path(value).is_dir() or not path:  # such as run:2, or a directory whose name is a number
        return value, 1.0
    try:
        return path, float(number)
    except ValueError:
        return value, 1.0


def parse_stage(value: str) -> dict[str, float]:
    """A stage's adapters in one argument: `DIR`, or several as `DIR:WEIGHT,DIR:WEIGHT`.

    Raises:
        UsageError: a directory is named twice.
    """
    return parse_adapters([value] if Path(value).is_dir() else value.split(","))


def parse_references(values: list[str], stages: tuple[str, ...]) -> dict[str, str]:
    """The reference adapter of each stage, from `DIR` for all of them or `STAGE:DIR` for one.

    A string that names a directory as it stands is that directory, for all stages.

    Raises:
        UsageError: a stage has two.
    """
    found: dict[str, str] = {}
    for value in values:
        stage, _, path = value.partition(":")
        named = {stage: path} if stage in stages and path and not Path(value).is_dir() else dict.fromkeys(stages, value)
        if clash := set(named) & set(found):
            raise UsageError(f"The {min(clash)} stage has two reference adapters.", "Give it one.")
        found.update(named)
    return found
