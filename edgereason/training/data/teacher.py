"""Who writes guidance and rationales: a bundle, a GGUF file, or a server that speaks OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from edgereason.bundle import MANIFEST, Bundle, Sampling, Stage
from edgereason.decoding.continuous_batching import Generation, Work, run
from edgereason.decoding.loop import DecodeRequest
from edgereason.errors import ContextError, EdgeReasonError, UsageError
from edgereason.language_model import LanguageModel, open_stage
from edgereason.pipeline.external_models import open_answer_model
from edgereason.pipeline.remote import RemoteModel
from edgereason.text.prompts import Prompt, prompt_text
from edgereason.training.examples import Example

Texts = Generator[list[str], None, None]
TextKind = Literal["guidance", "rationale"]
KINDS: tuple[TextKind, ...] = ("guidance", "rationale")

_PROMPTS = {
    "guidance": Prompt(
        system="You write solution guidance: notes from which somebody else can solve a problem, without solving it. "
        "Say in a few short lines what is asked, what is given and what it means, and into which steps the problem "
        "breaks down, in their order. Use the problem's own numbers where a step needs them. Never carry out a "
        "computation, never write a number that the problem does not have, and never give the answer.",
        user="{question}",
    ),
    "rationale": Prompt(
        system="You explain what leads to the answer of a question. Give in a few sentences the facts and the "
        "reasoning that make the correct answer the right one and the others not. Do not name an option's letter.",
        user="{question}\n\nCorrect answer: {guidance}",
    ),
}


@dataclass(frozen=True)
class TeacherRequest:
    """What a teacher is asked for.

    Attributes:
        kind: `guidance`, which computes nothing, or `rationale`, which explains the known answer.
        samples: Texts per question.
        temperature, top_p: How they are sampled.
        seed: Random seed of a local model's texts.
        max_tokens: Maximum tokens per text.
        size: Sequences per batch.

    Raises:
        UsageError: a value is out of its range.
    """

    kind: TextKind = "guidance"
    samples: int = 4
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    max_tokens: int = 256
    size: int = 16

    def __post_init__(self) -> None:
        for name in ("samples", "max_tokens", "size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}.", "Give 1 or more.")
        if self.samples > 1 and self.temperature == 0:
            raise UsageError(f"{self.samples} samples at temperature 0 are all the same.", "Raise the temperature.")
        self.sampling(0, 0)  # the other ranges

    def sampling(self, line: int, sample: int) -> Sampling:
        """How a line's text is sampled: with a seed of its own, whatever was sampled before."""
        seed = int(np.random.SeedSequence([self.seed, line, sample]).generate_state(1)[0])
        return Sampling(self.temperature, top_p=self.top_p, seed=seed)


def parse_kind(value: str) -> TextKind:
    """`--kind`.

    Raises:
        UsageError: there is no such kind.
    """
    for kind in KINDS:
        if kind == value:
            return kind
    raise UsageError(f"kind is {value}.", f"Give {' or '.join(KINDS)}.")


class Teacher(Protocol):
    """Writes texts for questions."""

    def write(self, examples: Iterable[Example], request: TeacherRequest) -> Texts:
        """The texts of each example, in their order; none where a question is too long for the teacher.

        Whoever asks closes it: it may have threads, which must not be left to the garbage collector.
        """
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


def open_teacher(source: str, kind: TextKind, threads: int | None = None) -> Teacher:
    """Open a teacher.

    Args:
        source: A bundle, whose guidance stage writes as its own prompt says; or a GGUF file or a server's address,
            which are asked in words for the `kind` of text.

    Raises:
        UsageError: it is none of these.
        BundleError, EngineError: it cannot be opened.
    """
    if (Path(source) / MANIFEST).is_file():
        bundle = Bundle.open(Path(source))
        stage = bundle.stages["guidance"]
        return LocalTeacher(open_stage(bundle, "guidance", "auto", threads), stage, stage.prompt)
    model, stage = open_answer_model(source, threads)
    if isinstance(model, RemoteModel):
        return RemoteTeacher(model, _PROMPTS[kind])
    return LocalTeacher(model, stage, _PROMPTS[kind])


def _answer(example: Example) -> str:
    """What the teacher is told that the answer is; of a multiple-choice question the choice's text."""
    answer = example.result or ""
    if example.choices and len(answer) == 1:
        index = ord(answer.upper()) - ord("A")
        answer = example.choices[index] if 0 <= index < len(example.choices) else answer
    return answer


@dataclass(frozen=True)
class RemoteTeacher:
    """A server's model. How well a seed repeats its texts is up to the server."""

    model: RemoteModel
    prompt: Prompt

    def write(self, examples: Iterable[Example], request: TeacherRequest) -> Texts:
        """See `Teacher`; so many requests at once as the request's size says."""

        def one(example: Example, sample: int) -> str:
            sampling = request.sampling(example.line, sample)
            return "".join(
                self.model.write(self.prompt.messages(example.text, _answer(example)), request.max_tokens, sampling)
            ).strip()

        with ThreadPoolExecutor(max(1, request.size)) as pool:
            for chunk in _chunks(examples, max(1, request.size // request.samples)):
                asked = [[pool.submit(one, example, sample) for sample in range(request.samples)] for example in chunk]
                yield from ([text.result() for text in texts] for texts in asked)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class LocalTeacher:
    """A model on this machine, which writes many texts in batches."""

    model: LanguageModel
    stage: Stage
    prompt: Prompt

    def write(self, examples: Iterable[Example], request: TeacherRequest) -> Texts:
        """See `Teacher`."""
        ended: dict[int, dict[int, str | EdgeReasonError]] = {}
        number = 0

        def works() -> Iterator[Work[str]]:
            for example in examples:
                for sample in range(request.samples):
                    yield self._work(example, request, sample)

        with closing(run(works(), request.size)) as runs:
            for work, outcome in runs:
                ended.setdefault(work // request.samples, {})[work % request.samples] = outcome
                while len(ended.get(number, ())) == request.samples:
                    found = ended.pop(number)
                    yield _texts([found[sample] for sample in range(request.samples)])
                    number += 1

    def _work(self, example: Example, request: TeacherRequest, sample: int) -> Work[str]:
        tokenizer, engine = self.model.tokenizer, self.model.engine
        prompt = tokenizer.encode(prompt_text(tokenizer, self.prompt, example.text, _answer(example)))
        room = min(request.max_tokens, engine.context_length - len(prompt))
        if room < 1:
            raise ContextError(
                f"Line {example.line} is longer than the teacher's context of {engine.context_length:,} tokens.",
                "Leave it out.",
            )
        sampling = request.sampling(example.line, sample)
        decode = DecodeRequest(prompt, room, sampling, self.stage.stop_ids, self.stage.stop_strings)
        with closing(
            Generation(engine, lambda: self.model.session(len(prompt) + room), decode, tokenizer.stream())
        ) as text:
            yield text
        return text.text.strip()

    def close(self) -> None:
        """Close the model."""
        self.model.close()


def _texts(outcomes: Sequence[str | EdgeReasonError]) -> list[str]:
    """A question's texts; any failure but a question that is too long ends everything."""
    for outcome in outcomes:
        if isinstance(outcome, EdgeReasonError) and not isinstance(outcome, ContextError):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, str)]


def _chunks(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    for example in examples:
        chunk.append(example)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
