"""A stage's adapter as an export takes it: one, several blended, or one to extrapolate beyond."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.adapter_files import AdapterFiles, open_adapter_files
from edgereason.export.inputs.export_errors import as_export_errors
from edgereason.files import read_json
from edgereason.text.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Adapter:
    """A PEFT LoRA adapter, and the prompt that it was trained with.

    Attributes:
        files: Its configuration and tensors.
        prompt: Its prompt.
        blend: How it is combined with others; None where it is applied alone.
        extrapolation: How far to go beyond it; None for not at all.
    """

    files: AdapterFiles
    prompt: Prompt
    blend: Blend | None = None
    extrapolation: Extrapolation | None = None

    @property
    def path(self) -> Path:
        return self.files.path

    @property
    def config(self) -> dict[str, Any]:
        return self.files.config

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by PEFT's name without the prefix."""
        return self.files.shapes

    @property
    def weights(self) -> Path:
        return self.files.weights_file

    @property
    def parts(self) -> tuple[Adapter, ...]:
        """All adapters that are applied together: itself, and those that are blended with it."""
        return (self, *(self.blend.others if self.blend else ()))

    @property
    def every(self) -> tuple[Adapter, ...]:
        """All adapters that the stage depends on: `parts`, and the reference of an extrapolation."""
        return (*self.parts, *([self.extrapolation.reference] if self.extrapolation else []))

    def read(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Every tensor as a new float32 array, by the names of `shapes`."""
        return self.files.read()


@dataclass(frozen=True, eq=False)
class Blend:
    """How an adapter is combined with others: the arguments of PEFT's `add_weighted_adapter`."""

    weights: tuple[float, ...]
    """Of the adapter itself, then of the others."""
    others: tuple[Adapter, ...]
    method: str
    density: float
    seed: int


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """How far a model goes beyond its adapter, away from a reference adapter (ExPO, arXiv 2404.16792)."""

    alpha: float
    reference: Adapter


def open_adapter(path: Path, default_prompt: Prompt) -> Adapter:
    """Open a PEFT adapter; `default_prompt` holds where it brings no `prompt.json`.

    Raises:
        ExportError: files are missing or damaged, values are not finite, or it is not a LoRA adapter.
        BundleError: its `prompt.json` is damaged.
    """
    with as_export_errors():
        files = open_adapter_files(path)
    prompt_file = path / "prompt.json"
    prompt = Prompt.from_json(read_json(prompt_file), str(prompt_file)) if prompt_file.is_file() else default_prompt
    return Adapter(files, prompt)
