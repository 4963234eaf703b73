"""Sampling texts from a base with an adapter, many at once, kept on disk as they come.

Two samplers do the same: `native_sampler` on this package's engine, which is many times faster than transformers on a
CPU, and `transformers_sampler` on a CUDA device. Both keep the base and exchange the adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from edgereason.errors import UsageError
from edgereason.files import new_file, sync
from edgereason.training.distributed import processes
from edgereason.training.training_base import TrainingBase

CHUNK = 32
"""Openings that are sampled together. What an interruption leaves of a chunk is sampled again, all of it: in which
company a text is sampled decides its last bits, and so may decide its words."""

ReportProgress = Callable[[int, int], None]
"""Called with what is done and the total."""


@dataclass(frozen=True)
class Opening:
    """What a model continues.

    Attributes:
        prompt: The rendered chat, up to where the model's text begins.
        written: The beginning of the model's text that is given; empty for none.
    """

    prompt: str
    written: str = ""


@dataclass(frozen=True)
class SampledText:
    """What a model has written.

    Attributes:
        text: What comes after the opening, without the end token.
        ended: Whether the model ended it; otherwise it ran out of room.
    """

    text: str
    ended: bool


@dataclass(frozen=True)
class SamplingSettings:
    """How texts are sampled.

    Attributes:
        count: Texts for each opening.
        temperature: 0 takes the most probable tokens.
        top_p: Keep the smallest set of tokens whose probabilities add up to p.
        max_new_tokens: Maximum tokens per text.
        calculator: Write the results of computations in the model's place, for one that was trained so
            (`edgereason.decoding.result_forcing`); transformers' sampler leaves them to the model.

    Raises:
        UsageError: a value is out of its range, or several texts would all be the same.
    """

    count: int = 8
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 256
    calculator: bool = False

    def __post_init__(self) -> None:
        if self.count < 1 or self.max_new_tokens < 1:
            raise UsageError(
                f"{self.count} texts of {self.max_new_tokens} tokens cannot be sampled.", "Give 1 or more."
            )
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise UsageError(
                f"temperature is {self.temperature} and top-p {self.top_p}, which is out of range.",
                "Give a temperature above 0, such as 0.7, and a top-p above 0 and at most 1.",
            )
        if self.temperature == 0 and self.count > 1:
            raise UsageError(f"{self.count} texts at temperature 0 are all the same.", "Raise the temperature.")


class TextSampler(Protocol):
    """A base that samples texts with the adapter that it was given last."""

    def use(self, adapter: Path) -> None:
        """Sample with another adapter from now on.

        Raises:
            BundleError: it is missing or damaged, or does not fit the base.
        """
        ...

    def sample(self, openings: Sequence[Opening], settings: SamplingSettings, seed: int) -> list[list[SampledText]]:
        """`settings.count` texts for each opening; every token follows from the arguments and the adapter.

        Raises:
            ContextError: an opening leaves no room in the model's context.
        """
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


@contextmanager
def open_sampler(base: TrainingBase, work: Path) -> Iterator[TextSampler]:
    """The sampler for this machine: transformers where there is a CUDA device, the native engine otherwise.

    Args:
        base: The base of the adapters to come.
        work: Where the native engine's copy of the base lies; kept for the next time.

    Raises:
        ExportError: the base cannot be written for the native engine.
    """
    sampler: TextSampler
    if torch.cuda.is_available():
        from edgereason.training.sampling.transformers_sampler import TransformersSampler

        sampler = TransformersSampler(base, processes().device)
    else:
        from edgereason.training.sampling.native_sampler import NativeSampler

        sampler = NativeSampler(base, work)
    try:
        yield sampler
    finally:
        sampler.close()


def sample_texts(
    sampler: TextSampler,
    openings: Sequence[Opening],
    settings: SamplingSettings,
    seed: int,
    path: Path,
    progress: ReportProgress,
) -> list[list[SampledText]]:
    """Sample texts for openings; what is in `path` from an earlier try is not sampled again.

    Under `accelerate launch` every process samples its share, to a file of its own, and all return all texts.

    Args:
        sampler: With its adapter.
        openings: What to continue.
        settings: How they are sampled.
        seed: Random seed of every text.
        path: JSON lines, one for each opening; the process's number is put before its suffix.
        progress: Called after each chunk with the openings done and their number, those of this process.

    Raises:
        UsageError: `path` holds texts of other openings.
        ContextError: an opening leaves no room in the model's context.
    """
    state = processes()
    files = [path.with_suffix(f".{rank}-of-{state.num_processes}.jsonl") for rank in range(state.num_processes)]
    own, file = openings[state.process_index :: state.num_processes], files[state.process_index]
    done = _take_up(file, own, settings)
    progress(done, len(own))
    for start in range(done, len(own), CHUNK):
        chunk = own[start : start + CHUNK]
        # A chunk's seed must not depend on how often the sampling was interrupted, nor be that of another process.
        found = sampler.sample(chunk, settings, derived(seed, state.process_index, start))
        _append(file, [_line(opening, texts) for opening, texts in zip(chunk, found, strict=True)])
        progress(start + len(chunk), len(own))
    state.wait_for_everyone()
    shares = [iter(_read(each)) for each in files]
    return [_texts(next(shares[number % len(shares)])) for number in range(len(openings))]


def derived(seed: int, *numbers: int) -> int:
    """A seed that follows from another one, and differs for different numbers (32 bits)."""
    import numpy as np

    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0])


def _take_up(file: Path, openings: Sequence[Opening], settings: SamplingSettings) -> int:
    """How many of the openings are done, counted in whole chunks; cuts the file back to them."""
    records = list(_read(file)) if file.is_file() else []
    done = len(records) if len(records) == len(openings) else len(records) // CHUNK * CHUNK
    for record, opening in zip(records[:done], openings, strict=False):
        if record["written"] != opening.written or len(record["texts"]) != settings.count:
            raise UsageError(f"{file} holds texts of another training.", "Start over with --force.")
    with new_file(file) as partial:
        partial.write_text("".join(json.dumps(record) + "\n" for record in records[:done]), encoding="utf-8")
    return done


def _read(file: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a file."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def _append(file: Path, records: Sequence[dict[str, Any]]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)
    sync(file)


def _line(opening: Opening, texts: Sequence[SampledText]) -> dict[str, Any]:
    return {"written": opening.written, "texts": [asdict(text) for text in texts]}


def _texts(record: dict[str, Any]) -> list[SampledText]:
    return [SampledText(**text) for text in record["texts"]]
