"""A merged model as every writer takes it: tensors that are computed when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.finite import is_finite
from edgereason.errors import ExportError
from edgereason.kernels.packing import BFloat16

Float32 = npt.NDArray[np.float32]
Float = npt.NDArray[np.float32] | npt.NDArray[np.float16] | BFloat16
"""Numbers of 32 or 16 bits."""

_Stored = TypeVar("_Stored", bound=Float)


@dataclass(frozen=True)
class MergedWeights(Mapping[str, Float32]):
    """A merged model whose weights are computed when they are asked for, and not kept.

    A mapping from Hugging Face tensor names, in the model's order, to new float32 arrays; not to be changed in place.
    A tied LM head is not among them.

    Attributes:
        config: The merged model's Hugging Face configuration (its vocabulary size, and whether its LM head is tied).
        shapes: The shape of every tensor, known without computing it.
        tokenizer: The directory with the tokenizer's files.
        base: The directory of the base.
        compute: Computes a tensor by its name.
        as_stored: Returns a tensor that merging does not change in the type that the base stores it in, mapped from
            disk and unchecked; None for a tensor that merging changes.
    """

    config: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    tokenizer: Path
    base: Path
    compute: Callable[[str], Float32]
    as_stored: Callable[[str], Float | None] = lambda name: None

    def __getitem__(self, name: str) -> Float32:
        if name not in self.shapes:
            raise KeyError(name)
        return self.checked(name, self.compute(name))

    def checked(self, name: str, array: _Stored) -> _Stored:
        """A tensor whose values are finite.

        Raises:
            ExportError: they are not.
        """
        if not is_finite(array):
            raise ExportError(
                f"{name} of {self.base} has NaN or infinite values.", "Copy the base again from its source."
            )
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
