"""The processes that train together, as `accelerate launch` has started them; usually this one alone."""

from __future__ import annotations

import torch
from accelerate import PartialState


def on_cpu() -> bool:
    """Whether this machine has nothing but its CPU to train on."""
    return not torch.accelerator.is_available()


def processes() -> PartialState:
    """This process among them; accelerate has to be told where they have CPUs only."""
    return PartialState(cpu=on_cpu())
