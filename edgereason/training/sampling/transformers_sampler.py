"""Sampling with transformers' `generate`, for devices that the native engine does not run on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel

from edgereason.checkpoints.lora import read_adapter
from edgereason.errors import ContextError
from edgereason.text.tokenizer import Tokenizer
from edgereason.training.sampling.text_sampler import Opening, SampledText, SamplingSettings
from edgereason.training.training_base import TrainingBase

_ROWS = 128
"""Sequences in one batch, at least those of one opening."""


class TransformersSampler:
    """A `TextSampler` on a torch device, with the base in the type that it is trained in.

    Args:
        base: The base of the adapters to come.
        device: Where to compute.
    """

    def __init__(self, base: TrainingBase, device: torch.device) -> None:
        self._device = device
        self._model = base.load().to(device).eval()
        self._context = base.context
        self._tokenizer = Tokenizer(base.path)
        self._stop_ids = self._tokenizer.stop_ids()
        self._adapted: PeftModel | None = None

    def use(self, adapter: Path) -> None:
        """See `TextSampler.use`."""
        read_adapter(adapter)  # says what is wrong with it
        if self._adapted is not None:
            self._model = self._adapted.unload()
        self._adapted = PeftModel.from_pretrained(self._model, str(adapter)).eval()

    def sample(self, openings: Sequence[Opening], settings: SamplingSettings, seed: int) -> list[list[SampledText]]:
        """See `TextSampler.sample`."""
        prompts = [self._encode(opening) for opening in openings]
        size = max(1, _ROWS // settings.count)
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed)
            batches = [self._batch(prompts[at : at + size], settings) for at in range(0, len(prompts), size)]
        return [texts for batch in batches for texts in batch]

    def close(self) -> None:
        """See `TextSampler.close`."""
        self._adapted = None
        del self._model

    def _encode(self, opening: Opening) -> list[int]:
        ids = self._tokenizer.encode(opening.prompt) + self._tokenizer.encode(opening.written)
        if len(ids) >= self._context:
            raise ContextError(
                f"A prompt of {len(ids):,} tokens fills the model's context of {self._context:,}.",
                "Leave long questions out of the data.",
            )
        return ids

    @torch.no_grad()
    def _batch(self, prompts: Sequence[list[int]], settings: SamplingSettings) -> list[list[SampledText]]:
        longest = max(len(prompt) for prompt in prompts)
        # Filled up on the left, so that all texts begin at the same place.
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=self._device)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        how = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        end = sorted(self._stop_ids)
        written = (self._adapted or self._model).generate(
            input_ids=ids,
            attention_mask=mask.to(self._device),
            max_new_tokens=min(settings.max_new_tokens, self._context - longest),
            num_return_sequences=settings.count,
            eos_token_id=end,
            pad_token_id=end[0],
            **(how if settings.temperature else {"do_sample": False}),
        )[:, longest:]
        texts = [self._text(row) for row in written.tolist()]
        return [texts[at : at + settings.count] for at in range(0, len(texts), settings.count)]

    def _text(self, ids: list[int]) -> SampledText:
        end = next((at for at, token in enumerate(ids) if token in self._stop_ids), None)
        return SampledText(self._tokenizer.decode(ids[:end]), ended=end is not None)
