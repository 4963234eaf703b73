"""The pipeline as anyone would write it with onnxruntime-genai: two models, called one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime_genai as genai

from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import Tokenizer


class Pipeline:
    """Both stages of a merged ONNX bundle."""

    def __init__(self, bundle: Path, threads: int, limit: int | None, options: dict[str, Any]) -> None:
        self._stages: dict[str, Any] = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["stages"]
        self._limit = limit
        self._context = options["context"]
        self._models, self._tokenizers = {}, {}
        for stage in self._stages:
            config = genai.Config(str(bundle / stage))
            config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
            self._models[stage] = genai.Model(config)
            self._tokenizers[stage] = Tokenizer(bundle / stage)

    def ask(self, question: str) -> Iterator[str]:
        """The stage of each token, as it comes."""
        guidance = yield from self._run("guidance", question, None)
        yield from self._run("answer", question, guidance.strip())

    def _run(self, stage: str, question: str, guidance: str | None) -> Iterator[str]:
        tokenizer, about = self._tokenizers[stage], self._stages[stage]
        turns = Prompt.from_json(about["prompt"], "bundle.json").messages(question, guidance)
        params = genai.GeneratorParams(self._models[stage])
        # A least length keeps an end token from ending what is to have a given length.
        params.set_search_options(
            max_length=self._context, min_length=self._context if self._limit else 0, do_sample=False
        )
        generator = genai.Generator(self._models[stage], params)
        generator.append_tokens(tokenizer.encode(tokenizer.render(turns)))
        ids: list[int] = []
        while len(ids) < (self._limit or about["max_new_tokens"]):
            generator.generate_next_token()
            ids.append(int(generator.get_next_tokens()[0]))
            if not self._limit and ids[-1] in about["stop_ids"]:
                break
            yield stage
        return tokenizer.decode(ids)
