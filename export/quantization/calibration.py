"""Calibration text for quantization: what a stage's model reads and writes.

By default that is the stage's own prompt over problems that ship with the package, each with what the stage is to
write. For a model that was trained on something else, text of that kind is better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgereason.errors import UsageError
from edgereason.files import read_json_lines
from edgereason.text.prompts import Prompt, prompt_text
from edgereason.text.tokenizer import Tokenizer

DEFAULT_CALIBRATION_FILE = Path(__file__).parent / "calibration.jsonl"
"""Made by `python -m edgereason.training.data.calibration_text`; none is among the example's held-out problems."""

MAX_CALIBRATION_TOKENS = 65_536
"""Maximum tokens of all sequences together, so that the hidden states of all of them fit into memory."""
_MAX_SEQUENCE = 2048

Sequences = list[list[int]]


@dataclass(frozen=True)
class CalibrationText:
    """Calibration text for one model.

    Attributes:
        prompts: By stage, the prompts that the model is asked with: one, or both where the stages share a base.
        file: JSON lines of `{"question": ..., "guidance": ..., "answer": ...}` (the last two may be missing) or of
            `{"text": ...}`, or a `.txt` of plain text; None for the problems that ship with the package.
    """

    prompts: dict[str, Prompt]
    file: Path | None = None

    def sequences(self, tokenizer: Tokenizer) -> Sequences:
        """The text as token ids: sequences of at most 2,048 tokens, at most `MAX_CALIBRATION_TOKENS` together.

        Raises:
            UsageError: the file is missing, empty, or a line is not of the forms above.
            BundleError: questions need a chat template, and the tokenizer has none.
        """
        source = self.file or DEFAULT_CALIBRATION_FILE
        texts = [_plain_text(source)] if source.suffix == ".txt" else self._texts(source, tokenizer)
        sequences = _cut((tokenizer.encode(text) for text in texts), MAX_CALIBRATION_TOKENS)
        if not sequences:
            raise UsageError(f"{source} has no text.", "Give a file with text, or leave --calibration-text out.")
        return sequences

    def _texts(self, source: Path, tokenizer: Tokenizer) -> Iterator[str]:
        for where, value in read_json_lines(source):
            yield from self._text(_record(value, where), tokenizer)

    def _text(self, record: dict[str, str], tokenizer: Tokenizer) -> Iterator[str]:
        """A record as each stage reads it, with what the stage is to write where the record has it."""
        if "text" in record:
            yield record["text"]
            return
        guidance = record.get("guidance")
        for stage, prompt in self.prompts.items():
            known = None if stage == "guidance" else guidance
            yield prompt_text(tokenizer, prompt, record["question"], known) + record.get(stage, "")


def _plain_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}.", "Give a .jsonl or .txt file.") from error


def _record(record: Any, where: str) -> dict[str, str]:
    cure = 'Each line has to be a JSON object with "question" (and "guidance", "answer"), or with "text".'
    if not isinstance(record, dict) or not {"question", "text"} & set(record):
        raise UsageError(f"{where} has neither a question nor a text.", cure)
    found = {name: record[name] for name in ("text", "question", "guidance", "answer") if name in record}
    if not all(isinstance(value, str) for value in found.values()):
        raise UsageError(f"{where} has a field that is not a string.", cure)
    return found


def _cut(sequences: Iterator[list[int]], limit: int) -> Sequences:
    """Pieces of at most `_MAX_SEQUENCE` tokens, `limit` tokens together."""
    pieces: Sequences = []
    for ids in sequences:
        for start in range(0, len(ids), _MAX_SEQUENCE):
            piece = ids[start : start + min(_MAX_SEQUENCE, limit)]
            pieces.append(piece)
            limit -= len(piece)
            if limit <= 0:
                return pieces
    return pieces
