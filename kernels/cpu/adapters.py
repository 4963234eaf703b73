"""LoRA adapters of a weight (arXiv 2106.09685), applied to the rows that have them while the weight stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.kernels.cpu._cpu import Weight
from edgereason.kernels.packing import PANEL, BFloat16

Factor = npt.NDArray[Any] | BFloat16


@dataclass(frozen=True)
class LoraPart:
    """What an adapter adds to some outputs of a weight: `scale * (x a^T) b^T` to outputs `first .. first + n - 1`.

    A weight of fused projections has one part for each of them that the adapter changes.
    """

    a: Factor
    """`[rank, K]`, float32, float16 or bfloat16."""
    b: Factor
    """`[n, rank]`, likewise."""
    scale: float
    first: int = 0


def attach(weight: Weight, index: int, parts: Sequence[LoraPart]) -> None:
    """Give rows with the adapter `index` these changes of a weight, in place of any that they had.

    Not during a forward pass over the weight.

    Raises:
        ValueError: a part does not fit the weight.
    """
    down = [_bits(part.a) for part in parts]
    # Parts of several types are computed in the widest.
    joined = np.concatenate(down) if len({a.dtype for a in down}) == 1 else np.concatenate([_wide(p.a) for p in parts])
    ups = []
    for part in parts:
        b = _bits(part.b)
        if part.a.shape[0] != b.shape[1] or not 0 <= part.first <= weight.rows - len(b):
            raise ValueError(
                f"b {list(b.shape)} at output {part.first} does not fit a {list(part.a.shape)} "
                f"and a weight of {weight.rows} outputs"
            )
        ups.append((_panels(b, part.first), part.first // PANEL, part.scale))
    weight.attach(index, joined, ups)


def detach(weight: Weight, index: int) -> None:
    """Take an adapter's changes from a weight, if it has any. Not during a forward pass over it."""
    weight.detach(index)


def _panels(b: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
    """`[panels, rank, 16]`: sixteen outputs side by side, as the weight has them; outputs of other parts get zeros."""
    before = first % PANEL
    padded = np.pad(b, ((before, -(before + len(b)) % PANEL), (0, 0)))
    return np.ascontiguousarray(padded.reshape(-1, PANEL, b.shape[1]).transpose(0, 2, 1))


def _bits(factor: Factor) -> npt.NDArray[Any]:
    return factor.bits if isinstance(factor, BFloat16) else factor


def _wide(factor: Factor) -> npt.NDArray[np.float32]:
    return factor.to_float32() if isinstance(factor, BFloat16) else factor.astype(np.float32)
