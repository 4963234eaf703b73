"""Our pipeline: any bundle, with each technique switched on or off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from edgereason.bundle import Bundle
from edgereason.pipeline.reasoner import Reasoner
from edgereason.prefill.optimizations import Optimizations

_NAMES = tuple(field.name for field in fields(Optimizations))


class Pipeline:
    """A loaded bundle."""

    def __init__(self, bundle: Path, threads: int, limit: int | None, options: dict[str, Any]) -> None:
        opened = Bundle.open(bundle)
        if limit:  # a given length: nothing ends a stage's text before it
            stages = {
                name: replace(stage, stop_ids=frozenset(), max_new_tokens=limit)
                for name, stage in opened.stages.items()
            }
            opened = replace(opened, stages=stages)
        optimizations = Optimizations(**dict.fromkeys(_NAMES, False) | dict.fromkeys(options.get("on", _NAMES), True))
        self.reasoner = Reasoner(opened, threads=threads, optimizations=optimizations)

    def ask(self, question: str) -> Iterator[str]:
        """The stage of each piece of text, as it comes."""
        for event in self.reasoner.stream(question, temperature=0.0):
            if event.stage != "result":
                yield event.stage
