"""The pipeline as anyone would write it with llama-cpp-python: two models, called one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_cpp import Llama


class Pipeline:
    """Both stages of a merged GGUF bundle."""

    def __init__(self, bundle: Path, threads: int, limit: int | None, options: dict[str, Any]) -> None:
        self._stages: dict[str, Any] = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["stages"]
        self._limit = limit
        self._models = {
            stage: Llama(str(bundle / stage / "model.gguf"), n_ctx=options["context"], n_threads=threads, verbose=False)
            for stage in self._stages
        }

    def ask(self, question: str) -> Iterator[str]:
        """The stage of each piece of text, as it comes."""
        guidance = yield from self._run("guidance", question, "")
        yield from self._run("answer", question, guidance.strip())

    def _run(self, stage: str, question: str, guidance: str) -> Iterator[str]:
        prompt = self._stages[stage]["prompt"]
        user = prompt["user"].replace("{question}", question).replace("{guidance}", guidance)
        messages = [{"role": "system", "content": prompt["system"]}, {"role": "user", "content": user}]
        text = ""
        for chunk in self._models[stage].create_chat_completion(
            messages, max_tokens=self._limit or self._stages[stage]["max_new_tokens"], temperature=0.0, stream=True
        ):
            piece = chunk["choices"][0]["delta"].get("content")
            if piece:
                text += piece
                yield stage
        return text
