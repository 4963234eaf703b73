"""The sessions of both stages, begun with what is known of their prompts already."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from functools import partial

from edgereason.bundle import Bundle, Stage
from edgereason.engines.base import Session
from edgereason.engines.native import NativeEngine
from edgereason.engines.native_session import NativeSession
from edgereason.errors import EdgeReasonError
from edgereason.language_model import LanguageModel
from edgereason.prefill.optimizations import Optimizations
from edgereason.prefill.overlapped_prefill import OverlappedPrefill
from edgereason.prefill.prefix_cache import MAX_BYTES, PrefixCache
from edgereason.prefill.prefix_files import PrefixFiles
from edgereason.text.control_tokens import mark_all
from edgereason.text.prompts import prompt_text
from edgereason.text.tokenizer import TextTokenizer

_GUIDANCE = "\ue000guidance\ue000"  # private use: no text has it
_QUESTIONS = ("a", "The", "7", "(", "é")
_MIN_SAVED_TOKENS = 8
"""Minimum tokens of fixed instructions whose session is saved on disk."""


class StageSessions:
    """Opens the sessions of both stages. Safe to use from several threads.

    Only the native engine's sessions can be shared and kept: those of the others begin empty. Sessions of `foreign`
    stages, whose model is not the bundle's, are kept in memory alone.
    """

    def __init__(
        self,
        bundle: Bundle,
        models: Mapping[str, LanguageModel],
        optimizations: Optimizations,
        foreign: frozenset[str] = frozenset(),
    ) -> None:
        self._models = models
        self._optimizations = optimizations
        self._stages = bundle.stages
        self._shared = bundle.shared
        self._prefixes: dict[str, PrefixCache] = {}
        self._files: PrefixFiles | None = None
        self._on_disk: set[str] = set()
        self._foreign = foreign
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        for stage, model in models.items():
            if isinstance(model.engine, NativeEngine):
                together = self._shared and optimizations.shared_question and bool(self._prefixes)
                kept = PrefixCache(model.engine, MAX_BYTES if optimizations.prefix_cache else 0)
                self._prefixes[stage] = next(iter(self._prefixes.values())) if together else kept
        if self._prefixes and optimizations.prefix_cache:
            self._files = PrefixFiles(bundle)

    def open(self, stage: str, prompt: Sequence[int], capacity: int, also: Session | None = None) -> Session:
        """A session that holds the longest known prefix of a stage's prompt, and never its last token.

        Args:
            stage: Whose model computes it.
            prompt: Token ids, at least one.
            capacity: Maximum tokens.
            also: A session, of either stage, that may begin with the same.

        Raises:
            ContextError: `capacity` exceeds the model's context.
        """
        model, prefixes = self._models[stage], self._prefixes.get(stage)
        if prefixes is None:
            return model.session(capacity)
        self._load(stage)
        other = also if isinstance(also, NativeSession) else None
        return prefixes.session(prompt, model.adapter, capacity, other)

    def keep(self, stage: str, session: Session) -> None:
        """Keep what a stage's session holds now, for prompts that will begin so; the session stays the caller's."""
        if isinstance(session, NativeSession):
            self._prefixes[stage].keep(session)

    def overlap(self, writer: Session, question: str, stages: Mapping[str, Stage]) -> OverlappedPrefill | None:
        """The session of the guidance model with the answer model's prefill beside it; None where that is of no use.

        It takes one engine for both stages that computes several sequences in one forward pass, and a chat template
        that puts guidance into the prompt as it is.
        """
        if not (self._optimizations.overlapped_prefill and self._shared and isinstance(writer, NativeSession)):
            return None
        model, stage = self._models["answer"], stages["answer"]
        assert isinstance(model.engine, NativeEngine)
        tokenizer = model.tokenizer
        before, *behind = prompt_text(tokenizer, stage.prompt, question, _GUIDANCE).split(_GUIDANCE)
        if len(behind) != 1:
            return None
        start, rest = _split(tokenizer, before)

        def prompt(text: str) -> list[int]:
            guidance = text.strip() if stage.prompt.special_tokens else mark_all(text.strip(), tokenizer.control)
            return start + tokenizer.encode(rest + guidance)

        room = stages["guidance"].max_new_tokens + stage.max_new_tokens + len(tokenizer.encode(behind[0]))
        also = writer if self._optimizations.shared_question else None
        return OverlappedPrefill(model.engine, writer, partial(self._open_reader, room=room, also=also), prompt)

    def _open_reader(self, known: Sequence[int], room: int, also: NativeSession | None) -> NativeSession:
        capacity = min(len(known) + room, self._models["answer"].engine.context_length)
        session = self.open("answer", known[:capacity], capacity, also)
        assert isinstance(session, NativeSession)
        return session

    def prepare(self) -> None:
        """Compute the fixed instructions of every stage, where they are not known: many prompts will begin so."""
        for stage in self._prefixes if self._optimizations.prefix_cache else ():
            self._load(stage)
            ids, model = self._fixed(stage), self._models[stage]
            if len(ids) < _MIN_SAVED_TOKENS:
                continue
            session = self._prefixes[stage].session([*ids, 0], model.adapter, len(ids) + 1)
            if session.length < len(ids):
                session.advance(ids[session.length :])
                self._prefixes[stage].keep(session)
            session.close()
        self.save()

    def save(self) -> None:
        """Keep the fixed instructions of the stages that have been asked on disk, where they are not yet."""
        for stage in sorted(self._asked - self._on_disk):
            self._on_disk.add(stage)
            with contextlib.suppress(EdgeReasonError):
                self._save(stage)

    def close(self) -> None:
        """Give the memory back."""
        for prefixes in self._prefixes.values():
            prefixes.close()

    def _load(self, stage: str) -> None:
        """Restore the session of the fixed instructions from disk, when a stage is asked for the first time."""
        with self._lock:
            if self._files is None or stage in self._asked or stage in self._foreign:
                return
            self._asked.add(stage)
            ids, engine = self._fixed(stage), self._models[stage].engine
            data = self._files.read(stage, ids) if len(ids) >= _MIN_SAVED_TOKENS else None
            if data is not None and isinstance(engine, NativeEngine):
                with contextlib.suppress(EdgeReasonError):  # truncated, altered, or of something else
                    session = engine.restore(data)
                    if session.ids == ids:
                        self._prefixes[stage].keep(session)
                        self._on_disk.add(stage)

    def _save(self, stage: str) -> None:
        ids, model = self._fixed(stage), self._models[stage]
        if self._files is None or len(ids) < _MIN_SAVED_TOKENS:
            return
        session = self._prefixes[stage].session([*ids, 0], model.adapter, len(ids) + 1)
        if 0 < session.length < len(ids):  # as far as its state could be cut back
            session.advance(ids[session.length :])
        adapters = set(session.adapters)
        if session.length == len(ids) and len(adapters) == 1:  # a saved session has one adapter
            session.adapter = adapters.pop()
            self._files.write(stage, ids, session.save())
        session.close()

    def _fixed(self, stage: str) -> list[int]:
        """The tokens that a stage's prompt begins with, whatever the question."""
        tokenizer, prompt = self._models[stage].tokenizer, self._stages[stage].prompt
        rendered = [tokenizer.encode(prompt_text(tokenizer, prompt, question, "x")) for question in _QUESTIONS]
        same = 0
        for tokens in zip(*rendered, strict=False):
            if len(set(tokens)) > 1:
                break
            same += 1
        return rendered[0][:same]


def _split(tokenizer: TextTokenizer, text: str) -> tuple[list[int], str]:
    """The tokens of a text without its last line, and that line: only the line is tokenized again when more follows.

    Some tokenizers do not allow that; then all of the text is its rest.
    """
    cut = text.rstrip().rfind("\n") + 1
    start = tokenizer.encode(text[:cut])
    if start + tokenizer.encode(text[cut:]) == tokenizer.encode(text):
        return start, text[cut:]
    return [], text
