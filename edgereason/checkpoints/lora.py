"""The factors of a plain LoRA adapter, which can be applied row by row: a projection `W` of the base becomes
`W + s B A` (LoRA, arXiv 2106.09685).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgereason.checkpoints.adapter_files import AdapterFiles, float_array, open_adapter_files
from edgereason.checkpoints.safetensors_reader import MappedTensor
from edgereason.checkpoints.weights import FUSED, FloatWeight
from edgereason.errors import BundleError

EMBEDDINGS_AND_HEAD = ("model.embed_tokens", "lm_head")

_MERGE = "Export it merged into its base instead (--layout merged)."
# Fields of adapter_config.json that would change the computation, and the values with which they do not.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "modules_to_save": ([],),
    "trainable_token_indices": ([],),
    "target_parameters": ([],),
    "layer_replication": ([],),
}


@dataclass(frozen=True)
class Lora:
    """What an adapter does to one projection: `scale * b a` is added to its weight."""

    a: FloatWeight  # [rank, inputs]
    b: FloatWeight  # [outputs, rank]
    scale: float


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter.

    Attributes:
        path: Its directory.
        base: The name of the base that it was trained on, as its configuration says.
        targets: By the checkpoint's name of the projection, such as `model.layers.0.self_attn.q_proj`.
        digest: SHA-256 of its two files.
        config: Its `adapter_config.json`.
        invocation: Tokens from which on an activated adapter applies (aLoRA, arXiv 2504.12397); empty where all of a
            sequence's tokens have the adapter.
    """

    path: Path
    base: str
    targets: dict[str, Lora]
    digest: bytes
    config: dict[str, Any] = field(default_factory=dict)
    invocation: tuple[int, ...] = ()

    def lacks(self, modules: Iterable[str]) -> str | None:
        """The first of a model's modules that the configuration names and the file has no factors for; None if it is
        complete.

        Args:
            modules: Names in the checkpoint. Fused modules may be there under both names: an adapter has one of them.

        Raises:
            BundleError: the configuration names modules in no way that PEFT knows.
        """
        present = set(self.targets)
        for name in self.targets:
            prefix, _, last = name.rpartition(".")
            present |= {f"{prefix}.{part}" for part in FUSED.get(last, ())}
            present |= {f"{prefix}.{whole}" for whole, parts in FUSED.items() if last in parts}
        try:
            return next((name for name in modules if name not in present and names_module(self.config, name)), None)
        except (re.error, TypeError) as error:
            raise BundleError(
                f"{self.path / 'adapter_config.json'} does not say which modules it changes: {error}.", "Save it again."
            ) from error

    def activation(self, ids: Sequence[int]) -> int:
        """From which of `ids` on the adapter applies: where the last invocation begins; `len(ids)` without one.

        The last one, because a text that is quoted in a prompt may hold an invocation, too; PEFT takes it as well.
        """
        length = len(self.invocation)
        for start in range(len(ids) - length, -1, -1):
            if tuple(ids[start : start + length]) == self.invocation:
                return start
        return len(ids)


def read_adapter(path: Path) -> LoraAdapter:
    """Read an adapter's directory; see `plain_lora`.

    Raises:
        BundleError: files are missing or damaged, values are not finite, or it is not a plain LoRA adapter.
    """
    return plain_lora(open_adapter_files(path))


def plain_lora(files: AdapterFiles) -> LoraAdapter:
    """The factors of an opened adapter.

    Raises:
        BundleError: it does more than adding a product of factors to linear layers, or its factors do not fit together.
    """
    _check_plain(files.config, files.config_file)
    factors: dict[str, dict[str, FloatWeight]] = {}
    for name, tensor in files.tensors.items():
        target, _, part = name.rpartition(".lora_")
        if part not in ("A.weight", "B.weight"):
            raise BundleError(f"{files.weights_file} has {name}, which is no LoRA factor of a linear layer.", _MERGE)
        factors.setdefault(target, {})[part[0]] = _factor(tensor, name, files.weights_file)
    targets = {target: _lora(target, parts, files.config, files.weights_file) for target, parts in factors.items()}
    if not targets:
        raise BundleError(f"{files.weights_file} changes nothing: it has no LoRA factors.", "Save the adapter again.")
    invocation = _invocation(files.config, files.config_file)
    return LoraAdapter(files.path, files.base, targets, files.digest(), files.config, invocation)


def names_module(config: dict[str, Any], name: str) -> bool:
    """Whether an adapter's configuration names a module, as PEFT understands `target_modules` and its other fields."""
    excluded, targets = config.get("exclude_modules"), config.get("target_modules")
    if excluded and _names(excluded, name):
        return False
    if isinstance(targets, str):
        all_linear = targets.lower() == "all-linear"
        return name not in EMBEDDINGS_AND_HEAD if all_linear else _names(targets, name)
    layers = config.get("layers_to_transform")
    if not targets or not _names(targets, name):
        return False
    if name in targets or layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name):
            return int(match[1]) in (layers if isinstance(layers, list) else [layers])
    return False


def _names(pattern: str | list[str], name: str) -> bool:
    """Whether an expression is a whole name, or one of several names its end."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return name in pattern or any(name.endswith(f".{each}") for each in pattern)


def _check_plain(config: dict[str, Any], file: Path) -> None:
    for name, neutral in _NEUTRAL.items():
        if (value := config.get(name)) is not None and value not in neutral:
            raise BundleError(f"{file}: {name} = {value!r} cannot be applied row by row.", _MERGE)


def _invocation(config: dict[str, Any], file: Path) -> tuple[int, ...]:
    tokens = config.get("alora_invocation_tokens")
    if tokens is None:
        return ()
    if not isinstance(tokens, list) or not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise BundleError(f"{file}: alora_invocation_tokens is {tokens!r}, no list of token ids.", "Save it again.")
    return tuple(tokens)


def _factor(tensor: MappedTensor, name: str, file: Path) -> FloatWeight:
    if tensor.dtype not in ("F16", "BF16", "F32") or tensor.array.ndim != 2 or 0 in tensor.array.shape:
        raise BundleError(f"{file}: {name} is {tensor.dtype} {list(tensor.array.shape)}, no LoRA factor.")
    return float_array(tensor)


def _lora(target: str, parts: dict[str, FloatWeight], config: dict[str, Any], file: Path) -> Lora:
    if set(parts) != {"A", "B"}:
        raise BundleError(f"{file} has only half of the factors of {target}.", "Copy it again from its source.")
    a, b = parts["A"], parts["B"]
    rank = a.shape[0]
    if b.shape[1] != rank:
        raise BundleError(f"{file}: the factors of {target} have ranks {rank} and {b.shape[1]}.")
    alpha = _alpha(target, config, file)
    return Lora(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _alpha(target: str, config: dict[str, Any], file: Path) -> float:
    """`lora_alpha`, or what `alpha_pattern` has for the target: its keys are expressions for the ends of names."""
    alpha, patterns = config.get("lora_alpha", 8), config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise BundleError(f"{file.parent / 'adapter_config.json'}: alpha_pattern is {patterns!r}, no object.")
    for pattern, value in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", target)
        except re.error as error:
            raise BundleError(f"{file}: alpha_pattern has {pattern!r}, which is no expression: {error}.") from error
        if matches:
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise BundleError(f"{file.parent / 'adapter_config.json'}: lora_alpha is {alpha!r}, it has to be a number.")
    return float(alpha)
