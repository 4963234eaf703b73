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

_LOGITS_BYTES = 256 << 20
"""Logits of one batch: how many texts go through a model at once."""
_LARGEST_BATCH = 32
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


def fill(model: Any, weight: Callable[[str], Float32]) -> dict[str, float]:
    """Put weights into a model.

    Args:
        model: As `empty_model` made it, or filled before.
        weight: Called with each parameter's name.

    Returns:
        By how much each parameter changed, as a share of what it was (Frobenius norms).

    Raises:
        BundleError: a weight has another shape than the model's.
    """
    changes = {}
    with torch.no_grad():
        for name, parameter in parameters(model).items():
            # A copy, since arrays may be mapped from files that must not be written to.
            new = torch.from_numpy(np.array(weight(name), np.float32))
            if new.shape != parameter.shape:
                raise BundleError(f"{name} is {list(new.shape)}, transformers expects {list(parameter.shape)}.")
            size = torch.linalg.vector_norm(parameter).item()
            changes[name] = torch.linalg.vector_norm(new - parameter).item() / size if size else 0.0
            parameter.copy_(new)
    return changes


def logits(model: Any, texts: Sequence[Text], report: Report | None = None) -> Iterator[tuple[int, Logits]]:
    """The index of each text, and float32 logits `[len(ids), vocab]` of it; texts of like length go together."""
    vocab = int(model.get_output_embeddings().weight.shape[0])
    order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
    done = 0
    while done < len(order):
        batch = order[done : done + _batch_size(max(len(text.ids) for text in texts), vocab)]
        rows = [torch.tensor(texts[index].ids) for index in batch]
        # Padding stands behind the texts, where no position that counts can see it.
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, index in enumerate(batch):
            yield index, found[row, : len(texts[index].ids)].float().numpy()
        done += len(batch)
        if report:
            report(done, len(order))


def continue_greedily(
    model: Any, prompts: Sequence[Sequence[int]], stops: frozenset[int], limit: int, report: Report | None = None
) -> list[list[int]]:
    """What a model writes after each prompt, up to and with a token of `stops`, at most `limit` tokens."""
    settings = transformers.GenerationConfig(
        do_sample=False,
        repetition_penalty=1.0,
        max_new_tokens=limit,
        eos_token_id=sorted(stops) or None,
        pad_token_id=0,
    )
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: dict[int, list[int]] = {}
    for at in range(0, len(order), _LARGEST_BATCH):
        batch = order[at : at + _LARGEST_BATCH]
        width = max(len(prompts[index]) for index in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):  # padding stands before the prompts: they are continued at their ends
            ids[row, width - len(prompts[index]) :] = torch.tensor(list(prompts[index]))
            mask[row, width - len(prompts[index]) :] = 1
        with torch.no_grad(), quiet():
            written = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        for index, row in zip(batch, written[:, width:].tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
            found[index] = row[:end]
        if report:
            report(min(at + _LARGEST_BATCH, len(order)), len(order))
    return [found[index] for index in range(len(prompts))]


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


def _batch_size(longest: int, vocab: int) -> int:
    return max(1, min(_LARGEST_BATCH, _LOGITS_BYTES // (4 * longest * vocab)))
