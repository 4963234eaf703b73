"""The scale and zero point of each group of a row, searched for the minimum weighted squared error."""

from __future__ import annotations

import torch
from torch import Tensor

_FRACTIONS = 24
_NARROWEST = 0.55
_CHUNK = 1 << 22


def find_levels(
    weight: Tensor, importance: Tensor, bits: int, symmetric: bool = True, search: bool = True
) -> tuple[Tensor, Tensor]:
    """The levels `scale * (0 .. 2**bits - 1 - zero)` for each row of one group.

    Args:
        weight: float32 `[N, G]`.
        importance: float32 `[G]`: the weight of each input's squared error.
        bits: 4 or 8.
        symmetric: Zero point in the middle, and a scale whose sign puts a row's largest weight on the longer side.
        search: Try narrower ranges, which clip the largest weights and round all others less, and take the one of
            the minimum weighted squared error; otherwise the levels span the range.

    Returns:
        scale `[N]`, float32 with a value of float16, and zero `[N]`, a whole number as float32.
    """
    step = max(1, _CHUNK // weight.shape[1])
    parts = [_search(rows, importance, bits, symmetric, search) for rows in torch.split(weight, step)]
    scales, zeros = zip(*parts, strict=True)
    return torch.cat(scales), torch.cat(zeros)


def round_to(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest level of each weight as a number from 0 to `2**bits - 1`; the arguments broadcast."""
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    return (weight * inverse).round_().add_(zero).clamp_(0, (1 << bits) - 1)


def _search(weight: Tensor, importance: Tensor, bits: int, symmetric: bool, search: bool) -> tuple[Tensor, Tensor]:
    fractions = torch.linspace(1, _NARROWEST, _FRACTIONS).tolist() if search else [1.0]
    candidates = [_symmetric(weight, bits, f) if symmetric else _asymmetric(weight, bits, f) for f in fractions]
    best_scale, best_zero = candidates[0]
    if len(candidates) == 1:
        return best_scale, best_zero
    least = torch.full_like(best_scale, torch.inf)
    for scale, zero in candidates:
        q = round_to(weight, scale[:, None], zero[:, None], bits)
        error = q.sub_(zero[:, None]).mul_(scale[:, None]).sub_(weight).square_() @ importance
        better = error < least
        least = torch.where(better, error, least)
        best_scale, best_zero = torch.where(better, scale, best_scale), torch.where(better, zero, best_zero)
    return best_scale, best_zero


def _symmetric(weight: Tensor, bits: int, fraction: float) -> tuple[Tensor, Tensor]:
    half = 1 << (bits - 1)
    extreme = weight.gather(1, weight.abs().argmax(1, keepdim=True))[:, 0]
    return _to_half(extreme * (-fraction / half)), torch.full_like(extreme, half)


def _asymmetric(weight: Tensor, bits: int, fraction: float) -> tuple[Tensor, Tensor]:
    top = (1 << bits) - 1
    # Zero is among the levels: what is pruned or padded stays so.
    low, high = weight.amin(1).clamp_(max=0) * fraction, weight.amax(1).clamp_(min=0) * fraction
    scale = _to_half((high - low) / top)
    return scale, round_to(-low, scale, torch.zeros(()), bits)


def _to_half(scale: Tensor) -> Tensor:
    """The scale as it is stored, so that nothing is rounded after the levels were chosen."""
    return scale.half().float()
