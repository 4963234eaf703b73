"""What a bundle is held against: transformers and PEFT, computing in float32 on the CPU.

One model is in memory at a time. The reference is base and adapter, not merged; for the rungs between it and the
engine a model of the same architecture is filled with their weights, one tensor after the other.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers.initialization import no_init_weights

from edgereason.errors import BundleError
from edgereason.export.fidelity.distance import Logits, Text

Float32 = npt.NDArray[np.float32]
Report = Callable[[int, int], None]
Weight = Callable[[str], Float32]
"""Gives a parameter under its name in transformers."""

_LOGITS_BYTES = 256 << 20
"""Logits of one batch: how many texts go through a model at once."""
SMALL = 20_000_000
"""Parameters below which a model is computed with one thread: see `few_threads`."""


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without bars and warnings of its own."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT still calls what transformers has renamed
            yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


@contextmanager
def few_threads(parameters: int) -> Iterator[None]:
    """One thread for a small model: more gain nothing, and lose all where other programs want the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if parameters < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Witness:
    """A model in memory.

    Args:
        model: transformers' model, or PEFT's on it, in float32, its weights those that are wanted or still to be filled
            in.

    Attributes:
        new_tokens: Most tokens that it writes after a prompt.
    """

    new_tokens = 64
    batch = 32

    def __init__(self, model: Any) -> None:
        self.model = model

    def fill(self, weight: Weight) -> dict[str, float]:
        """Give it other weights.

        Args:
            weight: Called with each parameter's name.

        Returns:
            By how much each parameter changed, as a share of what it was (Frobenius norms).

        Raises:
            BundleError: a weight has another shape than the model's.
        """
        changes = {}
        with torch.no_grad():
            for name, parameter in parameters(self.model).items():
                new = checked(name, weight(name), parameter)
                changes[name] = change(parameter.numpy(), new)
                parameter.copy_(torch.tensor(new))
        return changes

    def logits(self, texts: Sequence[Text], report: Report | None = None) -> Iterator[tuple[int, Logits]]:
        """The index of each text, and float32 logits `[len(ids), vocab]` of it; texts of like length go together."""
        vocab = int(self.model.get_output_embeddings().weight.shape[0])
        order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
        done = 0
        while done < len(order):
            batch = order[done : done + self._batch_size(max(len(text.ids) for text in texts), vocab)]
            ids, mask = padded([texts[index].ids for index in batch])
            with torch.no_grad():
                found = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for row, index in enumerate(batch):
                yield index, found[row, : len(texts[index].ids)].float().numpy()
            done += len(batch)
            if report:
                report(done, len(order))

    def continue_greedily(
        self, prompts: Sequence[Sequence[int]], stops: frozenset[int], limit: int, report: Report | None = None
    ) -> list[list[int]]:
        """What it writes after each prompt, up to and with a token of `stops`, at most `limit` tokens."""
        settings = transformers.GenerationConfig(
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=limit,
            eos_token_id=sorted(stops) or None,
            pad_token_id=0,
        )
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found: dict[int, list[int]] = {}

        def each_token(ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
            """Called by transformers to stop texts; it stops none."""
            if report:
                report(at + len(ids) * (ids.shape[1] - width) // limit, len(order))
            return torch.zeros(len(ids), dtype=torch.bool)

        for at in range(0, len(order), self.batch):
            batch = order[at : at + self.batch]
            ids, mask = padded([prompts[index] for index in batch], left=True)  # they are continued at their ends
            width = ids.shape[1]
            with torch.no_grad(), quiet():
                written = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=settings,
                    stopping_criteria=transformers.StoppingCriteriaList([each_token]),
                )
            for index, row in zip(batch, written[:, width:].tolist(), strict=True):
                end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
                found[index] = row[:end]
            if report:
                report(at + len(batch), len(order))
        return [found[index] for index in range(len(prompts))]

    def _batch_size(self, longest: int, vocab: int) -> int:
        return max(1, min(self.batch, _LOGITS_BYTES // (4 * longest * vocab)))


def empty_model(config: Mapping[str, Any]) -> Any:
    """A model of the architecture of a config.json, in float32, its weights still to be filled in."""
    values = {name: value for name, value in config.items() if name != "quantization_config"}
    with quiet(), no_init_weights():
        settings = transformers.CONFIG_MAPPING[values["model_type"]].from_dict(values)
        # Only eager attention computes every family's scores as its paper has them (soft caps).
        model = transformers.AutoModelForCausalLM.from_config(
            settings, dtype=torch.float32, attn_implementation="eager"
        )
    model.tie_weights()  # left out together with the random weights
    return model.eval()


def parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that have to be filled, each once where several are tied; of an adapter on the model none."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter
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
    """How far a weight is from what it was, as a share of that (Frobenius norms)."""
    with np.errstate(all="ignore"):  # what was there before the first filling may be anything
        size = float(np.linalg.norm(old))
        return float(np.linalg.norm(new - old)) / size if size else 0.0


def padded(rows: Sequence[Sequence[int]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `[rows, longest]`. Padding stands behind the rows, where no position that counts can see it, or
    before them."""
    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        ids[number, place] = torch.tensor(list(row))
        mask[number, place] = 1
    return ids, mask


def memory_needed(parameters: int) -> int:
    """Bytes that computing with a model of so many parameters takes."""
    return 4 * parameters + 4 * _LOGITS_BYTES


def available_memory() -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None
