"""One training loop for base and adapters: schedule, clipping, int4 awareness, checkpoints, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from edgereason.errors import UsageError
from edgereason.files import new_file
from edgereason.progress.display import shown_progress

WARMUP = 0.03
"""Fraction of the steps in which the learning rate rises; afterwards it falls linearly to zero."""

SAVE_EVERY = 50
_RECENT = 25  # steps over which the loss that is shown is averaged


def train(
    name: str,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss_at: Callable[[int], Tensor],
    steps: int,
    checkpoint: Path,
    round_from: float = 0.0,
) -> list[float]:
    """Train a model's trainable parameters in place, from its last checkpoint where there is one.

    From the fraction `round_from` of the steps on, every other step sees the weights rounded to int4 (straight-through
    estimator, arXiv 1308.3432), as the model will be shipped; the others keep it good in full precision.

    Args:
        loss_at: The loss of step i, a scalar with gradient; it has to follow from i alone, or resuming is not exact.
        checkpoint: Written every few dozen steps, and when done.

    Returns:
        The losses of the steps, those before resuming included.

    Raises:
        UsageError: `checkpoint` belongs to another training.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses = _resume(checkpoint, parameters, optimizers, steps)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    model.train()
    with shown_progress(name) as report:
        for step in range(len(losses), steps):
            _set_rates(optimizers, peaks, _rate(step, steps))
            with int4_weights(model, step % 2 == 1 and step >= round_from * steps):
                loss = loss_at(step)
                loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            recent = losses[-_RECENT:]
            report(name, step + 1, steps, f"loss {sum(recent) / len(recent):.4f}")
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                _set_rates(optimizers, peaks, 1.0)
                _save(checkpoint, parameters, optimizers, losses, steps)
    model.eval()
    return losses


@contextmanager
def blocks(model: LlamaForCausalLM, compiled: bool) -> Iterator[nn.Module]:
    """A model's blocks to train with, as they are or compiled.

    On a CPU attention is compiled as products and a softmax, which fuse: torch's own is slower. The model has its usual
    attention again afterwards.
    """
    if not compiled:
        yield model.model
        return
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")
    torch.compiler.reset()  # blocks that another training compiled count against a limit of widths
    try:
        yield cast(nn.Module, torch.compile(model.model, dynamic=False))
    finally:
        model.set_attn_implementation("sdpa")


def round_to_int4(weight: Tensor, group: int = 32) -> Tensor:
    """Round-to-nearest int4, symmetric, one scale per row and group of inputs.

    Args:
        weight: `[out, in]`, floating point; `in` is a multiple of `group`.

    Returns:
        The weights that the integers stand for, same shape and dtype.
    """
    groups = weight.reshape(len(weight), -1, group)
    scale = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / 7
    return ((groups / scale).round() * scale).reshape(weight.shape)


@contextmanager
def int4_weights(model: nn.Module, active: bool = True) -> Iterator[None]:
    """Within, the linear layers of all blocks compute with int4 weights; gradients go to the unrounded ones.

    A LoRA layer's weight becomes round(W + D) - D, where D is the adapter's product: with the adapter's own term added
    the layer computes as its merged and rounded weight does.
    """
    originals: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for name, layer in model.named_modules() if active else ():
            if isinstance(layer, LoraLayer):
                weight, delta = layer.get_base_layer().weight, layer.get_delta_weight(layer.active_adapters[0])
            elif isinstance(layer, nn.Linear) and "lora_" not in name and not name.endswith(("lm_head", "base_layer")):
                weight, delta = layer.weight, torch.zeros(())
            else:
                continue
            originals.append((weight, weight.data))
            weight.data = (round_to_int4(weight + delta) - delta).to(weight.dtype)
    try:
        yield
    finally:
        for weight, original in originals:
            weight.data = original


def _rate(step: int, steps: int) -> float:
    warmup = max(1, round(steps * WARMUP))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _set_rates(optimizers: Sequence[torch.optim.Optimizer], peaks: list[list[float]], factor: float) -> None:
    for optimizer, rates in zip(optimizers, peaks, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def _save(
    path: Path,
    parameters: Sequence[nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    losses: list[float],
    steps: int,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "steps": steps,
        "parameters": [parameter.data for parameter in parameters],
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "losses": losses,
    }
    with new_file(path) as partial:
        torch.save(state, partial)


def _resume(
    path: Path, parameters: Sequence[nn.Parameter], optimizers: Sequence[torch.optim.Optimizer], steps: int
) -> list[float]:
    """Take up the state in `path`; returns the losses so far, none where there is no checkpoint."""
    if not path.exists():
        return []
    state = torch.load(path, weights_only=True)
    shapes = [parameter.shape for parameter in parameters]
    if state["steps"] != steps or [stored.shape for stored in state["parameters"]] != shapes:
        raise UsageError(f"{path} is the checkpoint of another training.", "Delete it, or give another --work.")
    with torch.no_grad():
        for parameter, stored in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(stored)
    for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(stored)
    losses: list[float] = state["losses"]
    return losses
