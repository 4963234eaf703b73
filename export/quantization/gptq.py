"""GPTQ: a weight is rounded one input at a time, and the inputs that are not rounded yet compensate for each error.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, arXiv 2210.17323. It minimizes how much a layer's outputs change on
calibration text: with inputs X `[T, K]` and the Hessian H = XᵀX, the loss of Q in place of W is tr((W - Q) H (W - Q)ᵀ).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgereason.errors import ExportError
from edgereason.export.quantization.quantized_linear import QuantizedLinear
from edgereason.export.quantization.scale_search import find_levels, round_to

_BLOCK = 128
_MAX_DAMPENING = 1.0


@dataclass(frozen=True)
class GptqOptions:
    """The options of GPTQ.

    Attributes:
        bits: 4 or 8.
        group_size: Inputs that share a scale, a multiple of 32; None for one scale per output.
        symmetric: Zero points in the middle; otherwise each group has its own.
        act_order: Round the inputs of the largest activations first.
        static_groups: Fix the groups and their scales before `act_order` permutes the inputs; otherwise inputs that are
            rounded after each other form a group, which the engine has to bring together.
        dampening: Added to the diagonal of H, as a share of its mean.
        search: Search each group's range for the minimum error, instead of taking its full range.
    """

    bits: int = 4
    group_size: int | None = 128
    symmetric: bool = True
    act_order: bool = True
    static_groups: bool = True
    dampening: float = 0.01
    search: bool = True


class Hessian:
    """XᵀX of a layer's inputs, collected piece by piece.

    Attributes:
        value: float32 `[K, K]`.
        rows: How many inputs were added.
    """

    def __init__(self, columns: int) -> None:
        self.value = torch.zeros(columns, columns)
        self.rows = 0

    def add(self, inputs: Tensor) -> None:
        """Add inputs `[..., K]`."""
        rows = inputs.reshape(-1, len(self.value)).float()
        self.value.addmm_(rows.T, rows)
        self.rows += len(rows)


def quantize_with_gptq(weight: Tensor, hessian: Tensor, options: GptqOptions) -> QuantizedLinear:
    """Quantize a weight such that its outputs change least.

    Args:
        weight: float32 `[N, K]`; layers of the same inputs may be stacked, as rows do not depend on each other.
        hessian: float32 `[K, K]`, XᵀX of the layer's inputs; overwritten.
        options: Bits, groups and dampening.

    Raises:
        ExportError: H has values that are not finite, or stays singular with any dampening.
    """
    columns = weight.shape[1]
    size = columns if options.group_size is None else options.group_size
    starts = torch.arange(columns) // size  # [K]: each input's group, if groups are neighbours
    order = torch.arange(columns)
    if options.act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
    hessian = hessian[order][:, order] if options.act_order else hessian
    factor = _inverse_factor(hessian, options.dampening)
    static = options.static_groups and options.act_order
    g_idx = starts[order] if static else starts  # [K], in the order of rounding
    worker = _Rounding(weight[:, order].T.contiguous(), factor, g_idx, size, options)
    if static:
        worker.choose_all_levels()
    worker.run()
    back = order.argsort()
    return QuantizedLinear(
        worker.q[back].T.contiguous().numpy(),
        worker.scales.T.contiguous().half().numpy(),
        None if options.symmetric else worker.zeros.T.contiguous().to(torch.uint8).numpy(),
        g_idx[back].numpy().astype(np.int32),
        size,
        options.bits,
    )


class _Rounding:
    """The state of one weight being rounded; everything has its inputs in the order of rounding, as rows."""

    def __init__(self, weight: Tensor, factor: Tensor, g_idx: Tensor, size: int, options: GptqOptions) -> None:
        columns, rows = weight.shape
        self.q = torch.empty(columns, rows, dtype=torch.uint8)
        groups = int(g_idx.max()) + 1
        self.scales, self.zeros = torch.empty(groups, rows), torch.empty(groups, rows)
        self._weight = weight  # [K, N]
        self._factor = factor  # [K, K], upper
        self._g_idx = g_idx
        self._size = size
        self._options = options
        self._static = False
        # The loss of an error in input k, all others free to make up for it, is its square times this.
        self._importance = factor.diagonal().square().reciprocal()

    def choose_all_levels(self) -> None:
        """Choose every group's levels from the weights as they are."""
        for group in range(len(self.scales)):
            self._choose_levels(group, self._g_idx == group)
        self._static = True

    def run(self) -> None:
        """Round all inputs, in blocks, so that the weights that follow are written once per block (section 3.3)."""
        columns, rows = self._weight.shape
        size = self._size
        step = _BLOCK if size >= columns or size % _BLOCK == 0 else size * max(1, _BLOCK // size)
        errors = torch.empty(step, rows)
        for first in range(0, columns, step):
            last = min(first + step, columns)
            self._round_block(first, last, errors)
            self._weight[last:].addmm_(self._factor[first:last, last:].T, errors[: last - first], alpha=-1)

    def _round_block(self, first: int, last: int, errors: Tensor) -> None:
        block, factor = self._weight[first:last], self._factor[first:last, first:last]
        groups = self._g_idx[first:last].tolist()
        diagonal = factor.diagonal().tolist()
        for i, group in enumerate(groups):
            if not self._static and (first + i) % self._size == 0:
                self._choose_levels(group, slice(first + i, first + i + self._size))
            scale, zero = self.scales[group], self.zeros[group]
            q = round_to(block[i], scale, zero, self._options.bits)
            self.q[first + i] = q.to(torch.uint8)
            torch.sub(block[i], q.sub_(zero).mul_(scale), out=errors[i]).div_(diagonal[i])
            block[i + 1 :].addr_(factor[i, i + 1 :], errors[i], alpha=-1)

    def _choose_levels(self, group: int, members: slice | Tensor) -> None:
        options = self._options
        weight, importance = self._weight[members].T, self._importance[members]
        self.scales[group], self.zeros[group] = find_levels(
            weight, importance, options.bits, options.symmetric, options.search
        )


def _inverse_factor(hessian: Tensor, dampening: float) -> Tensor:
    """U, upper triangular, with H⁻¹ = UᵀU, of the dampened H `[K, K]`.

    H = RRᵀ with R upper triangular has R⁻¹ = U; R is the ordinary factor of H with its inputs in reverse. That takes a
    third of the work of factoring the inverse, and one matrix less.
    """
    diagonal = hessian.diagonal()
    if not torch.isfinite(diagonal).all():
        raise ExportError(
            "The model computes values that are not finite on the calibration text.", "Check the base and the adapter."
        )
    # An input that is always zero tells nothing: it is rounded to nearest.
    diagonal[diagonal == 0] = diagonal.mean().clamp(min=1e-12)
    mean = float(diagonal.mean())
    while True:
        diagonal += dampening * mean
        lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
        if not failed:
            upper = lower.flip(0, 1)
            del lower
            identity = torch.eye(len(upper))
            factor: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True, out=identity)
            return factor
        dampening = max(10 * dampening, 1e-4)
        if dampening > _MAX_DAMPENING:
            raise ExportError(
                "The calibration text leaves a layer's Hessian singular.", "Give more text with --calibration-text."
            )
