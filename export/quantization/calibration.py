"""The text that shows a quantizer what a stage's model reads and writes.

By default that is the stage's own prompt over problems that ship with the package, each with what the stage is to
write; a model that was trained on something else is better served with text of that kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import UsageError
from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import Tokenizer

SHIPPED = Path(__file__).parent / "calibration.jsonl"
"""Made by `python -m edgereason.training.example.calibration_text`; none is among the example's held-out problems."""

MOST_TOKENS = 65_536
"""Of all sequences together, so that what a layer computes of them fits into memory."""
_LONGEST = 2048

Sequences = list[list[int]]


@dataclass(frozen=True)
class Calibration:
    """Calibration text for one model.

    Attributes:
        prompts: By stage, the prompts that the model is asked with: one, or both where the stages share a base.
        file: JSON lines of `{"question": ..., "guidance": ..., "answer": ...}` (the last two may be missing) or of
            `{"text": ...}`, or a `.txt` of plain text; None for the problems that ship with the package.
    """

    prompts: dict[str, Prompt]
    file: Path | None = None

    def sequences(self, tokenizer: Tokenizer) -> Sequences:
        """The text as ids, sequences of at most 2,048 tokens and together at most `MOST_TOKENS`.

        Raises:
            UsageError: the file is missing, empty, or a line is not of the forms above.
            BundleError: questions need a chat template, and the tokenizer has none.
        """
        source = self.file or SHIPPED
        try:
            content = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{source} cannot be read: {error}.", "Give a .jsonl or .txt file.") from error
        texts = [content] if source.suffix == ".txt" else self._texts(content, source, tokenizer)
        sequences = _cut((tokenizer.encode(text) for text in texts), MOST_TOKENS)
        if not sequences:
            raise UsageError(f"{source} has no text.", "Give a file with some, or leave --calibration out.")
        return sequences

    def _texts(self, content: str, source: Path, tokenizer: Tokenizer) -> Iterator[str]:
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield from self._text(_parse(line, f"{source}:{number}"), tokenizer)

    def _text(self, record: dict[str, str], tokenizer: Tokenizer) -> Iterator[str]:
        """A record as each stage reads it, with what the stage is to write where the record has it."""
        if "text" in record:
            yield record["text"]
            return
        guidance = record.get("guidance")
        for stage, prompt in self.prompts.items():
            known = None if stage == "guidance" else guidance
            yield tokenizer.render(prompt.messages(record["question"], known)) + record.get(stage, "")


def _parse(line: str, where: str) -> dict[str, str]:
    cure = 'Each line has to be a JSON object with "question" (and "guidance", "answer"), or with "text".'
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON: {error}.", cure) from error
    if not isinstance(record, dict) or not {"question", "text"} & set(record):
        raise UsageError(f"{where} has neither a question nor a text.", cure)
    found = {name: record[name] for name in ("text", "question", "guidance", "answer") if name in record}
    if not all(isinstance(value, str) for value in found.values()):
        raise UsageError(f"{where} has a field that is no string.", cure)
    return found


def _cut(sequences: Iterator[list[int]], most: int) -> Sequences:
    """Pieces that are not too long, until there are enough tokens."""
    pieces: Sequences = []
    for ids in sequences:
        for start in range(0, len(ids), _LONGEST):
            piece = ids[start : start + min(_LONGEST, most)]
            pieces.append(piece)
            most -= len(piece)
            if most <= 0:
                return pieces
    return pieces
