"""The reference of a bundle: transformers and PEFT, computing in float32 on the CPU.

One model is in memory at a time. The reference is base and unmerged adapter; for the rungs between it and the engine, a
model of the same architecture is filled with the weights of each rung, one tensor after the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers.initialization import no_init_weights

from edgereason.checkpoints.adapter_files import PEFT_PREFIX
from edgereason.errors import BundleError
from edgereason.export.fidelity.distance import ComparedText, Logits
from edgereason.export.inputs.quiet_transformers import quiet_transformers
from edgereason.export.progress_callbacks import StepProgress, part_of, silent

Float32 = npt.NDArray[np.float32]
Weight = Callable[[str], Float32]
"""Gives a parameter under its name in transformers."""

_LOGITS_BYTES = 256 << 20
"""Maximum bytes of the logits of one batch."""
SMALL = 20_000_000
"""Parameters below which a model computes with one thread: see `few_threads`."""


@contextmanager
def few_threads(parameters: int) -> Iterator[None]:
    """One thread for a small model: more do not help, and are slow where other programs use the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if parameters < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ReferenceModel:
    """A model of transformers in memory.

    Args:
        model: transformers' model, or PEFT's on it, in float32; `fill` may replace its weights.

    Attributes:
        new_tokens: Maximum tokens that it generates after a prompt.
        batch: Maximum sequences per batch.
    """

    new_tokens = 64
    batch = 32

    def __init__(self, model: Any) -> None:
        self.model = model

    def fill(self, weight: Weight, progress: StepProgress = silent) -> dict[str, float]:
        """Replace its weights.

        Args:
            weight: Called with each parameter's name.
            progress: Called after each parameter.

        Returns:
            The relative change of each parameter (Frobenius norms).

        Raises:
            BundleError: a weight has another shape than the model's.
        """
        changes = {}
        with torch.no_grad():
            found = parameters(self.model)
            for done, (name, parameter) in enumerate(found.items(), start=1):
                new = checked(name, weight(name), parameter)
                changes[name] = change(parameter.numpy(), new)
                parameter.copy_(torch.tensor(new))
                progress(done, len(found))
        return changes

    def logits(self, texts: Sequence[ComparedText], progress: StepProgress = silent) -> Iterator[tuple[int, Logits]]:
        """The index of each text, and its logits, float32 `[len(ids), vocab]`; texts of like length share a batch.

        Args:
            texts: The sequences.
            progress: Called after each decoder layer and each text.
        """
        vocab = int(self.model.get_output_embeddings().weight.shape[0])
        order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
        size = self._batch_size(max(len(text.ids) for text in texts), vocab)
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        for number, batch in enumerate(batches):
            part = part_of(progress, number, len(batches))
            ids, mask = padded([texts[index].ids for index in batch])
            with torch.no_grad(), self._reported(part_of(part, 0, 2)):
                found = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for row, index in enumerate(batch):
                yield index, found[row, : len(texts[index].ids)].float().numpy()
                part_of(part, 1, 2)(row + 1, len(batch))

    def continue_greedily(
        self,
        prompts: Sequence[Sequence[int]],
        stops: frozenset[int],
        limit: int,
        progress: StepProgress = silent,
    ) -> list[list[int]]:
        """Continue prompts by greedy decoding.

        Args:
            prompts: Token ids.
            stops: The stop tokens.
            limit: Maximum tokens after a prompt.
            progress: Called after each decoder layer of each token.

        Returns:
            The tokens after each prompt, a stop token included.
        """
        settings = transformers.GenerationConfig(
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=limit,
            eos_token_id=sorted(stops) or None,
            pad_token_id=0,
        )
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found: dict[int, list[int]] = {}

        batches = [order[start : start + self.batch] for start in range(0, len(order), self.batch)]
        for number, batch in enumerate(batches):
            part = part_of(progress, number, len(batches))
            ids, mask = padded([prompts[index] for index in batch], left=True)  # they are continued at their ends
            width = ids.shape[1]
            with torch.no_grad(), quiet_transformers(), self._reported(part, limit):
                written = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            for index, row in zip(batch, written[:, width:].tolist(), strict=True):
                end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
                found[index] = row[:end]
            part(1, 1)
        return [found[index] for index in range(len(prompts))]

    @contextmanager
    def _reported(self, progress: StepProgress, passes: int = 1) -> Iterator[None]:
        """Report every decoder layer that computes in the block, of at most `passes` forward passes."""
        layers = self.causal.model.layers
        done = 0

        def report(*hook: Any) -> None:
            nonlocal done
            done += 1
            progress(min(done, passes * len(layers)), passes * len(layers))

        handles = [layer.register_forward_hook(report) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def causal(self) -> Any:
        """transformers' model, without what PEFT puts around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _batch_size(self, longest: int, vocab: int) -> int:
        return max(1, min(self.batch, _LOGITS_BYTES // (4 * longest * vocab)))


def uninitialized_model(config: Mapping[str, Any]) -> Any:
    """A model of a config.json's architecture, in float32, whose weights are not initialized."""
    values = {name: value for name, value in config.items() if name != "quantization_config"}
    with quiet_transformers(), no_init_weights():
        settings = transformers.CONFIG_MAPPING[values["model_type"]].from_dict(values)
        # Only eager attention computes every family's scores as its paper has them (soft caps).
        model = transformers.AutoModelForCausalLM.from_config(
            settings, dtype=torch.float32, attn_implementation="eager"
        )
    model.tie_weights()  # left out together with the random weights
    return model.eval()


def parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters of the base, each once where several are tied; without those of an adapter on it."""
    return {
        name.removeprefix(PEFT_PREFIX).replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    }


def checked(name: str, weight: Float32, parameter: torch.Tensor) -> Float32:
    """A weight in float32.

    Raises:
        BundleError: it has another shape than the model's.
    """
    if weight.shape != parameter.shape:
        raise BundleError(f"{name} is {list(weight.shape)}, transformers expects {list(parameter.shape)}.")
    return np.ascontiguousarray(weight, np.float32)


def change(old: Float32, new: Float32) -> float:
    """The relative change of a weight, by Frobenius norms."""
    with np.errstate(all="ignore"):  # before the first `fill`, values may be anything
        size = float(np.linalg.norm(old))
        return float(np.linalg.norm(new - old)) / size if size else 0.0


def padded(rows: Sequence[Sequence[int]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask `[rows, longest]`, padded on the right, or on the left."""
    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        ids[number, place] = torch.tensor(list(row))
        mask[number, place] = 1
    return ids, mask


def resident_memory_needed(parameters: int) -> int:
    """Bytes that a forward pass of a model of so many parameters takes."""
    return 4 * parameters + 4 * _LOGITS_BYTES


def available_memory() -> int | None:
    """Bytes of memory that are available without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None
